"""Weight normalization."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from normbench.norm import Norm

__all__ = ["WeightNorm"]


class WeightNorm(Norm):
    """Length and direction of each unit's weight learned apart: w = g v / ||v||, per output unit.

    Activations are not normalized. With `data_init`, before the first step, g and the bias are set so that the
    pre-activations of the first batch have mean 0 and variance 1 in every unit: g <- g / sd, b <- (b - mean) / sd,
    layer after layer.

    Args:
        data_init: the data-dependent start; without it the weights start as without normalization.

    Shape:
        linear and convolutional layers; g is (out, 1, ...).

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, eq. 2, 5 and 6. Differences: a unit
        that gives the same for the whole batch keeps its length; rnn's weights are left as they are drawn.
    """

    def __init__(self, data_init: bool = True):
        self.data_init = data_init

    def reparametrize(self, layer: nn.Module) -> nn.Module:
        return parametrizations.weight_norm(layer, dim=0)

    @torch.no_grad()
    def start(self, model: nn.Module, batch: Tensor) -> None:
        if not self.data_init:
            return
        layers = [layer for layer in model.modules() if parametrize.is_parametrized(layer, "weight")]
        hooks = [layer.register_forward_hook(_standardize) for layer in layers]
        try:
            model.eval()(batch)  # one pass: each layer sees what the layers before it now give
        finally:
            for hook in hooks:
                hook.remove()


def _standardize(layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    """Set g and b for this batch; the output that they give."""
    per_unit = (1, -1, *[1] * (output.dim() - 2))
    dtype = torch.promote_types(output.dtype, torch.float32)
    variance, mean = torch.var_mean(output.to(dtype), (0, *range(2, output.dim())), correction=0)
    sd = torch.where(variance > 1e-10, variance.sqrt(), 1.0)  # a unit that never changes keeps its length
    g = layer.parametrizations.weight.original0  # type: ignore[union-attr]
    g.div_(sd.view(-1, *[1] * (g.dim() - 1)))  # type: ignore[operator, union-attr]
    if layer.bias is not None:
        layer.bias.sub_(mean).div_(sd)  # type: ignore[operator, union-attr]
        return ((output - mean.view(per_unit)) / sd.view(per_unit)).to(output.dtype)
    return (output / sd.view(per_unit)).to(output.dtype)
