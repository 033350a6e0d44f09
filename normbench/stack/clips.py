"""How the gradients of N replicas are clipped, each by its own bound: the rules of normbench/clip."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from normbench.clip import Clip, Clipped
from normbench.clip.layer import ClipLayer
from normbench.clip.none import NoClip
from normbench.clip.norm import ClipNorm
from normbench.clip.value import ClipValue


class Clips:
    """The clipping rule of N replicas, each with its own bound; what it tells are tensors (N,).

    The rules are those of normbench/clip, with sums over a replica's part of every stacked gradient.
    """

    def __init__(self, clips: Sequence[Clip]):
        self.bounds = torch.tensor([_bound(clip) for clip in clips], dtype=torch.float64)
        self.rule = RULES[type(clips[0])]

    def __call__(self, parameters: Iterable[Parameter]) -> Clipped:
        grads = [p.grad for p in parameters if p.grad is not None]
        self.bounds = self.bounds.to(grads[0])
        norms = torch.stack([torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads])
        return self.rule(grads, norms, self.bounds)


def _bound(clip: Any) -> float:
    return next((getattr(clip, key) for key in ("max_norm", "max_value") if hasattr(clip, key)), 0.0)


def _along(factors: Tensor, grad: Tensor) -> Tensor:
    """(N,) for a gradient (N, ...)."""
    return factors.view(-1, *[1] * (grad.dim() - 1))


def _none(grads: list[Tensor], norms: Tensor, bounds: Tensor) -> Clipped:
    norm = torch.linalg.vector_norm(norms, dim=0)
    return Clipped(norm, norm, torch.zeros_like(norm))


def _norm(grads: list[Tensor], norms: Tensor, bounds: Tensor) -> Clipped:
    norm = torch.linalg.vector_norm(norms, dim=0)
    factors = (bounds / norm).clamp_max(1.0)
    for grad in grads:
        grad.mul_(_along(factors, grad))
    return Clipped(norm, norm, norm > bounds)


def _value(grads: list[Tensor], norms: Tensor, bounds: Tensor) -> Clipped:
    norm = torch.linalg.vector_norm(norms, dim=0)
    entries = torch.cat([grad.flatten(1) for grad in grads], 1).abs_()
    for grad in grads:
        its = _along(bounds, grad)
        grad.clamp_(-its, its)
    return Clipped(norm, entries.amax(1), (entries > bounds[:, None]).float().mean(1))


def _layer(grads: list[Tensor], norms: Tensor, bounds: Tensor) -> Clipped:
    factors = (bounds / norms).clamp_max(1.0)
    for grad, its in zip(grads, factors, strict=True):
        grad.mul_(_along(its, grad))
    return Clipped(torch.linalg.vector_norm(norms, dim=0), norms.amax(0), (norms > bounds).float().mean(0))


RULES: Mapping[type, Any] = {NoClip: _none, ClipNorm: _norm, ClipValue: _value, ClipLayer: _layer}
