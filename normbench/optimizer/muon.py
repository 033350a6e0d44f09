"""Muon: orthogonalized momentum for the matrices, AdamW for the rest."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Muon"]


class Muon:
    """MomentUm Orthogonalized by Newton-Schulz for the hidden layers' weights, AdamW for everything else.

        B = momentum B + g;  O = NS(g + momentum B)          (nesterov; else NS(B)); O is close to U V^T, B = U S V^T
        w = w - lr weight_decay w - lr sqrt(max(1, rows / columns)) O            (torch.optim.Muon)

    A convolution's weight (out, in, h, w) is the matrix (out, in h w). Vectors, gains, the last layer and tensors of
    layers that are none of torch's go to torch.optim.AdamW.

    Args:
        params: all parameters, or groups of them.
        matrices: those of them that Muon is for; see normbench.optimizer.matrices.
        lr: of the matrices, > 0.
        momentum: in [0, 1).
        nesterov: look ahead by one step of the momentum.
        ns_steps: Newton-Schulz iterations, 1 .. 99, in bfloat16; after 5 the singular values of O are 0.7 to 1.2 or so.
        adjust_lr_fn: `original`, as above; `match_rms_adamw`: 0.2 sqrt(max(rows, columns)) in place of the root.
        weight_decay: decoupled, of both; >= 0.
        adamw_lr, adamw_betas, adamw_eps: of AdamW.

    Raises:
        ValueError: a number out of its range, or no matrices.

    Source:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the numbers are those of the
        authors' code. match_rms_adamw: Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(
        self,
        params: Iterable,
        matrices: Iterable[Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "original",
        weight_decay: float = 0.0,
        adamw_lr: float = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-10,
    ):
        if not 1 <= ns_steps < 100:
            raise ValueError(f"ns_steps must be a whole number from 1 to 99, got {ns_steps}; try optimizer.ns_steps=5")
        if not adamw_lr > 0:
            raise ValueError(f"adamw_lr must be a number > 0, got {adamw_lr}; try optimizer.adamw_lr=3e-4")
        chosen = set(matrices)
        params = list(params)
        groups: list[dict[str, Any]] = params if isinstance(params[0], dict) else [{"params": params}]
        self.weights, self.flat, of_muon, of_adamw = [], [], [], []
        for group in groups:
            mine = [p for p in group["params"] if p in chosen]
            flat = [Parameter(_as_matrix(p, p).view(len(p), -1)) for p in mine]  # a view: of the same memory
            self.weights, self.flat = self.weights + mine, self.flat + flat
            of_muon += [{**group, "params": flat}] if mine else []
            rest = [p for p in group["params"] if p not in chosen]
            of_adamw += [{**group, "params": rest}] if rest else []
        settings = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
        settings |= {"adjust_lr_fn": adjust_lr_fn, "weight_decay": weight_decay}
        adamw = {"lr": adamw_lr, "betas": adamw_betas, "eps": adamw_eps, "weight_decay": weight_decay, "fused": True}
        self.parts: list[torch.optim.Optimizer] = [torch.optim.Muon(of_muon, **settings)]
        self.parts += [torch.optim.AdamW(of_adamw, **adamw)] if of_adamw else []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Muon's groups, then AdamW's."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for weight, flat in zip(self.weights, self.flat, strict=True):
            flat.grad = None if weight.grad is None else _as_matrix(weight.grad, weight).reshape(flat.shape)
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, its in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(its)


def _as_matrix(tensor: Tensor, weight: Tensor) -> Tensor:
    """Its dimensions in the order in which the weight lies in memory: O does not mind the order of the columns."""
    behind = sorted(range(1, weight.dim()), key=weight.stride, reverse=True)
    return tensor.detach().permute(0, *behind)
