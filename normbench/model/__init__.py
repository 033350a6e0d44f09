"""The contract of a model, and the layer stack that the plain models share.

A model is an `nn.Module` class that takes `norm` (normbench.norm.Norm), `input_shape` (C, H, W) and `num_classes`
as keyword arguments, beside its own settings, and maps (N, C, H, W) to logits (N, num_classes).
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
}


class Model(nn.Module):
    """Base class of models whose layers draw their weights in `reset_parameters`.

    build.py calls it for every layer under a seed made from (seed, the layer's path), so that a layer starts
    from the same weights whatever stands beside it. `head` is the last layer, which makes the logits.
    """

    head: nn.Module


class Blocks:
    """Makes blocks of one kind: weight layer, norm, activation, dropout.

    Args:
        norm: normbench.norm.Norm, asked for a layer for each block.
        activation: a key of ACTIVATIONS.
        placement: `pre`: norm before the activation; `post`: after it.
        bias: true, false, or `auto`: none where a norm before the activation makes it redundant.
        dropout: probability of dropping a unit, in [0, 1).

    Raises:
        ValueError: a choice that does not exist, or dropout out of range.
    """

    def __init__(self, norm, activation: str, placement: str, bias: bool | str, dropout: float):
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        if placement not in ("pre", "post"):
            raise ValueError(f"placement must be pre or post (before or after the activation), got {placement!r}")
        if bias not in ("auto", True, False):
            raise ValueError(f"bias must be auto, true or false, got {bias!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}; try model.dropout=0.5")
        self.norm, self.activation, self.placement = norm, activation, placement
        self.bias, self.dropout = bias, dropout

    def __call__(self, name: str, layer: Callable[..., nn.Module], num_features: int, normalize: bool = True):
        """A block around `layer(bias=...)`, which makes `num_features` features; `normalize=False`: no norm in it."""
        redundant = normalize and self.norm.bias_is_redundant and self.placement == "pre"
        has_bias = not redundant if self.bias == "auto" else bool(self.bias)
        weighted = layer(bias=has_bias)
        parts = OrderedDict({name: self.norm.reparametrize(weighted) if normalize else weighted})
        norm = self.norm.layer(num_features) if normalize else nn.Identity()
        activation = nn.Identity() if self.norm.replaces_activation and normalize else ACTIVATIONS[self.activation]()
        order = ["norm", "activation"] if self.placement == "pre" else ["activation", "norm"]
        parts |= sorted({"norm": norm, "activation": activation}.items(), key=lambda item: order.index(item[0]))
        parts["dropout"] = nn.Dropout(self.dropout) if self.dropout else nn.Identity()
        # an identity costs a call a step; leaving it out changes no other layer's path
        return nn.Sequential(OrderedDict((k, m) for k, m in parts.items() if not isinstance(m, nn.Identity)))
