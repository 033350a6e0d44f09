"""Switchable normalization."""

import torch
from torch import Tensor, nn

from normbench.norm import Norm, check_batch, check_eps, check_momentum

__all__ = ["SwitchableNorm"]

KINDS = ("in", "ln", "bn")


class SwitchableNorm(Norm):
    """Standardize with learned mixtures of instance, layer and batch statistics.

    y = (x - sum_k w_k mean_k) / sqrt(sum_k v_k var_k + eps) * weight + bias, k in (in, ln, bn); w and v are softmaxes
    of three learned numbers each, shared by the layer, equal at the start. The moments of ln and bn follow from
    those of in: mean_ln = mean_C(mean_in), var_ln = mean_C(var_in) + var_C(mean_in), and so over N for bn.
    On (N, C) there is one position: only ln and bn are mixed.

    Args:
        eps: added to the mixed variance, so in units of x**2; > 0.
        momentum: share of the new batch in bn's running averages, which evaluation uses, in (0, 1].
        affine: learn weight and bias, one per channel.

    Shape:
        (N, C) or (N, C, H, W), kept. Half types are normalized with float32 statistics.

    Raises:
        ValueError: eps or momentum out of range.
        Impossible: one value per channel and batch.

    Source:
        Luo, Ren, Peng, Zhang & Li 2018, arXiv 1806.10779, eq. 3 to 5. Differences: evaluation uses moving averages
        (of the biased variance), where the paper averages over many batches after training.
    """

    def __init__(self, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        check_eps(eps)
        check_momentum(momentum)
        self.eps, self.momentum, self.affine = eps, momentum, affine

    def layer(self, num_features: int) -> nn.Module:
        return _Layer(num_features, self.eps, self.momentum, self.affine)

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        check_batch("sn", shape, batch_size)

    def readings(self, layer: nn.Module) -> dict[str, float]:
        """The mixture: mean_in, mean_ln, mean_bn and var_in, var_ln, var_bn, each three adding up to 1."""
        found = {}
        for moment, logits in (("mean", layer.mean_weight), ("var", layer.var_weight)):
            found |= {f"{moment}_{kind}": value for kind, value in zip(KINDS, logits.softmax(0).tolist(), strict=True)}  # type: ignore[operator]
        return found


class _Layer(nn.Module):
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float, momentum: float, affine: bool):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.mean_weight = nn.Parameter(torch.zeros(3))  # before the softmax; in, ln, bn
        self.var_weight = nn.Parameter(torch.zeros(3))
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        flat = x.to(dtype).flatten(2) if x.dim() > 2 else x.to(dtype)[..., None]  # (N, C, positions)
        if flat.shape[2] > 1:
            var_in, mean_in = torch.var_mean(flat, 2, correction=0)  # (N, C)
        else:  # the value itself; var_mean of one value is slow
            var_in, mean_in = torch.zeros_like(flat[..., 0]), flat[..., 0]
        means, variances = self._moments(mean_in, var_in)
        kinds = slice(0 if flat.shape[2] > 1 else 1, 3)  # without positions there is no instance
        w, v = (t[kinds, None, None].softmax(0, dtype=dtype) for t in (self.mean_weight, self.var_weight))
        mean = (w * torch.stack(means[kinds])).sum(0)  # no matrix product: autocast would round it to a half type
        var = (v * torch.stack(variances[kinds])).sum(0)
        y = (flat - mean[..., None]) * (var[..., None] + self.eps).rsqrt()
        if self.weight is not None and self.bias is not None:
            y = y * self.weight[:, None] + self.bias[:, None]
        return y.view(x.shape).to(x.dtype)

    def _moments(self, mean_in: Tensor, var_in: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Mean and variance of in, ln and bn, each (N, C) by broadcasting."""
        between, mean_ln = torch.var_mean(mean_in, 1, correction=0, keepdim=True)
        var_ln = var_in.mean(1, keepdim=True) + between
        if self.training:
            between, mean_bn = torch.var_mean(mean_in, 0, correction=0, keepdim=True)
            var_bn = var_in.mean(0, keepdim=True) + between
            with torch.no_grad():
                self.running_mean.lerp_(mean_bn[0].to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_(var_bn[0].to(self.running_var.dtype), self.momentum)
        else:
            mean_bn, var_bn = self.running_mean[None], self.running_var[None]
        shape = mean_in.shape
        means = [mean_in, mean_ln.expand(shape), mean_bn.expand(shape)]
        return means, [var_in, var_ln.expand(shape), var_bn.expand(shape)]
