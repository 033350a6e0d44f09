"""Instance normalization."""

import math

from torch import nn

from normbench.norm import Impossible, Norm, check_eps

__all__ = ["InstanceNorm"]


class InstanceNorm(Norm):
    """Instance normalization: standardize every channel of every sample over its positions.

    y = (x - mean) / sqrt(var + eps) * weight + bias; mean and biased var over the positions of each sample and
    channel. There are no running statistics: evaluation does what training does.

    Args:
        eps: added to var, so in units of x**2; > 0.
        affine: learn weight and bias, one per channel.

    Shape:
        (N, C, H, W) with at least two positions, kept.

    Raises:
        ValueError: eps is not a number > 0.
        Impossible: activations with one position, (N, C) or (N, C, 1, 1).

    Source:
        Ulyanov, Vedaldi & Lempitsky 2016, arXiv 1607.08022, eq. 4. Differences: none.
    """

    bias_is_redundant = True

    def __init__(self, eps: float = 1e-5, affine: bool = True):
        check_eps(eps)
        self.eps, self.affine = eps, affine

    def layer(self, num_features: int) -> nn.Module:
        return nn.GroupNorm(num_features, num_features, eps=self.eps, affine=self.affine)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        if math.prod(shape[1:]) < 2:
            raise Impossible(
                f"norm=in needs at least 2 positions a channel, activations {shape} have 1; "
                "try norm=ln, or larger images with convolutions (model=cnn: model.norm_full=false)"
            )
