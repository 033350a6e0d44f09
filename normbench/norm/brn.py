"""Batch renormalization."""

import torch
from torch import Tensor, nn

from normbench.norm import Norm, check_batch, check_eps, check_momentum

__all__ = ["BatchRenorm"]


class BatchRenorm(Norm):
    """Batch normalization whose training output is corrected towards what evaluation will do.

    y = ((x - mu_B) / sigma_B * r + d) * weight + bias, with r = clip(sigma_B / sigma, 1/r_max, r_max) and
    d = clip((mu_B - mu) / sigma, -d_max, d_max), both outside the gradient; mu_B and sigma_B = sqrt(var_B + eps) are
    the batch's (biased variance), mu and sigma running averages: new = (1 - momentum) old + momentum batch.
    Evaluation: (x - mu) / sigma * weight + bias. While r_max = 1 and d_max = 0 training is batch normalization.

    Args:
        eps: added to the batch's variance, so in units of x**2; > 0.
        momentum: share of the new batch in the running averages, in (0, 1].
        r_max: bound of r after the ramp, >= 1.
        d_max: bound of d after the ramp, >= 0.
        ramp_steps: training steps over which the bounds go linearly from (1, 0) to (r_max, d_max); 0: at once.
        affine: learn weight and bias, one per channel.

    Shape:
        (N, C) or (N, C, H, W), kept. Half types are normalized with float32 statistics.

    Raises:
        ValueError: a number out of range.
        Impossible: one value per channel and batch.

    Source:
        Ioffe 2017, arXiv 1702.03275, algorithm 1. Differences: the paper runs 5,000 steps of plain batch
        normalization and then ramps to r_max = 3 at 40,000 and d_max = 5 at 25,000 steps; one ramp, short
        enough for short runs, stands for both.
    """

    bias_is_redundant = True

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float = 0.1,
        r_max: float = 3.0,
        d_max: float = 5.0,
        ramp_steps: int = 500,
        affine: bool = True,
    ):
        check_eps(eps)
        check_momentum(momentum)
        if not (r_max >= 1 and d_max >= 0):
            raise ValueError(
                f"r_max must be >= 1 and d_max >= 0, got {r_max} and {d_max}; try norm.r_max=3 norm.d_max=5"
            )
        if ramp_steps < 0:
            raise ValueError(f"ramp_steps must be a whole number >= 0, got {ramp_steps}; try norm.ramp_steps=500")
        self.settings = {"eps": eps, "momentum": momentum, "r_max": r_max, "d_max": d_max, "ramp_steps": ramp_steps}
        self.affine = affine

    def layer(self, num_features: int) -> nn.Module:
        return _Layer(num_features, self.affine, **self.settings)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        check_batch("brn", shape, batch_size)


class _Layer(nn.Module):
    running_mean: Tensor
    running_sigma: Tensor
    num_batches_tracked: Tensor
    correction = True  # false: r = 1 and d = 0, while normbench/evaluate.py gathers population statistics

    def __init__(self, num_features: int, affine: bool, *, eps, momentum, r_max, d_max, ramp_steps):
        super().__init__()
        self.eps, self.momentum, self.r_max, self.d_max, self.ramp_steps = eps, momentum, r_max, d_max, ramp_steps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_sigma", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        per_channel = (1, -1, *[1] * (x.dim() - 2))
        mean, sigma = self.running_mean.to(dtype), self.running_sigma.to(dtype)
        if self.training:
            variance, mean_batch = torch.var_mean(x.to(dtype), (0, *range(2, x.dim())), correction=0)
            sigma_batch = (variance + self.eps).sqrt()
            r, d = self._correction(mean_batch.detach(), sigma_batch.detach())
            # (x - mu_B) / sigma_B r + d, as one scale and one shift
            scale, shift = r / sigma_batch, d - mean_batch * r / sigma_batch
        else:
            scale, shift = 1 / sigma, -mean / sigma
        if self.weight is not None and self.bias is not None:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return (x * scale.view(per_channel) + shift.view(per_channel)).to(x.dtype)

    @torch.no_grad()
    def _correction(self, mean: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The factors r and d for this batch; then the running averages take the batch in."""
        steps = self.num_batches_tracked.to(sigma.dtype)
        ramp = (steps / self.ramp_steps).clamp(max=1) if self.ramp_steps else torch.ones_like(steps)
        ramp = ramp if self.correction else torch.zeros_like(ramp)
        r_max, d_max = 1 + (self.r_max - 1) * ramp, self.d_max * ramp
        r = (sigma / self.running_sigma).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / self.running_sigma).clamp(-d_max, d_max)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_sigma.lerp_(sigma.to(self.running_sigma.dtype), self.momentum)
        self.num_batches_tracked += 1
        return r, d
