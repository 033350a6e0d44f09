"""The contract of a probe: what is measured inside the network while it trains, without changing a number of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn


class Reading(NamedTuple):
    """One number of one layer: a row of layers.csv without its step.

    layer: its path in the network. index: its place in the network, from 0. kind: of what (pre_act, grad, ...).
    """

    layer: str
    index: int
    kind: str
    stat: str
    value: float


class Probe:
    """Base class; it measures nothing. docs/probes.md says what each reading means.

    images: how many training images `loss` is taken over; 0: it is not called.
    """

    images = 0

    def watch(self, model: nn.Module, clip: Any) -> Any:
        """Called once, before training: a clipping rule (normbench.clip.Clip) to use in the place of `clip`.

        It is called between backward and step, its after_step after the step: it must do what `clip` does, and may
        look on. It must not wait for the device.
        """
        return clip

    def measure(self, model: nn.Module, loss: Callable[[], Tensor]) -> list[Reading]:
        """At every evaluation: what there is to tell. The network must be left as it was, bit by bit.

        Args:
            model: with the weights that are evaluated.
            loss: the loss of a fixed batch of training images, with gradient: norms work by the batch as in training,
                nothing is dropped, and neither buffers nor random state change.

        Raises:
            ValueError: this network has nothing to measure, or a setting does not fit it.
        """
        return []

    def state(self) -> Any:
        """What it has seen since the last `measure`, in numbers, lists and tensors; for the checkpoint."""
        return None

    def restore(self, state: Any) -> None:
        """Go on from what `state` gave; tensors may come from another device."""


def check_count(name: str, value: int, typical: int, least: int = 1) -> int:
    """The value, if it is a whole number of at least `least`.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value}; try probe.{name}={typical}")
    return value
