"""Clipping entry by entry."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_value_, get_total_norm

from normbench.clip import gradients, total_norm

__all__ = ["ClipValue"]


class ClipValue:
    """Clamp every entry of the gradients to [-c, c].

    Args:
        max_value: the bound c, in units of the gradient; > 0.

    Raises:
        ValueError: max_value is not a number > 0.

    Source:
        Mikolov 2012 (thesis), section 3.2.2.
    """

    def __init__(self, max_value: float = 0.1):
        if not (max_value > 0 and math.isfinite(max_value)):
            raise ValueError(f"max_value must be a number > 0, got {max_value}; try clip.max_value=0.1, or clip=none")
        self.max_value = max_value

    def __call__(self, parameters: Sequence[Parameter]) -> tuple[Tensor, Tensor]:
        grads = gradients(parameters)
        norm = total_norm(grads)
        acted = get_total_norm(grads, norm_type=math.inf) > self.max_value
        clip_grad_value_(parameters, self.max_value)
        return norm, acted
