"""Clipping entry by entry."""

from collections.abc import Sequence

import torch
from torch.nn import Parameter

from normbench.clip import Clip, Clipped, check_bound, gradients, total_norm

__all__ = ["ClipValue"]


class ClipValue(Clip):
    """Clamp every entry of the gradients to [-c, c]. Size: the largest |entry|; a unit is an entry.

    Args:
        max_value: the bound c, in units of the gradient; > 0.

    Raises:
        ValueError: max_value is not a number > 0.

    Source:
        Mikolov 2012 (thesis), section 3.2.2.
    """

    def __init__(self, max_value: float = 0.1):
        self.max_value = check_bound("max_value", max_value, 0.1)

    def __call__(self, parameters: Sequence[Parameter]) -> Clipped:
        grads = gradients(parameters)
        norm = total_norm(grads)
        entries = torch.cat([grad.flatten() for grad in grads]).abs_()
        torch._foreach_clamp_min_(grads, -self.max_value)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_clamp_max_(grads, self.max_value)  # pyright: ignore[reportPrivateImportUsage]
        return Clipped(norm, entries.max(), (entries > self.max_value).float().mean())
