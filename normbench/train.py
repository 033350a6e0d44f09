"""The method: how a network is trained and evaluated. No config, no files, no printing in here."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from normbench.clip import Clip
from normbench.schedule import Schedule

Row = dict[str, float | None]
Step = Callable[[Tensor, Tensor], tuple[Tensor, ...]]  # images and labels of a batch -> what Progress.window holds
STEPS = (
    "train_loss", "train_acc", "grad_norm_mean", "grad_norm_max", "clip_frac", "clip_share", "clip_size_mean",
)  # fmt: skip


@dataclass
class Progress:
    """How far a run has come; with the weights, the optimizer and the random state, all that a resume needs.

    `window` holds what the steps since the last row measured, on the device until it is read: loss, which images
    were hit, and what the clipping rule tells (normbench.clip.Clipped).
    """

    step: int = 0
    train_s: float = 0.0
    eval_s: float = 0.0
    diverged_step: int | None = None
    rows: list[Row] = field(default_factory=list)
    window: list[tuple[Tensor, ...]] = field(default_factory=list)

    def copy(self) -> "Progress":
        """As it is now; later steps do not change it."""
        return replace(self, rows=list(self.rows), window=list(self.window))


def train(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    clip: Clip,
    schedule: Schedule,
    measure: Callable[[], Mapping[str, float]],
    progress: Progress,
    *,
    total_steps: int,
    steps_per_epoch: int,
    eval_every: int,
    amp: torch.dtype | None = None,
    captured: Callable[[Step], Step] = lambda step: step,
) -> Iterator[Row]:
    """Train on the batches; yield a row before the first step, after every `eval_every` steps and after the last.

    Whoever calls decides by the batches where it ends: when they run out before `total_steps`, the run can go on
    later from `progress`. It ends with `progress.diverged_step` set where loss, gradient norm or a measurement
    stops being finite; that is noticed when the device is read, once a row, and told to the step.

    Args:
        measure: evaluates the model as it is; its numbers (train_eval_*, val_*) go into the row. Not timed.
        amp: the forward pass runs in this type where torch's autocast says that it may.
        captured: makes of the step what is called in its place (normbench/graph.py).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        with autocast(x, amp):
            logits = model(x)
        loss = loss_fn(logits if amp is None else logits.float(), y)
        for parameter in parameters:
            parameter.grad = None  # what optimizer.zero_grad() does, without 6 % of an mlp's step spent around it
        loss.backward()
        clipped = clip(parameters)
        optimizer.step()
        clipped = clip.after_step(optimizer, clipped)
        return loss.detach(), logits.argmax(1) == y, *clipped  # the hits are counted when the window is read

    take = captured(step)
    initial = [remembered(group) for group in optimizer.param_groups]
    if not progress.rows:
        lr = (initial[0] | schedule.values(0, total_steps, [], initial[0]))["lr"]
        measured = _timed(measure, progress)
        if not all_finite(measured):
            progress.diverged_step = 0
            return
        yield add_row(progress, 0, 0.0, lr, {}, measured)

    _switch(model, optimizer, training=True)
    started = time.perf_counter()
    for x, y in batches:
        for group, its in zip(optimizer.param_groups, initial, strict=True):
            set_group(group, schedule.values(progress.step, total_steps, progress.rows, its))
        progress.window.append(take(x, y))
        progress.step += 1
        if progress.step % eval_every == 0 or progress.step == total_steps:
            steps = _read(progress.window)  # the only wait for the device
            progress.train_s += time.perf_counter() - started
            progress.diverged_step = first_not_finite(steps, progress.step)
            if progress.diverged_step is not None:
                return
            _switch(model, optimizer, training=False)
            measured = _timed(measure, progress)
            if not all_finite(measured):
                progress.diverged_step = progress.step
                return
            progress.window.clear()
            examples, epoch = progress.step * len(y), progress.step / steps_per_epoch
            lr = optimizer.param_groups[0]["lr"]
            yield add_row(progress, examples, epoch, lr, averages_of(steps, len(y)), measured)
            if progress.step < total_steps:  # at the end the network stays as evaluated
                _switch(model, optimizer, training=True)
            started = time.perf_counter()
    progress.train_s += time.perf_counter() - started


def autocast(x: Tensor, amp: torch.dtype | None):
    """The context for a forward pass on x: torch's autocast to `amp`, or nothing."""
    return nullcontext() if amp is None else torch.autocast(x.device.type, amp)


def remembered(group: dict) -> dict[str, float]:
    """The group's own settings that a schedule may move, kept in the group: they go into the checkpoint with it."""
    its = {key: group[key] for key in ("lr", "weight_decay", "momentum") if key in group}
    its |= {"momentum": group["betas"][0]} if "betas" in group else {}
    return group.setdefault("initial", its)


def set_group(group: dict, values: Mapping[str, float]) -> None:
    group |= values
    if "betas" in group and "momentum" in values:
        group["betas"] = (group.pop("momentum"), *group["betas"][1:])


def _switch(model: nn.Module, optimizer: torch.optim.Optimizer, training: bool) -> None:
    """To training or to evaluation; a schedule-free optimizer moves the weights between its two points."""
    model.train(training)
    switch = getattr(optimizer, "train" if training else "eval", None)
    if switch is not None:
        switch()


def add_row(progress: Progress, examples: int, epoch: float, lr: float, averages: Mapping, measured: Mapping) -> Row:
    row: Row = {"step": progress.step, "examples": examples, "epoch": epoch, "train_s": progress.train_s, "lr": lr}
    row |= dict.fromkeys(STEPS)
    progress.rows.append({**row, **averages, **measured})
    return progress.rows[-1]


def _timed(measure: Callable[[], Mapping[str, float]], progress: Progress) -> Mapping[str, float]:
    started = time.perf_counter()
    measured = measure()
    progress.eval_s += time.perf_counter() - started
    return measured


def all_finite(measured: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for value in measured.values())


def _read(window: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """The window as (steps, 5) float64 on the CPU: loss, hits, grad_norm, size, share."""
    loss, hits, *clipped = (torch.stack(column) for column in zip(*window, strict=True))
    return torch.stack([column.double() for column in (loss, hits.sum(1), *clipped)], dim=1).cpu()


def first_not_finite(steps: Tensor, last_step: int) -> int | None:
    """The number (from 1) of the first step in which anything is not finite."""
    bad = (~steps.isfinite().all(dim=1)).nonzero()
    return last_step - len(steps) + int(bad[0]) + 1 if len(bad) else None


def averages_of(steps: Tensor, batch_size: int) -> dict[str, float]:
    loss, hits, grad_norm, size, share = steps.mean(dim=0).tolist()
    largest, acted = steps[:, 2].max().item(), (steps[:, 4] > 0).double().mean().item()
    return dict(zip(STEPS, (loss, hits / batch_size, grad_norm, largest, acted, share, size), strict=True))


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    preprocess: Callable[[Tensor], Tensor],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    by_batch: Sequence[nn.Module] = (),
    amp: torch.dtype | None = None,
) -> tuple[float, float]:
    """Mean loss and accuracy (in [0, 1]) in evaluation mode, over every image exactly once.

    Args:
        by_batch: layers that stay in training mode, to normalize by the statistics of the batch. No batch is then
            smaller than batch_size: what is left over joins the others.
        amp: as in `train`.
    """
    model.eval()
    for layer in by_batch:
        layer.train()
    parts = max(1, len(labels) // batch_size) if by_batch else -(-len(labels) // batch_size)
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    hits = torch.zeros((), dtype=torch.int64, device=labels.device)
    for x, y in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
        inputs = preprocess(x)
        with autocast(inputs, amp):
            logits = model(inputs)
        loss += loss_fn(logits if amp is None else logits.float(), y).double() * len(y)
        hits += (logits.argmax(1) == y).sum()
    return loss.item() / len(labels), hits.item() / len(labels)
