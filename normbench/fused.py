"""torch.optim's fused optimizers without the Python around their kernels: two thirds of Adam's time on an mlp."""

from collections.abc import Callable, Mapping
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

Kernel = Callable[[dict[str, Any], list, list, list], None]  # group, parameters, gradients, their states
ON_THE_CPU_ALONE = (Adagrad,)  # torch 2.11 to 2.13: `fused=True` raises in the first step elsewhere


def exists(maker: Callable[..., Any], device: str) -> bool:
    """Whether an optimizer class that takes `fused` has such a kernel for parameters on this type of device."""
    return device == "cpu" or not (isinstance(maker, type) and issubclass(maker, ON_THE_CPU_ALONE))


def quick(optimizer: Optimizer) -> None:
    """Have the optimizer's `step` call its kernels directly, from the second step on: the same kernels, the same bits.

    torch's own step gathers parameters, gradients and states into lists anew each time, sorts them by device and type
    and tells its profiler. What has no kernel in KERNELS stays as it is.
    """
    groups = optimizer.param_groups
    parameters = [p for group in groups for p in group["params"]]
    alike = len({(p.device, p.dtype) for p in parameters}) == 1 and parameters[0].is_floating_point()
    if type(optimizer) in KERNELS and alike and all(group.get("fused") for group in groups):
        optimizer.step = _Step(optimizer)  # type: ignore[method-assign]


class _Step:
    """Takes the place of `optimizer.step`."""

    def __init__(self, optimizer: Optimizer):
        self.optimizer, self.whole, self.kernel = optimizer, optimizer.step, KERNELS[type(optimizer)]
        self.known: list[tuple[list, list, bool]] = []  # of each group: parameters, states, whether it has momentum
        self.counts: Tensor | None = None  # of steps, of all parameters

    def __call__(self) -> None:
        groups, state = self.optimizer.param_groups, self.optimizer.state
        gradients = [[p.grad for p in group["params"]] for group in groups]
        complete = all(gradient is not None for its in gradients for gradient in its)
        if complete and self._as_known(groups, state):
            with torch.no_grad():
                if self.counts is not None:
                    self.counts += 1
                for group, its, (parameters, states, _) in zip(groups, gradients, self.known, strict=True):
                    self.kernel(group, parameters, its, states)
            return
        self.whole()
        self.known = [(g["params"], [*map(state.get, g["params"])], bool(g.get("momentum"))) for g in groups]
        self.known = self.known if complete else []  # a parameter without a gradient may have no state yet
        self.counts = _as_one([its["step"] for _, states, _ in self.known for its in states if its and "step" in its])

    def _as_known(self, groups: list[dict[str, Any]], state: Mapping) -> bool:
        """Not at first, and not after other states were loaded."""
        return len(groups) == len(self.known) and all(
            group["params"] is parameters
            and bool(group.get("momentum")) == momentum
            and all(map(is_, map(state.get, parameters), states))
            for group, (parameters, states, momentum) in zip(groups, self.known, strict=True)
        )


def _as_one(counts: list[Tensor]) -> Tensor | None:
    """The counts as entries of one tensor, so that one addition serves all: five take as long as Adam's kernel."""
    if not counts:
        return None
    together = torch.stack(counts)
    for count, entry in zip(counts, together, strict=True):
        count.data = entry
    return together


def _adam(group: dict[str, Any], parameters: list, gradients: list, states: list) -> None:
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_  # pyright: ignore[reportPrivateImportUsage]
    kernel(
        parameters, gradients, [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states],
        [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
        [state["step"] for state in states],
        lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
        eps=group["eps"], amsgrad=group["amsgrad"], maximize=group["maximize"],
    )  # fmt: skip


def _sgd(group: dict[str, Any], parameters: list, gradients: list, states: list) -> None:
    torch._fused_sgd_(  # pyright: ignore[reportPrivateImportUsage]
        parameters, gradients, [state["momentum_buffer"] for state in states] if group["momentum"] else [],
        lr=group["lr"], momentum=group["momentum"], weight_decay=group["weight_decay"], dampening=group["dampening"],
        nesterov=group["nesterov"], maximize=group["maximize"], is_first_step=False,
    )  # fmt: skip


KERNELS: dict[type[Optimizer], Kernel] = {Adam: _adam, AdamW: _adam, SGD: _sgd}
