"""The contract of an augmentation: how training images are changed at random, batch by batch.

Its random numbers are drawn on the CPU for a whole epoch at once, from (seed, epoch): the same on every device, and
the same after a resume. Evaluation never sees it.
"""

import torch
from torch import Tensor


class Augment:
    """Base class; it changes nothing."""

    keeps_rows = True  # a channel of whole rows, black or white, stays so: where images have padding it is their mask

    def draw(self, generator: torch.Generator, count: int) -> Tensor | None:
        """Random numbers for an epoch of `count` images: (count, ...) on the CPU, or None if nothing is drawn."""
        return None

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """The batch, changed: uint8 (N, C, H, W) and its draws (N, ...) -> uint8 (N, C, H, W)."""
        return images
