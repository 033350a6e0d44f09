"""Clipping the optimizer's finished step instead of the gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from normbench.clip import Clip, Clipped, check_bound

__all__ = ["ClipUpdate"]


class ClipUpdate(Clip):
    """Scale the step by c / ||u|| where ||u|| > c, u = (w_after - w_before) / lr over all parameters together.

    u is what the optimizer makes of the gradient before it meets the learning rate (each group's own), weight decay
    included. Its norm is the size; it is nothing like the gradient's: for Adam about sqrt(number of parameters), for
    sgd the gradient's own. Below the bound the step keeps every bit. The optimizer's state is not touched.

    Args:
        max_norm: the bound c, in units of step / lr; > 0. It must be chosen for each optimizer and network.

    Raises:
        ValueError: max_norm is not a number > 0.

    Source:
        The documents' algorithm clips Adam's corrected direction; cf. Shazeer & Stern 2018, arXiv 1804.04235,
        section 6.
    """

    def __init__(self, max_norm: float = 100.0):
        self.max_norm = check_bound("max_norm", max_norm, 100)
        self.before: list[Tensor] = []
        self.parameters: list[Tensor] = []

    def __call__(self, parameters: Sequence[Parameter]) -> Clipped:
        if len(self.before) != len(parameters):
            self.before = [torch.empty_like(p) for p in parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.before, list(parameters))  # pyright: ignore[reportPrivateImportUsage]
        self.parameters = list(parameters)
        return super().__call__(parameters)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, clipped: Clipped) -> Clipped:
        lrs = {}
        for group in optimizer.param_groups:
            lrs |= dict.fromkeys((p.data_ptr() for p in group["params"]), group["lr"])  # muon's are views of ours
        steps = torch._foreach_sub(self.parameters, self.before)  # pyright: ignore[reportPrivateImportUsage]
        norms = torch._foreach_norm(steps)  # pyright: ignore[reportPrivateImportUsage]
        sizes = [norm / (lrs[p.data_ptr()] or 1.0) for p, norm in zip(self.parameters, norms, strict=True)]
        size = torch.linalg.vector_norm(torch.stack(sizes))
        factor = (self.max_norm / size).clamp_max(1.0)
        for p, before in zip(self.parameters, self.before, strict=True):
            p.copy_(torch.where(factor < 1, torch.lerp(before, p, factor), p))
        return clipped._replace(size=size, share=size > self.max_norm)
