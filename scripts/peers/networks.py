"""The networks of architectures.py in torch, for the peers that use it."""

from collections.abc import Sequence

import architectures
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.stride, self.new_channels = stride, n_out - n_in
        self.conv1, self.bn1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(x + branch)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def make(model: str, shape: Sequence[int], classes: int) -> nn.Sequential:
    """The network, its weights drawn from torch's generator."""
    sizes = iter(architectures.weights(model, shape, classes))
    made: list[nn.Module] = []
    n_out, is_flat = shape[0], False
    for kind, *numbers in architectures.layers(model, classes):
        if kind == "conv":
            n_out, n_in, size, _ = next(sizes)
            made.append(nn.Conv2d(n_in, n_out, size, padding=numbers[2], bias=False))
        elif kind == "block":
            (n_out, n_in, *_), _ = next(sizes), next(sizes)
            made.append(Block(n_in, n_out, numbers[1]))
        elif kind == "linear":
            n_out, n_in = next(sizes)
            made.append(nn.Linear(n_in, n_out, bias=numbers[1]))
            if numbers[1]:
                next(sizes)
        elif kind == "bn":
            made.append(nn.BatchNorm1d(n_out) if is_flat else nn.BatchNorm2d(n_out))
        else:
            is_flat = is_flat or kind in ("flatten", "mean")
            made.append({"relu": nn.ReLU, "flatten": nn.Flatten, "mean": Mean, "pool": lambda: nn.MaxPool2d(2)}[kind]())
    network = nn.Sequential(*made)
    if architectures.he_convolutions(model):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network


@torch.no_grad()
def begin_from(network: nn.Module, arrays: Sequence[np.ndarray]) -> None:
    """Give the network these weights and biases, which stand in the order of the layers."""
    for tensor, array in zip(weights(network), arrays, strict=True):
        tensor.copy_(torch.from_numpy(array))


def weights(network: nn.Module) -> list[Tensor]:
    """All weights and biases of linear and convolutional layers, in the order of the layers."""
    owners = [layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    return [t for layer in owners for t in (layer.weight, layer.bias) if t is not None]


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
