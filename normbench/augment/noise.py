"""Gaussian noise on every pixel."""

import torch
from torch import Tensor

from normbench.augment import Augment

__all__ = ["Noise"]

LEVELS = 2**16  # values of the noise before it is rounded to whole pixels
WORD = 2**32 - 1
ROUNDS = (17, 0xED5AD4BB - 2**32), (11, 0xAC4C1B51 - 2**32), (15, 0x31848BAB)  # factors within +-2^31: no overflow


class Noise(Augment):
    """x + round(255 std z), cut off at 0 and 255, with z standard normal, another one for every channel and pixel.

    z is one of 65,536 quantiles of the normal distribution, so that it ends at 4.3 deviations. Which one, 16 bits of a
    hash of the image's two seeds and the pixel's number say: whole numbers, the same on every device. Rounding adds
    a variance of 1/12 of a pixel's step squared. On black or white ground half of the noise is cut off.

    Args:
        std: standard deviation, a share of the range of a pixel; 0.002 .. 1. Less would be rounded away.

    Shape:
        uint8 (N, C, H, W), kept. Each image has its own draw: two seeds of 32 bits.

    Raises:
        ValueError: std out of range.

    Source:
        Bishop 1995, "Training with noise is equivalent to Tikhonov regularization". The hash is Wellons' triple32
        (nullprogram.com/blog/2018/07/31) of seed + number, with the second seed added after its first round.
    """

    keeps_rows = False

    def __init__(self, std: float = 0.1):
        if not 0.002 <= std <= 1:
            raise ValueError(f"std must be from 0.002 (half a pixel's step) to 1, got {std}; try augment.std=0.1")
        shares = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
        self.quantiles = (255 * std * torch.special.ndtri(shares)).round().short()

    def draw(self, generator: torch.Generator, count: int) -> Tensor:
        return torch.randint(2**32, (count, 2), generator=generator)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        self.quantiles = self.quantiles.to(images.device)
        count = images[0].numel()
        bits = _hash(draws, -(-count // 2))
        halves = torch.cat([bits & 0xFFFF, bits >> 16], 1)[:, :count]
        noise = self.quantiles.index_select(0, halves.flatten()).view(images.shape)
        return noise.add_(images).clamp_(0, 255).byte()


def _hash(seeds: Tensor, count: int) -> Tensor:
    """32 random bits for each of 0 .. count - 1 and each pair of seeds: (N, 2) -> (N, count), all int64."""
    x = torch.arange(count, device=seeds.device) + seeds[:, :1]
    x &= WORD
    for number, (shift, factor) in enumerate(ROUNDS):
        x ^= x >> shift
        x *= factor
        if number == 0:
            x += seeds[:, 1:]
        x &= WORD
    x ^= x >> 14
    return x
