"""Batch normalization."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normbench.norm import Impossible, Norm, check_batch, check_eps, check_momentum

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
        ghost_size: take mean and var over parts of so many samples instead of the whole batch, which they must
            divide; the running averages take in the mean over the parts. 0: the whole batch.
        detach_statistics: keep mean and var out of the gradient, as if they were constants.

    Shape:
        (N, C) or (N, C, H, W), kept. Half types are normalized with float32 statistics.

    Raises:
        ValueError: eps or momentum out of range, or ghost_size < 0.
        Impossible: one value per channel and batch (or part), whose variance is zero; ghost_size does not divide
            the batch.

    Source:
        Ioffe & Szegedy 2015, arXiv 1502.03167, algorithms 1 and 2. Differences: torch's running averages; the
        paper's separate pass over the training set is eval.statistics=[population]. Parts: Hoffer, Hubara & Soudry
        2017, arXiv 1705.08741, algorithm 1. Detached statistics: the failing variant of the paper's section 2.
    """

    bias_is_redundant = True

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        ghost_size: int = 0,
        detach_statistics: bool = False,
    ):
        check_eps(eps)
        check_momentum(momentum)
        if ghost_size < 0:
            raise ValueError(f"ghost_size must be a whole number >= 0, got {ghost_size}; try norm.ghost_size=16")
        self.settings = {"eps": eps, "momentum": momentum, "affine": affine}
        self.ghost_size, self.detach_statistics = ghost_size, detach_statistics

    def layer(self, num_features: int) -> nn.Module:
        if self.ghost_size or self.detach_statistics:
            return _InParts(num_features, self.ghost_size, self.detach_statistics, **self.settings)
        return _Layer(num_features, **self.settings)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        if self.ghost_size and batch_size % self.ghost_size:
            raise Impossible(
                f"norm.ghost_size={self.ghost_size} must divide the batch of {batch_size}; "
                f"try norm.ghost_size={math.gcd(self.ghost_size, batch_size)}"
            )
        check_batch("bn", shape, self.ghost_size or batch_size)


class _Layer(_BatchNorm):
    """torch's batch normalization, for any number of positions."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch normalization needs (N, C, ...), got shape {tuple(input.shape)}")


class _InParts(_Layer):
    """Every part of the batch by its own statistics, which may be constants to the gradient."""

    def __init__(self, num_features: int, ghost_size: int, detach_statistics: bool, **settings):
        super().__init__(num_features, **settings)
        self.ghost_size, self.detach_statistics = ghost_size, detach_statistics

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        # a batch that is no multiple (evaluated with batch statistics) is cut into as many parts, nearly equal
        parts = input.tensor_split(max(1, len(input) // self.ghost_size)) if self.ghost_size else [input]
        outputs, means, variances = zip(*map(self._by_its_own, parts), strict=True)
        with torch.no_grad():
            self.running_mean.lerp_(torch.stack(means).mean(0), self.momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(torch.stack(variances).mean(0), self.momentum)  # type: ignore[union-attr]
            self.num_batches_tracked += 1  # type: ignore[operator]
        return torch.cat(outputs)

    def _by_its_own(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The part standardized, its mean and its unbiased variance."""
        if self.detach_statistics:
            dims, dtype = (0, *range(2, x.dim())), self.running_mean.dtype  # type: ignore[union-attr]
            variance, mean = torch.var_mean(x.detach().to(dtype), dims, correction=0)
            y = F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
            m = x.numel() // x.shape[1]
            return y, mean, variance * (m / (m - 1))
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)  # type: ignore[arg-type]
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)  # fills mean and variance
        return y, mean, variance
