"""A run's probe at work: the fixed batch it looks at, what it measured, and the health card at the run's end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normbench import evaluate
from normbench.config import STATISTICS
from normbench.probe.activations import Activations
from normbench.train import autocast

if TYPE_CHECKING:
    from normbench.build import Built

Row = tuple[Any, ...]  # of normbench.records.LAYERS


class Probing:
    """Its rows, and how they travel: in the checkpoint, so that a row is never ahead of the weights, and in layers.csv.

    rows: what was measured; saved: as far as the checkpoint reaches. seconds: that measuring took; it is a part of
    eval_s. (What a probe does inside a step is a part of train_s.)
    """

    def __init__(self, built: "Built"):
        self.built, self.probe = built, built.probe
        self.rows: list[Row] = []
        self.saved: list[Row] = []
        self.seconds = 0.0
        self.clip = self.probe.watch(built.model, built.clip)
        self.loss = loss_of(built, self.probe.images)

    def measure(self, step: int) -> None:
        started = time.perf_counter()
        self.rows += [(step, *reading) for reading in self.probe.measure(self.built.model, self.loss)]
        self.seconds += time.perf_counter() - started

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"layers": list(self.rows), "probe": self.probe.state(), "probe_s": self.seconds}

    def restore(self, content: dict[str, Any]) -> None:
        self.rows, self.saved = list(content["layers"]), list(content["layers"])
        self.seconds = content["probe_s"]
        self.probe.restore(content["probe"])

    def card(self) -> dict[str, Any]:
        """`health` for run.json, where the norm has put a layer into the network."""
        is_there = any(not isinstance(layer, nn.Identity) for layer in self.built.norm_layers)
        return {"health": health(self.built)} if is_there else {}


def try_out(built: "Built") -> None:
    """Measure two images, so that what can't be is refused before anything is written.

    Raises:
        ValueError: the probe can't measure this network.
    """
    probe = built.probe
    probe.watch(built.model, built.clip)
    if probe.images:
        x, y = built.preprocess(built.data.sample()), built.data.train[1][:2]
        probe.measure(built.model, _loss(built, x, y))


def loss_of(built: "Built", count: int) -> Callable[[], Tensor]:
    """The loss of `count` images of train_eval, evenly spaced, as normbench.probe.Probe.measure describes it.

    All of train_eval, if it has fewer.
    """
    images, labels = built.data.train_eval
    count = max(1, min(count, len(labels)))
    index = torch.arange(count, device=labels.device) * len(labels) // count
    x = built.preprocess(images[index])
    return _loss(built, x, labels[index])


def _loss(built: "Built", x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        with by_batch(built.model, x.device), autocast(x, built.amp):
            logits = built.model(x)
        return built.loss_fn(logits if built.amp is None else logits.float(), y)

    return loss


@contextmanager
def by_batch(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Layers with running statistics work by the batch, as in training, all others as in evaluation; nothing stays.

    Buffers are put aside for copies, not copied back: backward still needs those of the forward pass as they were.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(m, name, b) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model.eval()
            for layer in evaluate.with_statistics(model):
                layer.train()
            for module, name, buffer in buffers:
                module._buffers[name] = buffer.clone()
            yield
        finally:
            for module, name, buffer in buffers:
                module._buffers[name] = buffer
            for module, mode in modes:
                module.training = mode


def health(built: "Built") -> dict[str, Any]:
    """The trained network on the validation images with each kind of statistics, and what became of its units.

    val: kind of statistics -> loss and acc; equal where no layer has running statistics. dead, saturated: mean over
    the layers that have such a share (normbench.probe.activations), None where none has. norm_readings: what its
    norms learned, switchable norm's weights above all.
    """
    kinds = STATISTICS if evaluate.with_statistics(built.model) else STATISTICS[:1]
    found = evaluate.by_statistics(built, kinds, splits=("val",))
    try:
        units = Activations().measure(built.model, loss_of(built, Activations().images))
    except ValueError:  # no activation is a module of its own
        units = []
    shares = {stat: [r.value for r in units if r.stat == stat] for stat in ("dead", "saturated")}
    return {
        "val": {kind: found.get(kind, found[STATISTICS[0]]) for kind in STATISTICS},
        **{stat: sum(values) / len(values) if values else None for stat, values in shares.items()},
        "norm_readings": evaluate.readings(built),
    }
