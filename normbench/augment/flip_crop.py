"""Random shifts and mirror images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from normbench.augment import Augment

__all__ = ["FlipCrop"]


class FlipCrop(Augment):
    """Each image padded with black, cut out at a random place, and mirrored left to right with probability 1/2.

    Args:
        padding: pixels on every side before cutting, so the largest shift; >= 0.
        flip: mirror half of the images.

    Shape:
        uint8 (N, C, H, W), kept. Each image has its own draw: row and column of the cut, uniform on
        0 .. 2 padding, and whether it is mirrored.

    Raises:
        ValueError: padding < 0, or neither shift nor flip.

    Source:
        He, Zhang, Ren & Sun 2015, arXiv 1512.03385, section 4.2 (padding 4 on CIFAR-10).
    """

    def __init__(self, padding: int = 4, flip: bool = True):
        if padding < 0:
            raise ValueError(f"padding must be a whole number >= 0, got {padding}; try augment.padding=4")
        if padding == 0 and not flip:
            raise ValueError("padding=0 and flip=false change nothing; try augment=none")
        self.padding, self.flip = padding, flip
        self.keeps_rows = padding == 0

    def draw(self, generator: torch.Generator, count: int) -> Tensor:
        shifts = torch.randint(2 * self.padding + 1, (count, 2), generator=generator)
        mirrored = torch.randint(2, (count, 1), generator=generator)
        return torch.cat([shifts, mirrored * self.flip], 1)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        n, channels, height, width = images.shape
        if self.padding > max(height, width):
            raise ValueError(
                f"padding must be at most {max(height, width)}, the side of the images, got {self.padding}"
            )
        row, column, mirrored = draws[:, :, None].unbind(1)  # (N, 1) each
        x = torch.arange(width, device=images.device)
        rows = row + torch.arange(height, device=images.device)
        columns = column + torch.where(mirrored == 1, x.flip(0), x)
        places = rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]  # in the padded image
        padded = F.pad(images, (self.padding,) * 4).flatten(2)
        index = places.flatten(1)[:, None].expand(n, channels, -1)
        return padded.gather(2, index).view(images.shape)
