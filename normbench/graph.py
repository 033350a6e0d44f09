"""`engine=graph`: the whole step as one CUDA graph. Some sixty kernels that are launched one by one become one launch.

The tests replay on the CPU what would be recorded; those marked gpu record and replay it on a GPU.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import (
    SGD,
    Adadelta,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

from normbench.train import Step, remembered

if TYPE_CHECKING:
    from normbench.build import Built

WARM_UP = 3  # steps that are taken as they are: the optimizer makes its state, libraries choose their kernels
# whose kernels take the learning rate from the device: the fused ones, and those that are `capturable`
OPTIMIZERS = (SGD, Adam, AdamW, Adadelta, Adamax, NAdam, RAdam, RMSprop)

Recorder = Callable[[Callable[[], None]], Callable[[], None]]  # what a function does on the device, to be done again


# ------------------------------------------------------------------------------------------------------ which runs


def check(built: "Built") -> None:
    """Raise Impossible, with the reason, for a run whose step can't be recorded."""
    from normbench.norm import Impossible

    why = why_not(built)
    if why:
        raise Impossible(f"engine=graph does not serve this run: {why}; try engine=serial")


def why_not(built: "Built") -> str | None:
    """Why the run's step can't be recorded, or None if it can."""
    from normbench.parts import is_known

    config = built.config
    own = [group for group in ("model", "norm", "loss", "clip") if not is_known(group, getattr(config, group))]
    if own:
        return f"{own[0]}={getattr(config, own[0])['name']} may do in Python what a graph would not do again"
    if type(built.optimizer) not in OPTIMIZERS:
        return f"optimizer={config.optimizer['name']} does not take its learning rate from the device"
    groups = built.optimizer.param_groups
    moved = {key for group in groups for key in built.schedule.values(0, 1, [], remembered(dict(group)))} - {"lr"}
    if moved:
        return f"schedule={config.schedule['name']} moves {' and '.join(sorted(moved))}, which stays as recorded"
    if config.clip["name"] == "update":
        return "clip=update reads the learning rate"
    if config.probe["name"] != "none":
        return f"probe={config.probe['name']} looks into the step"
    if built.data.masked:
        return f"dataset={config.dataset['name']} has sequences whose lengths are read at every step"
    return None


def capturing(built: "Built", optimizer: Optimizer, rows: int) -> Callable[[Step], Step]:
    """What train() is to make of its step: nothing else, or a recorded one.

    Args:
        optimizer: the one that the step steps (a stack has its own).
        rows: so many steps at most are between two readings of what they measured.
    """
    if not built.captured:
        return lambda step: step
    return lambda step: Captured(step, optimizer, built.device, rows, on_cuda)


# -------------------------------------------------------------------------------------------------------- the step


class Captured:
    """A step of train() that is taken WARM_UP times as it is, then recorded, without being taken, and replayed.

    Whatever changes from step to step is on the device: the batch and the learning rates are copied into places of
    their own, and what the step measures is written into row k of `columns`, k counted there. All other numbers (decay,
    momentum, bounds, ...) stay as they were when it was recorded.

    Args:
        step: as in train().
        optimizer: its groups have floats as learning rates, as a schedule sets them.
        rows: so many steps at most are between two readings of what was measured.
        record: on_cuda; on the CPU, a test's own.
    """

    def __init__(self, step: Step, optimizer: Optimizer, device: torch.device, rows: int, record: Recorder):
        self.step, self.optimizer, self.device, self.rows, self.record = step, optimizer, device, rows, record
        vars(optimizer)["_warned_capturable_if_run_uncaptured"] = True  # by WARM_UP steps, which are to be so
        self.rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.given = [0.0] * len(self.rates)  # what they hold
        self.row = torch.zeros((), dtype=torch.int64, device=device)
        self.places = torch.arange(rows, device=device)
        self.columns: list[Tensor] = []
        self.batch: tuple[Tensor, Tensor] | None = None
        self.taken = 0
        self.replay: Callable[[], None] | None = None

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        self._give(x, y)
        if self.taken < WARM_UP:
            with _beside(self.device):
                self._whole()
        else:
            self.replay = self.replay or self.record(self._whole)
            self.replay()
        row = self.taken % self.rows
        self.taken += 1
        return tuple(column[row] for column in self.columns)

    def _give(self, x: Tensor, y: Tensor) -> None:
        """Put the batch and the learning rates where the step takes them from."""
        self.batch = self.batch or (torch.empty_like(x), torch.empty_like(y))
        for place, value in zip(self.batch, (x, y), strict=True):
            assert place.shape == value.shape, "every batch of a run has the same size"
            place.copy_(value)
        for number, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self.given[number]:
                self.given[number] = group["lr"]
                self.rates[number].fill_(group["lr"])

    def _whole(self) -> None:
        """The step, and all that belongs to it, on the device alone."""
        assert self.batch is not None
        groups = self.optimizer.param_groups
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
        loss, hits, *clipped = self.step(*self.batch)
        measured = [loss, hits.sum(-1, keepdim=True), *clipped]  # how many: every column is written whole, every step
        for group, number in zip(groups, self.given, strict=True):
            group["lr"] = number
        self.columns = self.columns or [value.new_zeros((self.rows, *value.shape)) for value in measured]
        here = (
            self.places == self.row
        )  # index_copy_ would sort its one index, to be deterministic: five kernels a column
        for column, value in zip(self.columns, measured, strict=True):
            torch.where(here.view(-1, *[1] * value.dim()), value, column, out=column)
        self.row.add_(1).remainder_(self.rows)


def on_cuda(function: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of what the function launches; nothing of it is done now."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def _beside(device: torch.device) -> ExitStack:
    """On a stream of its own, after all that is launched, before all that will be: so CUDA wants a warm-up."""
    context = ExitStack()
    if device.type == "cuda":
        stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(current)
        context.callback(current.wait_stream, stream)
        context.enter_context(torch.cuda.stream(stream))
    return context
