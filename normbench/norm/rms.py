"""Root-mean-square normalization."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normbench.norm import Norm, check_eps

__all__ = ["RMSNorm"]


class RMSNorm(Norm):
    """Divide every sample by the root of its mean square; nothing is subtracted.

    y = x / sqrt(mean(x^2) + eps) * weight; the mean over C and the positions of each sample, weight one per channel.

    Args:
        eps: added to the mean square, so in units of x**2; > 0.
        affine: learn weight.

    Shape:
        (N, C) or (N, C, H, W), kept. Half types are normalized in float32.

    Raises:
        ValueError: eps is not a number > 0.

    Source:
        Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4. Differences: eps, which the paper leaves out; on pictures the
        mean is over the positions, too.
    """

    def __init__(self, eps: float = 1e-6, affine: bool = True):
        check_eps(eps, "1e-6")
        self.eps, self.affine = eps, affine

    def layer(self, num_features: int) -> nn.Module:
        return _Layer(num_features, self.eps, self.affine)


class _Layer(nn.Module):
    def __init__(self, num_features: int, eps: float, affine: bool):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        if x.dim() == 2 and x.dtype is dtype:
            return F.rms_norm(x, x.shape[1:], self.weight, self.eps)
        if x.dim() == 2:  # the kernel wants x and weight of one type
            weight = None if self.weight is None else self.weight.to(dtype)
            return F.rms_norm(x.to(dtype), x.shape[1:], weight, self.eps).to(x.dtype)
        square = x.to(dtype).square().mean(tuple(range(1, x.dim())), keepdim=True)
        y = x * (square + self.eps).rsqrt()
        if self.weight is not None:
            y = y * self.weight.view(1, -1, *[1] * (x.dim() - 2))
        return y.to(x.dtype)
