"""Group normalization."""

from torch import nn

from normbench.norm import Norm, check_divides, check_eps, check_groups

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
        check_eps(eps)
        self.num_groups, self.eps, self.affine = num_groups, eps, affine

    def layer(self, num_features: int) -> nn.Module:
        check_divides("num_groups", self.num_groups, num_features)
        return nn.GroupNorm(self.num_groups, num_features, eps=self.eps, affine=self.affine)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        check_groups(self.num_groups, shape)
