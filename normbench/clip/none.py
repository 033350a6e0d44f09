"""No clipping; the gradients' norm is measured all the same."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from normbench.clip import gradients, total_norm

__all__ = ["NoClip"]


class NoClip:
    """The gradients stay as they are."""

    def __call__(self, parameters: Sequence[Parameter]) -> tuple[Tensor, Tensor]:
        norm = total_norm(gradients(parameters))
        return norm, torch.zeros_like(norm)
