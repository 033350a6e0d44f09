"""Clipping by the norm of each parameter tensor."""

from collections.abc import Sequence

import torch
from torch.nn import Parameter

from normbench.clip import Clip, Clipped, check_bound, each_norm, gradients

__all__ = ["ClipLayer"]


class ClipLayer(Clip):
    """Scale the gradient g_i of each tensor (a layer's weight, its bias) by c / ||g_i|| where ||g_i|| > c.

    Size: the largest ||g_i||; a unit is a tensor. The direction of the whole gradient changes.

    Args:
        max_norm: the bound c, in units of the gradient; > 0.

    Raises:
        ValueError: max_norm is not a number > 0.

    Source:
        The norm rule of Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063, tensor by tensor.
    """

    def __init__(self, max_norm: float = 0.5):
        self.max_norm = check_bound("max_norm", max_norm, 0.5)

    def __call__(self, parameters: Sequence[Parameter]) -> Clipped:
        grads = gradients(parameters)
        norms = torch.stack(each_norm(grads))
        factors = (self.max_norm / norms).clamp_max(1.0)  # exactly 1 keeps every bit
        torch._foreach_mul_(grads, list(factors.unbind()))  # pyright: ignore[reportPrivateImportUsage]
        share = (norms > self.max_norm).float().mean()
        return Clipped(torch.linalg.vector_norm(norms), norms.max(), share)
