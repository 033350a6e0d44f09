"""Group normalization."""

import math

from torch import nn

from normbench.norm import Impossible, Norm

__all__ = ["GroupNorm"]


class GroupNorm(Norm):
    """Group normalization: standardize every sample over groups of channels and the positions.

    y = (x - mean) / sqrt(var + eps) * weight + bias; mean and biased var over the C/G channels of a group and the
    positions of each sample. One group is layer normalization, one channel a group is instance normalization.

    Args:
        num_groups: G; must divide the number of channels of every layer.
        eps: added to var, so in units of x**2; > 0.
        affine: learn weight and bias, one per channel.

    Shape:
        (N, C) or (N, C, H, W), kept.

    Raises:
        ValueError: num_groups is not a whole number >= 1, or eps not a number > 0.
        Impossible: num_groups does not divide C, or a group would hold a single value.

    Source:
        Wu & He 2018, arXiv 1803.08494, eq. 7; the paper's G is 32. Differences: none.
    """

    def __init__(self, num_groups: int = 8, eps: float = 1e-5, affine: bool = True):
        if num_groups < 1:
            raise ValueError(f"num_groups must be a whole number >= 1, got {num_groups}; try norm.num_groups=8")
        if not (eps > 0 and math.isfinite(eps)):
            raise ValueError(f"eps must be a number > 0, got {eps}; try norm.eps=1e-5")
        self.num_groups, self.eps, self.affine = num_groups, eps, affine

    def layer(self, num_features: int) -> nn.Module:
        if num_features % self.num_groups:
            fits = math.gcd(self.num_groups, num_features)  # and divides every layer that num_groups divides
            raise Impossible(
                f"norm.num_groups={self.num_groups} must divide the {num_features} channels of a layer; "
                f"try norm.num_groups={fits}"
            )
        return nn.GroupNorm(self.num_groups, num_features, eps=self.eps, affine=self.affine)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        if math.prod(shape) // self.num_groups < 2:
            raise Impossible(
                f"norm.num_groups={self.num_groups} on activations {shape} leaves one value a group, whose variance is "
                f"0; try norm.num_groups={max(1, self.num_groups // 2)}"
            )
