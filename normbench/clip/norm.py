"""Clipping by the norm of the whole gradient."""

from collections.abc import Sequence

import torch
from torch.nn import Parameter

from normbench.clip import Clip, Clipped, check_bound, gradients, total_norm

__all__ = ["ClipNorm"]


class ClipNorm(Clip):
    """Scale all gradients by c / ||g|| where ||g|| > c; below the bound they keep every bit.

    ||g|| is the L2 norm over all parameters together: the size, and the one unit. (torch's clip_grad_norm_
    multiplies by min(1, c / (||g|| + 1e-6)), which also changes gradients just below the bound.)

    Args:
        max_norm: the bound c, in units of the gradient; > 0.

    Raises:
        ValueError: max_norm is not a number > 0.

    Source:
        Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063, algorithm 1.
    """

    def __init__(self, max_norm: float = 1.0):
        self.max_norm = check_bound("max_norm", max_norm, 1)

    def __call__(self, parameters: Sequence[Parameter]) -> Clipped:
        grads = gradients(parameters)
        norm = total_norm(grads)
        # a factor of exactly 1 keeps every bit, so no branch has to wait for the device
        torch._foreach_mul_(grads, (self.max_norm / norm).clamp_max(1.0))  # pyright: ignore[reportPrivateImportUsage]
        return Clipped(norm, norm, norm > self.max_norm)
