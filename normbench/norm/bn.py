"""Batch normalization."""

import math

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normbench.norm import Impossible, Norm

__all__ = ["BatchNorm"]


class BatchNorm(Norm):
    """Batch normalization: standardize every channel over the batch and the positions.

    y = (x - mean) / sqrt(var + eps) * weight + bias; mean and biased var over N and the positions of each
    channel. Running averages for evaluation: new = (1 - momentum) old + momentum batch, of the mean and of the
    unbiased variance.

    Args:
        eps: added to var, so in units of x**2; > 0.
        momentum: share of the new batch in the running averages, in (0, 1] (torch's sense; many papers and
            Keras call 1 minus this the momentum).
        affine: learn weight and bias.

    Shape:
        (N, C) or (N, C, H, W), kept. Half types are normalized with float32 statistics.

    Raises:
        ValueError: eps or momentum out of range.
        Impossible: one value per channel and batch: its variance is zero.

    Source:
        Ioffe & Szegedy 2015, arXiv 1502.03167, algorithms 1 and 2. Differences: torch's running averages
        instead of a separate pass over the training set.
    """

    bias_is_redundant = True

    def __init__(self, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        if not (eps > 0 and math.isfinite(eps)):
            raise ValueError(f"eps must be a number > 0, got {eps}; try norm.eps=1e-5")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be in (0, 1], got {momentum}; try norm.momentum=0.1")
        self.eps, self.momentum, self.affine = eps, momentum, affine

    def layer(self, num_features: int) -> nn.Module:
        return _Layer(num_features, eps=self.eps, momentum=self.momentum, affine=self.affine)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        if batch_size * math.prod(shape[1:]) < 2:
            raise Impossible(
                f"norm=bn needs at least 2 values per channel and batch, batch_size={batch_size} on activations "
                f"{shape} gives 1; try batch_size=2 or more"
            )


class _Layer(_BatchNorm):
    """torch's batch normalization, for any number of positions."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch normalization needs (N, C, ...), got shape {tuple(input.shape)}")
