"""Twins: layers that do for N networks side by side what the original does for one.

Shapes: B images, N replicas, C channels (or features) of one replica. In: (B, N C, ...), or (B, C, ...) where all
replicas see the same, as the images of an evaluation; out: (B, N C', ...). After a linear layer features are
contiguous along B, which costs nothing there and is what the next product wants, and on the CPU batch normalization.
"""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from normbench.model.cnn import CNN
from normbench.model.lenet import LeNet
from normbench.model.mlp import MLP
from normbench.model.vgg import VGG
from normbench.norm import bn, ln, rms


class Twin(nn.Module):
    """The weights and statistics of N equal layers, each (N, ...) under the original's name; values come later."""

    def __init__(self, layer: nn.Module, width: int):
        super().__init__()
        self.width = width
        for name, parameter in layer._parameters.items():
            self.register_parameter(name, None if parameter is None else Parameter(_room(parameter, width)))
        for name, buffer in layer._buffers.items():
            self.register_buffer(name, None if buffer is None else _room(buffer, width))

    def flat(self, name: str) -> Tensor | None:
        """What the layer has for each channel, as (N C,)."""
        value = getattr(self, name)
        return None if value is None else value.view(-1)

    def scaled(self, x: Tensor) -> Tensor:
        """What is (B, N, C, ...), times weight plus bias, those that there are."""
        like = (self.width, -1, *[1] * (x.dim() - 3))
        weight, bias = self._parameters["weight"], self._parameters.get("bias")
        x = x if weight is None else x * weight.view(like)
        return x if bias is None else x + bias.view(like)


def _room(tensor: Tensor, width: int) -> Tensor:
    return tensor.new_zeros((width, *tensor.shape))


class Linear(Twin):
    weight: Parameter  # (N, out, in)
    bias: Parameter | None

    def __init__(self, layer: nn.Linear, width: int):
        super().__init__(layer, width)
        self.in_features = layer.in_features

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == self.in_features:
            return F.linear(x, self.weight.flatten(0, 1), self.flat("bias"))
        x = x.view(len(x), self.width, -1).permute(1, 2, 0)
        y = self.weight.bmm(x) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(2), self.weight, x)
        return y.flatten(0, 1).t()


class Conv2d(Twin):
    """On the CPU one convolution after another: grouped ones take a fifth to a half longer there."""

    weight: Parameter  # (N, out, in, h, w)
    bias: Parameter | None

    def __init__(self, layer: nn.Conv2d, width: int):
        super().__init__(layer, width)
        self.in_channels = layer.in_channels
        self.settings = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}

    def forward(self, x: Tensor) -> Tensor:
        groups = 1 if x.shape[1] == self.in_channels else self.width
        if groups == 1 or x.is_cuda:
            return F.conv2d(x, self.weight.flatten(0, 1), self.flat("bias"), groups=groups, **self.settings)
        biases = [None] * self.width if self.bias is None else self.bias.unbind()
        each = zip(x.chunk(self.width, 1), self.weight.unbind(), biases, strict=True)
        return torch.cat([F.conv2d(its, weight, bias, **self.settings) for its, weight, bias in each], 1)


class BatchNorm(Twin):
    """Channels are normalized one by one: N C of them are as good as C."""

    num_batches_tracked: Tensor

    def __init__(self, layer: bn._Layer, width: int):
        super().__init__(layer, width)
        assert layer.momentum is not None, "normbench.norm.bn knows no cumulative average"
        self.eps, self.momentum = layer.eps, layer.momentum

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        if x.dim() > 2 or x.is_cuda:  # cuDNN takes 4 times as long for many channels of 64 numbers as torch for columns
            return self._normalized(x.contiguous())
        return self._normalized(x.t().unsqueeze(0)).squeeze(0).t()  # (1, N C, B)

    def _normalized(self, x: Tensor) -> Tensor:
        mean, variance, weight, bias = map(self.flat, ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, variance, weight, bias, self.training, self.momentum, self.eps)


class GroupNorm(Twin):
    """Group, instance and layer normalization: N G groups are as good as G."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(self, layer: nn.GroupNorm, width: int):
        super().__init__(layer, width)
        self.num_groups, self.eps = layer.num_groups, layer.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.width * self.num_groups, self.flat("weight"), self.flat("bias"), self.eps)


class LayerNorm(GroupNorm):
    """As normbench.norm.ln: on features by the faster kernel."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() > 2:
            return super().forward(x)
        x = x.view(len(x), self.width, -1)
        return self.scaled(F.layer_norm(x, x.shape[2:], eps=self.eps)).flatten(1)


class RMSNorm(Twin):
    weight: Parameter | None

    def __init__(self, layer: rms._Layer, width: int):
        super().__init__(layer, width)
        self.eps = layer.eps

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(1, (self.width, -1))
        square = parts.square().mean(tuple(range(2, parts.dim())), keepdim=True)
        return self.scaled(parts * (square + self.eps).rsqrt()).flatten(1, 2)


class Dropout(nn.Module):
    """Each replica's draws from its own generator: those that its serial run makes on the CPU."""

    def __init__(self, layer: nn.Dropout, width: int):
        super().__init__()
        self.p = layer.p
        self.generators: Sequence[torch.Generator] = [torch.Generator() for _ in range(width)]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = (len(x), x.shape[1] // len(self.generators), *x.shape[2:])
        kept = [x.new_empty(shape).bernoulli_(1 - self.p, generator=its) for its in self.generators]
        return x * torch.stack(kept, 1).flatten(1, 2).div_(1 - self.p)


TWINS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    nn.Dropout: Dropout,
    nn.GroupNorm: GroupNorm,
    bn._Layer: BatchNorm,
    ln._Layer: LayerNorm,
    rms._Layer: RMSNorm,
}
# these do the same to every channel, or only call what they hold
AS_THEY_ARE = (
    nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.MaxPool2d, nn.Sequential, nn.ModuleList,
    MLP, LeNet, CNN, VGG,
)  # fmt: skip


def without_twin(model: nn.Module) -> nn.Module | None:
    """The first layer of the model that can't stand in a stack."""
    return next((layer for layer in model.modules() if not _has_twin(layer)), None)


def _has_twin(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return type(layer) in TWINS or type(layer) in AS_THEY_ARE


def stacked(model: nn.Module, width: int) -> nn.Module:
    """The network of `width` replicas of the model, with zeros for weights."""
    network = copy.deepcopy(model)
    for path, layer in list(network.named_modules()):
        if type(layer) in TWINS:
            network.set_submodule(path, TWINS[type(layer)](layer, width))
    return network


def generators_for(network: nn.Module, generators: Sequence[torch.Generator]) -> None:
    """Have all dropout layers draw from these, one a replica."""
    for layer in network.modules():
        if isinstance(layer, Dropout):
            layer.generators = generators


def put(network: nn.Module, number: int, model: nn.Module) -> None:
    """Copy the model's weights and statistics into the place of the replica with this number."""
    its = model.state_dict()
    for name, value in network.state_dict().items():
        value[number].copy_(its[name])


def take(network: nn.Module, number: int, model: nn.Module) -> None:
    """Copy the replica's weights and statistics into the model."""
    its = network.state_dict()
    for name, value in model.state_dict().items():
        value.copy_(its[name][number])
