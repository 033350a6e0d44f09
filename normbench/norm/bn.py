"""Batch normalization."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normbench.norm import Norm, check_batch, check_eps, check_momentum

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
        check_eps(eps)
        check_momentum(momentum)
        self.eps, self.momentum, self.affine = eps, momentum, affine

    def layer(self, num_features: int) -> nn.Module:
        return _Layer(num_features, eps=self.eps, momentum=self.momentum, affine=self.affine)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        check_batch("bn", shape, batch_size)


class _Layer(_BatchNorm):
    """torch's batch normalization, for any number of positions."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch normalization needs (N, C, ...), got shape {tuple(input.shape)}")
