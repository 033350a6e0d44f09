"""Adaptive gradient clipping: each unit's gradient against its weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from normbench.clip import Clip, Clipped, check_bound, gradients, total_norm

__all__ = ["ClipAGC"]


class ClipAGC(Clip):
    """Where ||G_i|| / max(||W_i||, eps) > lambda, scale G_i to norm lambda max(||W_i||, eps).

    G_i and W_i are the gradient and the weights of unit i: a row of a matrix (out, in), a filter (in, h, w) of a
    convolution (out, in, h, w). A vector (bias, gain) is one unit, and so is what is a vector but for dimensions of
    size 1 (weight normalization's g). The head is left alone. Size: the largest ratio.

    Args:
        clipping: the bound lambda on the ratio, > 0; the larger, the larger the learning rate that trains.
        eps: keeps units near zero from being frozen there; > 0.
        head: the parameters of the last layer (given by the run).

    Raises:
        ValueError: clipping or eps is not a number > 0.

    Source:
        Brock, De, Smith & Simonyan 2021, arXiv 2102.06171, eq. 3; vectors as in the authors' code.
    """

    def __init__(self, clipping: float = 0.01, eps: float = 1e-3, *, head: Sequence[Parameter] = ()):
        self.clipping = check_bound("clipping", clipping, 0.01)
        self.eps = check_bound("eps", eps, 1e-3)
        self.head = set(head)

    @torch.no_grad()
    def __call__(self, parameters: Sequence[Parameter]) -> Clipped:
        norm = total_norm(gradients(parameters))
        ratios = [self._clip(p, p.grad) for p in parameters if p.grad is not None and p not in self.head]
        if not ratios:
            return Clipped(norm, torch.zeros_like(norm), torch.zeros_like(norm))
        ratio = torch.cat(ratios)
        return Clipped(norm, ratio.max(), (ratio > self.clipping).float().mean())

    def _clip(self, weight: Tensor, grad: Tensor) -> Tensor:
        """The ratio of each unit before, (units,)."""
        ratio = of_units(grad) / of_units(weight).clamp_min(self.eps)
        grad.mul_((self.clipping / ratio).clamp_max(1.0))  # exactly 1 keeps every bit
        return ratio.flatten()


def of_units(tensor: Tensor) -> Tensor:
    """The L2 norm of each unit, with dimensions of size 1 for those that it is taken over."""
    is_vector = sum(size > 1 for size in tensor.shape) < 2
    over = tuple(range(0 if is_vector else 1, tensor.dim()))
    return torch.linalg.vector_norm(tensor, dim=over, keepdim=True) if over else tensor.abs()
