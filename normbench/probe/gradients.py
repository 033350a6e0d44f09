"""Gradients and updates by layer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from normbench.probe import Probe, Reading, check_count

__all__ = ["Gradients"]


class Gradients(Probe):
    """Of every layer with weights, over the steps that are looked at since the last evaluation.

    grad: norm_mean and norm_max of ||g||, before clipping; clipped, the share of steps on which the clipping rule made
    ||g|| smaller (clip=update does not touch gradients: 0). update: ratio = mean ||w_after - w_before|| / mean
    ||w_before||, the effective learning rate, by whatever optimizer, decay and clipping. weight: norm_mean of
    ||w_before||.

    A layer is a module that owns parameters of two or more dimensions, which are its w (of weight normalization g and
    v together); its index is its place among them. Biases and norms' gains are left out: the layers are the same with
    every norm. At the first evaluation, before the first step, there is nothing to tell.

    Args:
        every: the first step after an evaluation is looked at, and every so manieth after it.

    Raises:
        ValueError: every is no whole number >= 1, or no parameter has two dimensions.
    """

    def __init__(self, every: int = 10):
        self.every = check_count("every", every, 10)
        self.step = 0  # since the last evaluation
        self.seen: list[Tensor] = []  # of a step: ||g|| before and after clipping, ||update||, ||w||; each by layer

    def watch(self, model: nn.Module, clip: Any) -> Any:
        self.layers = layers_of(model)
        if not self.layers:
            raise ValueError("probe=gradients needs parameters of two or more dimensions, this network has none")
        return _Watched(self, clip)

    def measure(self, model: nn.Module, loss: Callable[[], Tensor]) -> list[Reading]:
        if not self.seen:
            return []
        before, after, updates, weights = torch.stack(self.seen).double().cpu().unbind(1)  # each (steps, layers)
        table = {
            ("grad", "norm_mean"): before.mean(0),
            ("grad", "norm_max"): before.amax(0),
            ("grad", "clipped"): (after < before).double().mean(0),
            ("update", "ratio"): updates.mean(0) / weights.mean(0),
            ("weight", "norm_mean"): weights.mean(0),
        }
        self.step, self.seen = 0, []
        return [
            Reading(layer, index, kind, stat, values[index].item())
            for index, layer in enumerate(self.layers)
            for (kind, stat), values in table.items()
        ]

    def state(self) -> Any:
        return {"step": self.step, "seen": [row.cpu() for row in self.seen]}

    def restore(self, state: Any) -> None:
        device = next(iter(self.layers.values()))[0].device
        self.step, self.seen = state["step"], [row.to(device) for row in state["seen"]]


class _Watched:
    """A clipping rule that is looked at: it does what it does without."""

    def __init__(self, probe: Gradients, clip: Any):
        self.probe, self.clip = probe, clip
        self.weights: list[Tensor] = [p for tensors in probe.layers.values() for p in tensors]
        self.sizes = [len(tensors) for tensors in probe.layers.values()]
        self.before = [torch.empty_like(p) for p in self.weights]
        self.norms: list[Tensor] | None = None  # of this step, if it is looked at

    def __call__(self, parameters: Sequence[Parameter]) -> Any:
        probe = self.probe
        is_looked_at = probe.step % probe.every == 0
        probe.step += 1
        if not is_looked_at:
            return self.clip(parameters)
        before = self._by_layer(self._gradients())
        clipped = self.clip(parameters)
        self.norms = [before, self._by_layer(self._gradients())]
        with torch.no_grad():
            torch._foreach_copy_(self.before, self.weights)  # pyright: ignore[reportPrivateImportUsage]
        return clipped

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, clipped: Any) -> Any:
        clipped = self.clip.after_step(optimizer, clipped)
        if self.norms is not None:
            updates = list(torch._foreach_sub(self.weights, self.before))  # pyright: ignore[reportPrivateImportUsage]
            norms = [*self.norms, self._by_layer(updates), self._by_layer(self.before)]
            self.probe.seen.append(torch.stack(norms))
            self.norms = None
        return clipped

    def _gradients(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.weights]

    def _by_layer(self, tensors: list[Tensor]) -> Tensor:
        """The L2 norm of each layer's tensors together."""
        norms = torch.stack(torch._foreach_norm(tensors))  # pyright: ignore[reportPrivateImportUsage]
        if max(self.sizes) == 1:
            return norms
        return torch.stack([torch.linalg.vector_norm(part) for part in norms.split(self.sizes)])


def layers_of(model: nn.Module) -> dict[str, list[Parameter]]:
    """Path of each layer with weights -> those that are trained; reparametrized ones are their layer's."""
    found: dict[str, list[Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dim() >= 2:
            owner = name.rpartition(".")[0].partition(".parametrizations.")[0].removeprefix("parametrizations.")
            found.setdefault(owner, []).append(parameter)
    return found
