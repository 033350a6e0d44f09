"""Weight standardization."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.norm import Norm, check_divides, check_eps, check_groups

__all__ = ["WeightStandardization"]


class WeightStandardization(Norm):
    """Each output unit's weight with mean 0 and variance 1 over its inputs; activations group-normalized after it.

    w = (v - mean(v)) / sqrt(var(v) + eps), mean and biased var over the fan-in of each unit, inside the gradient.

    Args:
        num_groups: groups of the group normalization after the layer; must divide its channels. 0: none.
        eps: added to the weight's variance, so in units of weight**2; > 0.

    Shape:
        linear and convolutional layers; activations (N, C) or (N, C, H, W), kept.

    Raises:
        ValueError: num_groups < 0, or eps not a number > 0.
        Impossible: num_groups does not divide C, or a group would hold a single value.

    Source:
        Qiao, Wang, Liu, Shen & Yuille 2019, arXiv 1903.10520, eq. 7 to 9. Differences: none.
    """

    def __init__(self, num_groups: int = 8, eps: float = 1e-8):
        if num_groups < 0:
            raise ValueError(f"num_groups must be a whole number >= 0, got {num_groups}; try norm.num_groups=8")
        check_eps(eps, "1e-8")
        self.num_groups, self.eps = num_groups, eps

    def reparametrize(self, layer: nn.Module) -> nn.Module:
        parametrize.register_parametrization(layer, "weight", _Standardized(self.eps))
        return layer

    def layer(self, num_features: int) -> nn.Module:
        if self.num_groups == 0:
            return nn.Identity()
        check_divides("num_groups", self.num_groups, num_features)
        return nn.GroupNorm(self.num_groups, num_features)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        if self.num_groups:
            check_groups(self.num_groups, shape)


class _Standardized(nn.Module):
    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        dtype = torch.promote_types(weight.dtype, torch.float32)
        variance, mean = torch.var_mean(weight.to(dtype).flatten(1), 1, correction=0)
        per_unit = (-1, *[1] * (weight.dim() - 1))
        return ((weight - mean.view(per_unit)) * (variance + self.eps).rsqrt().view(per_unit)).to(weight.dtype)
