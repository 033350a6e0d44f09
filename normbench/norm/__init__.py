"""The contract of a normalization: what a model asks of it. Every member has a harmless default.

A plain `nn.Module` class whose first argument is the number of features is a normalization too:
build.py takes it as `layer`.
"""

from torch import Tensor, nn


class Impossible(ValueError):
    """This normalization is undefined for this model and data; the message says why and what to use instead."""


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
