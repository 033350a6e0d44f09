"""The networks that all peers train, as lists of layers; batch normalization stands before the rectifier.

They are normbench's mlp, lenet, cnn (without dropout) and resnet (depth 20), which tests/test_benchmark_peers.py
compares. A peer builds them from its own framework's layers.

    ("conv", channels, size, padding)   no bias, stride 1
    ("linear", width, bias)
    ("block", channels, stride)         residual: conv 3x3, bn, relu, conv 3x3, bn, plus the shortcut, relu; that
                                        drops rows and columns and adds channels of zeros (He et al. 2015, option A)
    ("bn",) ("relu",) ("pool",)         pool: the largest of 2x2
    ("flatten",) ("mean",)              mean: over the positions

Weights start uniform on +-1/sqrt(fan_in), biases too; resnet's convolutions normal with variance 2 / fan_out.
"""

from collections.abc import Sequence

import numpy as np

Layer = tuple
BN_EPS, BN_MOMENTUM = 1e-5, 0.1  # the share of the new batch in the running averages
HEAD = ("linear", 0, True)  # as many as there are classes

NETWORKS: dict[str, list[Layer]] = {
    "mlp": [("flatten",), ("linear", 64, False), ("bn",), ("relu",), HEAD],
    "lenet": [
        ("conv", 6, 5, 0), ("bn",), ("relu",), ("pool",),
        ("conv", 16, 5, 0), ("bn",), ("relu",), ("pool",),
        ("flatten",), ("linear", 120, True), ("relu",), ("linear", 84, True), ("relu",), HEAD,
    ],
    "cnn": [
        ("conv", 32, 3, 1), ("bn",), ("relu",), ("conv", 32, 3, 1), ("bn",), ("relu",), ("pool",),
        ("conv", 64, 3, 1), ("bn",), ("relu",), ("conv", 64, 3, 1), ("bn",), ("relu",), ("pool",),
        ("flatten",), ("linear", 512, False), ("bn",), ("relu",), HEAD,
    ],
    "resnet": [
        ("conv", 16, 3, 1), ("bn",), ("relu",),
        *[("block", 16, 1)] * 3, ("block", 32, 2), *[("block", 32, 1)] * 2, ("block", 64, 2), *[("block", 64, 1)] * 2,
        ("mean",), HEAD,
    ],
}  # fmt: skip


def layers(model: str, classes: int) -> list[Layer]:
    return [("linear", classes, True) if layer is HEAD else layer for layer in NETWORKS[model]]


def he_convolutions(model: str) -> bool:
    return model == "resnet"


def weights(model: str, shape: Sequence[int], classes: int) -> list[tuple[int, ...]]:
    """The shapes of all weights and biases in the order of the layers, in torch's layout."""
    (channels, height, width), found = shape, []
    for kind, *numbers in layers(model, classes):
        if kind == "conv":
            found.append((numbers[0], channels, numbers[1], numbers[1]))
            channels, lost = numbers[0], numbers[1] - 1 - 2 * numbers[2]
            height, width = height - lost, width - lost
        elif kind == "block":
            found += [(numbers[0], channels, 3, 3), (numbers[0], numbers[0], 3, 3)]
            channels, height, width = numbers[0], -(-height // numbers[1]), -(-width // numbers[1])
        elif kind == "pool":
            height, width = height // 2, width // 2
        elif kind == "flatten":
            channels, height, width = channels * height * width, 1, 1
        elif kind == "linear":
            found += [(numbers[0], channels), *[(numbers[0],)] * numbers[1]]
            channels = numbers[0]
    return found


def drawn(model: str, shape: Sequence[int], classes: int, seed: int) -> list[np.ndarray]:
    """Initial weights, for the peer whose framework draws none."""
    rng, found, bound = np.random.default_rng(seed), [], 0.0
    for size in weights(model, shape, classes):
        if len(size) == 4 and he_convolutions(model):
            array = rng.normal(0, (2 / (size[0] * size[2] * size[3])) ** 0.5, size)
        else:
            bound = int(np.prod(size[1:])) ** -0.5 if len(size) > 1 else bound  # a bias follows its weight
            array = rng.uniform(-bound, bound, size)
        found.append(array.astype(np.float32))
    return found


def channels_last(model: str, arrays: Sequence[np.ndarray], shape: Sequence[int]) -> list[np.ndarray]:
    """From torch's layout to that of Keras and JAX: (H, W, in, out) and (in, out), images flattened as H, W, C."""
    found, convolutions = [], [a for a in arrays if a.ndim == 4]
    channels = len(convolutions[-1]) if convolutions else shape[0]
    flat = next((i for i, a in enumerate(arrays) if a.ndim == 2), None) if model != "resnet" else None
    for i, array in enumerate(arrays):
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif i == flat:
            array = array.reshape(len(array), channels, -1).transpose(2, 1, 0).reshape(-1, len(array))
        elif array.ndim == 2:
            array = array.T
        found.append(np.ascontiguousarray(array))
    return found
