"""Pixels to [0, 1]."""

from torch import Tensor

from normbench.preprocess import Preprocess

__all__ = ["Scale"]


class Scale(Preprocess):
    """x / 255. Shape: uint8 (N, C, H, W) -> float32, kept."""

    def forward(self, images: Tensor) -> Tensor:
        return images * (1 / 255)  # one kernel converts and scales
