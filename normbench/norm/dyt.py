"""Dynamic tanh: a layer in place of normalization."""

import math

import torch
from torch import Tensor, nn

from normbench.norm import Norm

__all__ = ["DynamicTanh"]


class DynamicTanh(Norm):
    """y = weight * tanh(alpha x) + bias; alpha one learned number a layer. There are no statistics at all.

    Args:
        alpha: where alpha starts; > 0.
        affine: learn weight and bias, one per channel.

    Shape:
        (N, C) or (N, C, H, W), kept.

    Raises:
        ValueError: alpha is not a number > 0.

    Source:
        Zhu et al. 2025, arXiv 2503.10622, eq. 2; alpha starts at 0.5. Differences: none.
    """

    def __init__(self, alpha: float = 0.5, affine: bool = True):
        if not (alpha > 0 and math.isfinite(alpha)):
            raise ValueError(f"alpha must be a number > 0, got {alpha}; try norm.alpha=0.5")
        self.alpha, self.affine = alpha, affine

    def layer(self, num_features: int) -> nn.Module:
        return _Layer(num_features, self.alpha, self.affine)


class _Layer(nn.Module):
    def __init__(self, num_features: int, alpha: float, affine: bool):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), alpha))
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.alpha * x.to(torch.promote_types(x.dtype, torch.float32)))
        if self.weight is not None and self.bias is not None:
            per_channel = (1, -1, *[1] * (x.dim() - 2))
            y = y * self.weight.view(per_channel) + self.bias.view(per_channel)
        return y.to(x.dtype)
