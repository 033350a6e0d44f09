"""The contract of a preprocessing: an `nn.Module` that makes floats for the network from uint8 images.

`fit(images)` is called once with the training split's uint8 images (N, C, H, W); what it measures lies in buffers,
so that it travels with the checkpoint. `forward` maps a uint8 batch (N, C, H, W) to float32, batch by batch.
"""

import torch
from torch import Tensor, nn


class Preprocess(nn.Module):
    """Base class; nothing to fit."""

    once = False  # dear to apply: where images stay as they are, each is transformed once and its floats are kept
    version: int | None = None  # dear to fit: fits are kept in the user's cache; raised when fit measures otherwise
    mixes_pixels = False  # a number for the network depends on several pixels: images with padding can't have that

    def fit(self, images: Tensor) -> None:
        """Measure what is needed on the training split's images, uint8 (N, C, H, W)."""


class Masked(Preprocess):
    """A preprocessing for images whose last channel is a mask (normbench.dataset.Data): padding never enters it.

    It is fitted on the rows that are there alone, and padding leaves as NaN. Shape: uint8 (N, C + 1, H, W), whole
    rows masked -> float32 (N, C, H, W). A setting for each pixel is one for each column: rows are a sequence.
    """

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def fit(self, images: Tensor) -> None:
        rows = images.movedim(1, 2).flatten(0, 1)  # (N H, C + 1, W)
        there = rows[:, -1, 0] != 0
        self.inner.fit(rows[there, :-1, None])  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images[:, :-1]).masked_fill_(images[:, -1:] == 0, torch.nan)
