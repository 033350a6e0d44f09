"""The contract of a model, and the layer stack that the plain models share.

A model is an `nn.Module` class (or a function that makes one) that takes `norm` (normbench.norm.Norm), `input_shape`
(C, H, W) and `num_classes` as keyword arguments, as far as it has them, beside its own settings, and maps
(N, C, H, W) to logits (N, num_classes). One that takes no `norm` has its BatchNorm layers swapped for the norm's.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from normbench.norm import Impossible

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
}


WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)  # the layers that a normalization stands behind


def _normal(weight: Tensor) -> None:
    nn.init.normal_(weight, std=0.01)


def _he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


INITS: dict[str, Callable[[Tensor], object]] = {"xavier": nn.init.xavier_uniform_, "he": _he, "normal": _normal}


class Model(nn.Module):
    """Base class of models whose layers draw their weights in `draw`.

    build.py calls it for every layer under a seed made from (seed, the layer's path), so that a layer starts
    from the same weights whatever stands beside it. `head` is the last layer, which makes the logits.
    """

    head: nn.Module
    initial: "Initial | None" = None  # None: as torch's layers draw themselves

    def draw(self, layer: nn.Module) -> None:
        """Draw the layer's own weights (not those of layers inside it).

        The weight comes first: a bias, which some arms have and others have not, must not move its random numbers.
        """
        if self.initial and isinstance(layer, WEIGHTED):
            self.initial(layer, hidden=layer is not self.head)
        elif hasattr(layer, "reset_parameters"):
            layer.reset_parameters()  # type: ignore[operator]


class Initial:
    """How the weights of linear and convolutional layers are drawn.

    default: torch's, uniform on +-1/sqrt(fan_in), biases too. xavier: uniform on +-sqrt(6 / (fan_in + fan_out)).
    he: normal with variance 2 / fan_in. normal: normal with standard deviation 0.01. Biases are 0 in the last three.

    Args:
        init: one of these words.
        init_scale: the weights of the hidden layers (all but the head) are multiplied by it; > 0.

    Raises:
        ValueError: another word, or init_scale not a number > 0.

    Source:
        Glorot & Bengio 2010, eq. 16; He et al. 2015, arXiv 1502.01852, eq. 10; Krizhevsky et al. 2012, section 5.
    """

    def __init__(self, init: str, init_scale: float):
        if init not in ("default", *INITS):
            raise ValueError(f"init must be one of default, {', '.join(INITS)}; got {init!r}")
        if not (init_scale > 0 and math.isfinite(init_scale)):
            raise ValueError(f"init_scale must be a number > 0, got {init_scale}; try model.init_scale=1")
        self.init, self.init_scale = init, init_scale

    @torch.no_grad()
    def __call__(self, layer: nn.Module, hidden: bool) -> None:
        weight, bias = layer.weight, layer.bias
        if self.init == "default":
            layer.reset_parameters()  # type: ignore[operator]
        else:
            INITS[self.init](weight)  # type: ignore[arg-type]
            if bias is not None:
                bias.zero_()  # type: ignore[operator]
        if hidden and self.init_scale != 1:
            weight.mul_(self.init_scale)  # type: ignore[operator]


class Shift(nn.Module):
    """y = x + bias, a bias for each channel: what is left of a swapped BatchNorm where the norm puts no layer.

    Networks give the layers before BatchNorm no bias: without this, the arm without a norm would have no shifts at all.
    """

    def __init__(self, num_features: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.view(-1, *[1] * (x.dim() - 2))


def swap_batch_norm(model: nn.Module, norm, x: Tensor) -> int:
    """Put the norm's layers in the place of the model's BatchNorm layers, in place; their number.

    All linear and convolutional layers but the last one called are reparametrized as the norm says. What works in
    place of its input (ReLU(inplace=True)) no longer does: where no layer stands now, it would overwrite a shortcut.

    Args:
        x: a few images, which tell the order in which the layers are called.
    """
    before: dict[nn.Module, nn.Module | None] = {}
    head = None
    for layer in _called(model, x):
        if isinstance(layer, _BatchNorm):
            before.setdefault(layer, head)
        else:
            head = layer
    made: dict[nn.Module, nn.Module] = {}
    for path, layer in list(model.named_modules(remove_duplicate=False)):
        if isinstance(layer, _BatchNorm):
            if layer not in made:
                made[layer] = _in_place_of(layer, norm.layer(layer.num_features), before.get(layer))
                layer.register_forward_pre_hook(_refuse)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, made[layer])
    for layer in list(model.modules()) if made else []:
        if isinstance(layer, WEIGHTED) and layer is not head:
            norm.reparametrize(layer)
        if getattr(layer, "inplace", False):
            layer.inplace = False  # type: ignore[assignment]
    return len(made)


def head_of(model: nn.Module, x: Tensor) -> nn.Module | None:
    """The last layer, which makes the logits: the linear or convolutional layer that a few images x meet last."""
    if isinstance(model, Model):
        return model.head
    return next((layer for layer in reversed(_called(model, x)) if isinstance(layer, WEIGHTED)), None)


@contextmanager
def hooked(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """With these hooks, which are removed afterwards."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def sizes_of_outputs(model: nn.Module) -> Iterator[list[int]]:
    """Collects how many numbers each layer gives while the model is called in here.

    Scripted layers, which take no hooks, are left out.
    """
    sizes: list[int] = []

    def note(_layer: nn.Module, _inputs: object, output: object) -> None:
        several = output if isinstance(output, (tuple, list)) else [output]
        sizes.extend(its.numel() for its in several if isinstance(its, Tensor))

    layers = [layer for layer in model.modules() if not isinstance(layer, torch.jit.ScriptModule)]
    with hooked([layer.register_forward_hook(note) for layer in layers]):
        yield sizes


def _called(model: nn.Module, x: Tensor) -> list[nn.Module]:
    """The linear, convolutional and BatchNorm layers in the order in which the images meet them."""
    order: list[nn.Module] = []
    layers = [layer for layer in model.modules() if isinstance(layer, (*WEIGHTED, _BatchNorm))]
    hooks = [layer.register_forward_pre_hook(lambda layer, _: order.append(layer)) for layer in layers]
    with hooked(hooks), torch.no_grad():
        model.eval()(x)
    return order


def _in_place_of(batch_norm: _BatchNorm, layer: nn.Module, before: nn.Module | None) -> nn.Module:
    has_bias = before is not None and before.bias is not None
    return Shift(batch_norm.num_features) if isinstance(layer, nn.Identity) and not has_bias else layer


def _refuse(_layer: nn.Module, _inputs: object) -> None:
    raise ValueError(
        "it calls a BatchNorm layer that was swapped for the norm's: beside the module's attribute it keeps the layer "
        "in a list or a function; use torch.nn.ModuleList, or call the attribute"
    )


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
        Impossible: placement=post with a norm that takes the activation's place.
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
        if norm.replaces_activation and placement == "post":
            raise Impossible(
                "this norm ends in a nonlinearity of its own, in the activation's place, so that it can't stand after "
                "one: placement must be pre, got 'post'; try model.placement=pre"
            )
        self.norm, self.activation, self.placement = norm, activation, placement
        self.bias, self.dropout = bias, dropout

    def __call__(
        self,
        name: str,
        layer: Callable[..., nn.Module],
        num_features: int,
        normalize: bool = True,
        activate: bool = True,
    ) -> nn.Sequential:
        """A block around `layer(bias=...)` of `num_features` features; norm and activation can be left out."""
        redundant = normalize and self.norm.bias_is_redundant and self.placement == "pre"
        has_bias = not redundant if self.bias == "auto" else bool(self.bias)
        weighted = layer(bias=has_bias)
        norm = self.norm.layer(num_features) if normalize else nn.Identity()
        own_activation = normalize and self.norm.replaces_activation
        parts = [
            (name, self.norm.reparametrize(weighted) if normalize else weighted),
            ("norm", norm),
            ("activation", nn.Identity() if own_activation or not activate else ACTIVATIONS[self.activation]()),
            ("dropout", nn.Dropout(self.dropout) if self.dropout else nn.Identity()),
        ]
        if self.placement == "post":
            parts[1:3] = parts[2:0:-1]
        # an identity costs a call a step; leaving it out changes no other layer's path
        return nn.Sequential(OrderedDict((key, part) for key, part in parts if not isinstance(part, nn.Identity)))
