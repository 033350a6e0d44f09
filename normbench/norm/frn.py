"""Filter response normalization."""

import math

import torch
from torch import Tensor, nn

from normbench.norm import Impossible, Norm, check_eps

__all__ = ["FilterResponseNorm"]


class FilterResponseNorm(Norm):
    """Divide every channel of every sample by its root mean square over the positions, then a thresholded linear unit.

    y = max(x / sqrt(mean(x^2) + |eps|) * weight + bias, tau); weight, bias and tau one per channel and learned. The
    layer ends in its own nonlinearity and takes the activation's place.

    Args:
        eps: added to the mean square, so in units of x**2; > 0; it is not learned.

    Shape:
        (N, C, H, W) with at least two positions, kept.

    Raises:
        ValueError: eps is not a number > 0.
        Impossible: activations with one position, where x / |x| is only a sign.

    Source:
        Singh & Krishnan 2020, arXiv 1911.09737, eq. 1 to 4. Differences: the paper learns eps where there is one
        position; here that is refused.
    """

    replaces_activation = True

    def __init__(self, eps: float = 1e-6):
        check_eps(eps, "1e-6")
        self.eps = eps

    def layer(self, num_features: int) -> nn.Module:
        return _Layer(num_features, self.eps)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        if math.prod(shape[1:]) < 2:
            raise Impossible(
                f"norm=frn needs at least 2 positions a channel, activations {shape} have 1; "
                "try norm=rms, or larger images with convolutions (model=cnn: model.norm_full=false)"
            )


class _Layer(nn.Module):
    def __init__(self, num_features: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features, 1, 1))
        self.bias = nn.Parameter(torch.zeros(num_features, 1, 1))
        self.threshold = nn.Parameter(torch.zeros(num_features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        square = x.to(dtype).square().mean((2, 3), keepdim=True)
        y = x * (square + self.eps).rsqrt() * self.weight + self.bias
        return torch.maximum(y, self.threshold).to(x.dtype)
