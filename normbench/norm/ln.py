"""Layer normalization."""

import torch.nn.functional as F
from torch import Tensor, nn

from normbench.norm import Norm, check_eps

__all__ = ["LayerNorm"]


class LayerNorm(Norm):
    """Layer normalization: standardize every sample over its channels and positions.

    y = (x - mean) / sqrt(var + eps) * weight + bias; mean and biased var over C and the positions of each sample,
    weight and bias one per channel. It is group normalization with one group; on (N, C) it is torch's LayerNorm(C).

    Args:
        eps: added to var, so in units of x**2; > 0.
        affine: learn weight and bias.

    Shape:
        (N, C) or (N, C, H, W), kept.

    Raises:
        ValueError: eps is not a number > 0.

    Source:
        Ba, Kiros & Hinton 2016, arXiv 1607.06450, eq. 3 and 4. Differences: none on (N, C); on pictures the paper
        gives weight and bias no shape, here they are per channel.
    """

    def __init__(self, eps: float = 1e-5, affine: bool = True):
        check_eps(eps)
        self.eps, self.affine = eps, affine

    def layer(self, num_features: int) -> nn.Module:
        return _Layer(1, num_features, eps=self.eps, affine=self.affine)


class _Layer(nn.GroupNorm):
    """One group; on (N, C) by torch's faster kernel for layer normalization."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 2:
            return F.layer_norm(input, input.shape[1:], self.weight, self.bias, self.eps)
        return super().forward(input)
