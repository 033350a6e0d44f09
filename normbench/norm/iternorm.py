"""Iterative normalization: whitening of groups of channels."""

import torch
from torch import Tensor, nn

from normbench.norm import Norm, check_batch, check_divides, check_eps, check_momentum

__all__ = ["IterNorm"]


class IterNorm(Norm):
    """Whiten groups of channels over the batch and the positions, by Newton's iteration.

    For each group of d channels: Sigma = cov(x) + eps I; Sigma_N = Sigma / tr(Sigma); P_0 = I,
    P_k = (3 P_{k-1} - P_{k-1}^3 Sigma_N) / 2; y = P_T (x - mean) / sqrt(tr(Sigma)) * weight + bias. As T grows,
    P_T / sqrt(tr) goes to Sigma^(-1/2). Evaluation uses running averages of mean and whitening matrix.

    Args:
        group_size: d, channels whitened together; must divide the channels of every layer. d = 1 is batch
            normalization up to what T leaves.
        iterations: T, >= 1. T = 5 leaves a visible error where the covariance is ill-conditioned, as in the paper.
        eps: added to the diagonal, so in units of x**2; > 0.
        momentum: share of the new batch in the running averages, in (0, 1].
        affine: learn weight and bias, one per channel.

    Shape:
        (N, C) or (N, C, H, W), kept. The matrices are float32 for half types.

    Raises:
        ValueError: a number out of range.
        Impossible: group_size does not divide C, or one value per channel and batch.

    Source:
        Huang, Zhou, Zhu, Liu & Shao 2019, arXiv 1904.03441, algorithm 1. Differences: none.
    """

    bias_is_redundant = True

    def __init__(
        self,
        group_size: int = 8,
        iterations: int = 5,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ):
        if group_size < 1:
            raise ValueError(f"group_size must be a whole number >= 1, got {group_size}; try norm.group_size=8")
        if iterations < 1:
            raise ValueError(f"iterations must be a whole number >= 1, got {iterations}; try norm.iterations=5")
        check_eps(eps)
        check_momentum(momentum)
        self.group_size, self.iterations, self.eps = group_size, iterations, eps
        self.momentum, self.affine = momentum, affine

    def layer(self, num_features: int) -> nn.Module:
        check_divides("group_size", self.group_size, num_features)
        return _Layer(num_features, self.group_size, self.iterations, self.eps, self.momentum, self.affine)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        check_batch("iternorm", shape, batch_size)


class _Layer(nn.Module):
    running_mean: Tensor
    running_whitening: Tensor

    def __init__(self, num_features: int, group_size: int, iterations: int, eps: float, momentum: float, affine: bool):
        super().__init__()
        self.groups = num_features // group_size
        self.iterations, self.eps, self.momentum = iterations, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(self.groups, group_size, 1))
        self.register_buffer("running_whitening", torch.eye(group_size).repeat(self.groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        rows = x.to(dtype).transpose(0, 1).reshape(self.groups, -1, x.numel() // x.shape[1])  # (groups, d, values)
        with torch.autocast(x.device.type, enabled=False):  # it would round the matrix products to a half type
            y = self._whitened(rows).reshape(x.transpose(0, 1).shape).transpose(0, 1)
        if self.weight is not None and self.bias is not None:
            per_channel = (1, -1, *[1] * (x.dim() - 2))
            y = y * self.weight.view(per_channel) + self.bias.view(per_channel)
        return y.to(x.dtype)

    def _whitened(self, rows: Tensor) -> Tensor:
        if self.training:
            mean = rows.mean(2, keepdim=True)
            whitening = self._whitening(rows - mean)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_whitening.lerp_(whitening.to(self.running_whitening.dtype), self.momentum)
        else:
            mean, whitening = self.running_mean.to(rows.dtype), self.running_whitening.to(rows.dtype)
        return whitening @ (rows - mean)

    def _whitening(self, centred: Tensor) -> Tensor:
        """P_T / sqrt(tr(Sigma)), (groups, d, d)."""
        identity = torch.eye(centred.shape[1], dtype=centred.dtype, device=centred.device)
        sigma = centred @ centred.transpose(1, 2) / centred.shape[2] + self.eps * identity
        trace = sigma.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        p = identity.expand_as(sigma)
        for _ in range(self.iterations):
            p = 1.5 * p - 0.5 * (p @ p @ p @ (sigma / trace))
        return p * trace.rsqrt()
