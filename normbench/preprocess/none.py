"""Pixels as they are."""

from torch import Tensor

from normbench.preprocess import Preprocess

__all__ = ["NoPreprocess"]


class NoPreprocess(Preprocess):
    """x, from 0 to 255: what a network meets that nobody scaled. Shape: uint8 (N, C, H, W) -> float32, kept."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float()
