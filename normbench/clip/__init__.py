"""The contract of a clipping rule: called between backward and step, it changes the gradients in place.

    rule(parameters) -> (norm, acted)

`norm`: the L2 norm of all gradients before clipping; `acted`: whether anything was changed. Both are tensors with
one value on the gradients' device; the rule never waits for the device.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter


class Clip(Protocol):
    def __call__(self, parameters: Sequence[Parameter]) -> tuple[Tensor, Tensor]: ...


def gradients(parameters: Sequence[Parameter]) -> list[Tensor]:
    """The gradients there are; a parameter that the loss did not reach has none."""
    return [p.grad for p in parameters if p.grad is not None]


def total_norm(grads: list[Tensor]) -> Tensor:
    """The L2 norm over all entries of all gradients: sqrt(sum g^2), in the gradients' own precision.

    In float32 it overflows beyond 1e19: that is infinite, and counts as divergence.
    """
    if not grads:
        return torch.zeros(())
    norms = torch._foreach_norm(grads)  # pyright: ignore[reportPrivateImportUsage] - get_total_norm takes twice as long
    return torch.linalg.vector_norm(torch.stack(norms))
