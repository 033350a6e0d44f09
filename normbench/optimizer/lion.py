"""Lion: the sign of an interpolated momentum."""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Lion"]


class Lion(torch.optim.Optimizer):
    """EvoLved Sign Momentum: every entry moves by lr, up or down.

        c = beta1 m + (1 - beta1) g
        w = w - lr (sign(c) + weight_decay w)
        m = beta2 m + (1 - beta2) g            (m begins at 0)

    Args:
        params: parameters or groups of them.
        lr: the length of every entry's step, > 0; three to ten times smaller than Adam's.
        betas: in [0, 1) each.
        weight_decay: decoupled; >= 0. Three to ten times larger than AdamW's, so that lr weight_decay is the same.

    Raises:
        ValueError: a number out of its range.

    Source:
        Chen et al. 2023, arXiv 2302.06675, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        if not lr >= 0:
            raise ValueError(f"lr must be a number >= 0, got {lr}; try optimizer.lr=1e-4")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas}; try 'optimizer.betas=[0.9,0.99]'")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be a number >= 0, got {weight_decay}; try optimizer.weight_decay=0")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, (beta1, beta2), weight_decay = group["lr"], group["betas"], group["weight_decay"]
            weights: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            gradients: list[Tensor] = [p.grad for p in group["params"] if p.grad is not None]
            momenta = [self._momentum(weight) for weight in weights]
            if not weights:
                continue
            directions = torch._foreach_lerp(momenta, gradients, 1 - beta1)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_sign_(directions)  # pyright: ignore[reportPrivateImportUsage]
            if weight_decay:
                torch._foreach_mul_(weights, 1 - lr * weight_decay)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(weights, directions, alpha=-lr)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)  # pyright: ignore[reportPrivateImportUsage]
        return loss

    def _momentum(self, weight: Tensor) -> Tensor:
        if not self.state[weight]:
            self.state[weight]["momentum"] = torch.zeros_like(weight)
        return self.state[weight]["momentum"]
