"""The contract of a normalization: what a model asks of it. Every member has a harmless default.

A plain `nn.Module` class whose first argument is the number of features is a normalization too:
build.py takes it as `layer`.
"""

import math

from torch import Tensor, nn


class Impossible(ValueError):
    """This normalization is undefined for this model and data; the message says why and what to use instead."""


def check_eps(eps: float, example: str = "1e-5") -> None:
    """Raise ValueError unless eps is a number > 0."""
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"eps must be a number > 0, got {eps}; try norm.eps={example}")


def check_momentum(momentum: float) -> None:
    """Raise ValueError unless momentum, the share of the new batch in running averages, is in (0, 1]."""
    if not 0 < momentum <= 1:
        raise ValueError(f"momentum must be in (0, 1], got {momentum}; try norm.momentum=0.1")


def check_divides(key: str, value: int, num_features: int) -> None:
    """Raise Impossible unless `value` divides the channels of a layer."""
    if num_features % value:
        fits = math.gcd(value, num_features)  # and divides every layer that `value` divides
        raise Impossible(
            f"norm.{key}={value} must divide the {num_features} channels of a layer; try norm.{key}={fits}"
        )


def check_batch(name: str, shape: tuple[int, ...], batch_size: int) -> None:
    """Raise Impossible where a batch has one value per channel, whose variance is zero."""
    if batch_size * math.prod(shape[1:]) < 2:
        raise Impossible(
            f"norm={name} needs at least 2 values per channel and batch, batch_size={batch_size} on activations "
            f"{shape} gives 1; try batch_size=2 or more"
        )


def check_groups(num_groups: int, shape: tuple[int, ...]) -> None:
    """Raise Impossible where a group of a sample has one value, whose variance is zero."""
    if math.prod(shape) // num_groups < 2:
        raise Impossible(
            f"norm.num_groups={num_groups} on activations {shape} leaves one value a group, whose variance is "
            f"0; try norm.num_groups={max(1, num_groups // 2)}"
        )


class Norm:
    """Base class of the normalizations; as it stands it normalizes nothing."""

    bias_is_redundant = False  # it subtracts each channel's own mean, so a bias before it changes nothing
    replaces_activation = False  # its layer ends in a nonlinearity of its own

    def layer(self, num_features: int) -> nn.Module:
        """A new layer for activations (N, C) or (N, C, H, W) with C = num_features; the shape is kept."""
        return nn.Identity()

    def reparametrize(self, layer: nn.Module) -> nn.Module:
        """Express the weight of this linear or convolutional layer another way, in place; the same layer is returned.

        build.py does it after the weights are drawn, so that every arm starts from the same ones.
        """
        return layer

    def check(self, shape: tuple[int, ...], batch_size: int) -> None:
        """Raise Impossible if a layer can't be trained on activations of `shape` (C,) or (C, H, W)."""

    def start(self, model: nn.Module, batch: Tensor) -> None:
        """Called once, before training, with the first batch (data-dependent initialization)."""

    def readings(self, layer: nn.Module) -> dict[str, float]:
        """What one of its layers has learned about how it normalizes, for reports; no weights and biases."""
        return {}
