"""Pixels to [0, 1]."""

import torch
from torch import Tensor

from normbench.preprocess import Preprocess

__all__ = ["Scale"]


class Scale(Preprocess):
    """x / 255. Shape: uint8 (N, C, H, W) -> float32, kept."""

    def forward(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, copy=True).mul_(1 / 255)  # images * (1 / 255) takes half as long again
