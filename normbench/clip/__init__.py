"""The contract of a clipping rule: how gradients, or the optimizer's finished step, are kept below a bound."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter


class Clipped(NamedTuple):
    """What a rule saw and did in one step; each has one value, on the parameters' device.

    grad_norm: L2 norm of all gradients before clipping; not finite: the run has diverged.
    size: the largest of what the rule holds against its bound (its docstring says what that is).
    share: the part of its units that it clipped, in [0, 1] or a bool; a unit is what is held against the bound as one.
    """

    grad_norm: Tensor
    size: Tensor
    share: Tensor


class Clip:
    """Base class; it changes nothing. No rule ever waits for the device.

    A rule that needs to know which layer is the head (the last one) takes `head`, its parameters, by name.
    """

    def __call__(self, parameters: Sequence[Parameter]) -> Clipped:
        """Between backward and step: change the gradients in place, or remember what after_step needs."""
        norm = total_norm(gradients(parameters))
        return Clipped(norm, norm, torch.zeros_like(norm))

    def after_step(self, optimizer: torch.optim.Optimizer, clipped: Clipped) -> Clipped:
        """After the optimizer's step, before the next forward: may change the parameters in place."""
        return clipped


def gradients(parameters: Sequence[Parameter]) -> list[Tensor]:
    """The gradients there are, at least one; a parameter that the loss did not reach has none."""
    return [p.grad for p in parameters if p.grad is not None]


def total_norm(grads: list[Tensor]) -> Tensor:
    """The L2 norm over all entries of all gradients: sqrt(sum g^2), in the gradients' own precision.

    In float32 it overflows beyond 1e19: that is infinite, and counts as divergence.
    """
    return torch.linalg.vector_norm(torch.stack(each_norm(grads)))


def each_norm(grads: list[Tensor]) -> list[Tensor]:
    """The L2 norm of each gradient."""
    return list(torch._foreach_norm(grads))  # pyright: ignore[reportPrivateImportUsage] - get_total_norm: twice as long


def check_bound(name: str, bound: float, typical: float) -> float:
    """The bound, if it is one.

    Raises:
        ValueError: it is not a number > 0.
    """
    if not 0 < bound < float("inf"):
        raise ValueError(f"{name} must be a number > 0, got {bound}; try clip.{name}={typical:g}, or clip=none")
    return bound
