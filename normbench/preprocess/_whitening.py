"""What pca and zca share: the directions in which the training images vary, and how much."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from normbench.preprocess import Preprocess

LARGEST = 8192  # numbers of an image: the fit of so many takes minutes and some GB
EXACT = 1024  # images whose products of centred pixels, 128^2 at most, float32 sums up to 2^24 without rounding


class Whitening(Preprocess):
    """y = R (pixels - mean), with a matrix R that a subclass makes from the covariance.

    The covariance is found without rounding, and its eigenvectors in float64 by one thread of the CPU: they depend
    neither on `threads` nor on the device. On another kind of processor the last bits may differ.

    Args:
        eps: added to each variance, in units of x^2, x = pixels / 255; > 0.

    Raises:
        ValueError: eps not a number > 0; images of more than LARGEST numbers.
    """

    once, version, mixes_pixels = True, 1, True
    mean: Tensor  # (D,) of the pixels, D = C H W
    rotation: Tensor  # (K, D), for pixels

    def __init__(self, eps: float):
        super().__init__()
        if not (eps > 0 and math.isfinite(eps)):
            raise ValueError(f"eps must be a number > 0, got {eps}; try preprocess.eps=0.1")
        self.eps = eps
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("rotation", torch.empty(0))

    def fit(self, images: Tensor) -> None:
        size = images[0].numel()
        if size > LARGEST:
            raise ValueError(
                f"images must have at most {LARGEST:,} numbers, for the covariance of all pairs of them; these have "
                f"{size:,}; try smaller images or preprocess=standardize"
            )
        mean, variances, directions = principal(images)
        self.mean = mean.float()
        self.rotation = (self.rotated(variances, directions) / 255).float()

    def rotated(self, variances: Tensor, directions: Tensor) -> Tensor:
        """R for x = pixels / 255, float64 (K, D)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - self.mean) @ self.rotation.T


def principal(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of the pixels (D,), and the variances of x = pixels / 255 (D,), falling, along directions (D, D).

    All float64 on the CPU. A direction is a column, an eigenvector of the covariance (biased, 1/N), with the sign
    that makes its largest entry positive: the first of those that equal it within a millionth.
    """
    flat = images.flatten(1)
    count, size = flat.shape
    total = torch.zeros(size, dtype=torch.float64, device=images.device)
    products = torch.zeros(size, size, dtype=torch.float64, device=images.device)
    for chunk in flat.split(EXACT):
        x = chunk.float() - 128  # any shift has the same covariance; this one keeps the sums small
        total += x.sum(0)
        products += x.T @ x
    total, products = total.cpu(), products.cpu()
    # whole numbers, below 2^53 for up to 700,000 images: nothing is rounded before the division
    covariance = (count * products - total.outer(total)) / (count * 255) ** 2
    with _one_thread():
        variances, directions = torch.linalg.eigh(covariance)
    variances, directions = variances.flip(0).clamp_min(0), directions.flip(1)
    sizes = directions.abs()
    first = (sizes >= (1 - 1e-6) * sizes.amax(0)).int().argmax(0)  # argmax: the first of the equal ones
    return (128 * count + total) / count, variances, directions * directions.gather(0, first[None]).sign()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
