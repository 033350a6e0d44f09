"""The contract of an optimizer: a torch.optim.Optimizer, and which parameters are what to it.

Its first argument is the parameters, or groups of them. One that takes `matrices` gets the weights of the hidden
layers beside them. One with methods `train()` and `eval()` (a schedule-free optimizer: it trains at one point and
evaluates at another) is switched around every evaluation; its networks are stored as evaluated.
"""

from collections.abc import Iterable, Iterator

from torch import nn
from torch.nn import Parameter

MULTIPLIES = (
    nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention,
)  # fmt: skip
NORMALIZES = (
    nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
)  # fmt: skip


def matrices(model: nn.Module, head: nn.Module | None) -> list[Parameter]:
    """The weights of torch's linear, convolutional, recurrent and attention layers, but not of the head.

    Of a reparametrized weight it is the tensor of the weight's own shape (weight normalization's direction v; its
    lengths g are no matrix, though they have two dimensions).
    """
    found: dict[Parameter, None] = {}
    for layer in model.modules():
        if isinstance(layer, MULTIPLIES) and layer is not head:
            found |= dict.fromkeys(_weights_of(layer))
    return list(found)


def _weights_of(layer: nn.Module) -> Iterator[Parameter]:
    for parameter in layer.parameters(recurse=False):
        if parameter.dim() > 1:
            yield parameter
    for name, made in getattr(layer, "parametrizations", {}).items():
        shape = getattr(layer, name).shape
        yield from [p for p in made.parameters(recurse=False) if len(shape) > 1 and p.shape == shape][-1:]


def norms_and_biases(model: nn.Module, norm_layers: Iterable[nn.Module] = ()) -> list[Parameter]:
    """What `decay_norm_and_bias: false` leaves undecayed: all of the normalization layers, and what is a vector.

    Args:
        norm_layers: those that the norm made, whatever their class; torch's own are known.
    """
    made = set(norm_layers)
    found: dict[Parameter, None] = {}
    for layer in model.modules():
        if layer in made or isinstance(layer, NORMALIZES):
            found |= dict.fromkeys(layer.parameters())
    for layer in model.modules():
        weights = set(_weights_of(layer))
        for owner in (layer, *getattr(layer, "parametrizations", {}).values()):
            is_vector = [p for p in owner.parameters(recurse=False) if p.dim() < 2]
            found |= dict.fromkeys(is_vector)
            if owner is not layer:  # lengths of a reparametrized weight
                found |= dict.fromkeys(p for p in owner.parameters(recurse=False) if p not in weights)
    return list(found)
