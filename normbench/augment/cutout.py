"""A square painted over."""

import torch
from torch import Tensor

from normbench.augment import Augment

__all__ = ["Cutout"]

BITS = 31  # of a draw: the place is its share of the pixels, rounded down; uniform to one part in 2^31 / pixels


class Cutout(Augment):
    """A square around a random pixel is set to one value in all channels; what of it lies outside is lost.

    Args:
        size: side of the square in pixels; at least 1, at most the longer side of the image. It reaches size // 2
            pixels up and left of its centre.
        fill: the value, 0 (black) .. 255. The paper's is 0 after normalization, the mean of the training images.

    Shape:
        uint8 (N, C, H, W), kept. Each image has its own draw: row and column of the centre, uniform on all pixels.

    Raises:
        ValueError: size or fill out of range, or not whole.

    Source:
        DeVries & Taylor 2017, arXiv 1708.04552 (size 16 on CIFAR-10, 8 on CIFAR-100).
    """

    keeps_rows = False

    def __init__(self, size: int = 8, fill: int = 0):
        if not (_is_whole(size) and size >= 1):
            raise ValueError(f"size must be a whole number >= 1, got {size!r}; try augment.size=8")
        if not (_is_whole(fill) and 0 <= fill <= 255):
            raise ValueError(f"fill must be a whole number from 0 to 255, got {fill!r}; try augment.fill=0")
        self.size, self.fill = size, fill

    def draw(self, generator: torch.Generator, count: int) -> Tensor:
        return torch.randint(2**BITS, (count, 2), generator=generator)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        if self.size > max(images.shape[2:]):
            most = max(images.shape[2:])
            raise ValueError(
                f"size must be at most {most}, the side of the images, got {self.size}; try augment.size=8"
            )
        rows, columns = (self._covered(draws[:, i], length) for i, length in enumerate(images.shape[2:]))
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], self.fill)

    def _covered(self, draws: Tensor, length: int) -> Tensor:
        """Which of the rows (or columns) the squares cover, (N, length)."""
        start = (draws * length >> BITS) - self.size // 2
        behind = torch.arange(length, device=draws.device) - start[:, None]
        return (behind >= 0) & (behind < self.size)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
