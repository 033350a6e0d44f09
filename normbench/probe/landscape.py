"""The loss and its gradient along the gradient."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from normbench.probe import Probe, Reading, check_count

__all__ = ["Landscape"]


class Landscape(Probe):
    """From one point w, steps of different sizes along its gradient: what becomes of the loss and of the gradient.

    With g = grad L(w), for each step size s: w_s = w - s g, L_s = L(w_s), g_s = grad L(w_s). Readings (layer `all`,
    kind `landscape`): loss, L(w); loss_min and loss_max of L_s (loss range); grad_norm, ||g||; gdiff_min and gdiff_max
    of ||g_s - g|| (gradient predictiveness: the smaller, the better g predicts); beta_max, the largest
    ||g_s - g|| / ||s g|| (effective beta-smoothness). L is over a fixed batch, norms working by the batch.

    Args:
        images: of the fixed batch.
        step_sizes: by which the gradient is multiplied, as a learning rate of sgd would; each > 0.

    Raises:
        ValueError: images is no whole number >= 1; no step size, or one that is not > 0.

    Source:
        Santurkar, Tsipras, Ilyas & Madry 2018, arXiv 1805.11604, section 3.1 and figure 4. Difference: one fixed batch
        throughout, not the batch of the step.
    """

    def __init__(self, images: int = 256, step_sizes: Sequence[float] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)):
        self.images = check_count("images", images, 256)
        if not step_sizes or not all(0 < size < math.inf for size in step_sizes):
            raise ValueError(
                f"step_sizes must be a list of numbers > 0, got {list(step_sizes)}; try probe.step_sizes=[0.1,0.2,0.4]"
            )
        self.step_sizes = tuple(step_sizes)

    def measure(self, model: nn.Module, loss: Callable[[], Tensor]) -> list[Reading]:
        weights = [p for p in model.parameters() if p.requires_grad]
        start = [w.detach().clone() for w in weights]
        here, gradient = _at(loss, weights)
        losses, changes = [], []
        try:
            for size in self.step_sizes:
                _put(weights, [w - size * g for w, g in zip(start, gradient, strict=True)])
                value, there = _at(loss, weights)
                losses.append(value)
                changes.append(_norm([a - b for a, b in zip(there, gradient, strict=True)]))
        finally:
            _put(weights, start)
        length = _norm(gradient)
        sizes = torch.tensor(self.step_sizes, dtype=torch.float64)
        change = torch.stack(changes).cpu()
        values = {
            "loss": here, "loss_min": torch.stack(losses).min(), "loss_max": torch.stack(losses).max(),
            "grad_norm": length, "gdiff_min": change.min(), "gdiff_max": change.max(),
            "beta_max": (change / (sizes * length.cpu())).max(),
        }  # fmt: skip
        return [Reading("all", 0, "landscape", stat, value.item()) for stat, value in values.items()]


def _at(loss: Callable[[], Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
    """The loss in double precision and its gradient; the weights' own .grad stays as it is."""
    with torch.enable_grad():
        value = loss()
        gradient = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
    return value.detach().double(), gradient


@torch.no_grad()
def _put(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all of them together, in double precision: the square of a gradient may be none of float32."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t, dtype=torch.float64) for t in tensors]))
