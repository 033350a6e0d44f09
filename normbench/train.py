"""The method: how a network is trained and evaluated. No config, no files, no printing in here."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

Row = dict[str, float | None]


@dataclass
class Progress:
    """How far a run has come; with the weights, the optimizer and the random state, all that a resume needs.

    `window` holds what the steps since the last row measured, on the device until it is read: loss, which images
    were hit, gradient norm, whether the clipping rule acted.
    """

    step: int = 0
    train_s: float = 0.0
    eval_s: float = 0.0
    diverged_step: int | None = None
    rows: list[Row] = field(default_factory=list)
    window: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    def copy(self) -> "Progress":
        """As it is now; later steps do not change it."""
        return replace(self, rows=list(self.rows), window=list(self.window))


def train(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    clip: Callable[[Sequence[nn.Parameter]], tuple[Tensor, Tensor]],
    schedule: Callable[[int, int, Sequence[Row]], float],
    measure: Callable[[], Mapping[str, float]],
    progress: Progress,
    *,
    total_steps: int,
    steps_per_epoch: int,
    eval_every: int,
) -> Iterator[Row]:
    """Train on the batches; yield a row before the first step, after every `eval_every` steps and after the last.

    Whoever calls decides by the batches where it ends: when they run out before `total_steps`, the run can go on
    later from `progress`. It ends with `progress.diverged_step` set where loss, gradient norm or a measurement
    stops being finite; that is noticed when the device is read, once a row, and told to the step.

    Args:
        measure: evaluates the model as it is; its numbers (train_eval_*, val_*) go into the row. Not timed.
        schedule: (step, total_steps, rows so far) -> factor for the learning rate.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    if not progress.rows:
        lr = base_lrs[0] * schedule(0, total_steps, [])
        measured = _timed(measure, progress)
        if not _all_finite(measured):
            progress.diverged_step = 0
            return
        yield _add_row(progress, 0, 0.0, lr, {}, measured)

    model.train()
    started = time.perf_counter()
    for x, y in batches:
        factor = schedule(progress.step, total_steps, progress.rows)
        for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
            group["lr"] = base_lr * factor

        logits = model(x)
        loss = loss_fn(logits, y)
        for parameter in parameters:
            parameter.grad = None  # what optimizer.zero_grad() does, without 6 % of an mlp's step spent around it
        loss.backward()
        grad_norm, clipped = clip(parameters)
        optimizer.step()

        hits = logits.argmax(1) == y  # counted when the window is read
        progress.window.append((loss.detach(), hits, grad_norm, clipped))
        progress.step += 1
        if progress.step % eval_every == 0 or progress.step == total_steps:
            steps = _read(progress.window)  # the only wait for the device
            progress.train_s += time.perf_counter() - started
            progress.diverged_step = _first_not_finite(steps, progress.step)
            if progress.diverged_step is not None:
                return
            measured = _timed(measure, progress)
            if not _all_finite(measured):
                progress.diverged_step = progress.step
                return
            progress.window.clear()
            examples, epoch = progress.step * len(y), progress.step / steps_per_epoch
            lr = optimizer.param_groups[0]["lr"]
            yield _add_row(progress, examples, epoch, lr, _averages(steps, len(y)), measured)
            model.train()
            started = time.perf_counter()
    progress.train_s += time.perf_counter() - started


def _add_row(progress: Progress, examples: int, epoch: float, lr: float, averages: Mapping, measured: Mapping) -> Row:
    row: Row = {"step": progress.step, "examples": examples, "epoch": epoch, "train_s": progress.train_s, "lr": lr}
    row |= dict.fromkeys(("train_loss", "train_acc", "grad_norm_mean", "grad_norm_max", "clip_frac"))
    progress.rows.append({**row, **averages, **measured})
    return progress.rows[-1]


def _timed(measure: Callable[[], Mapping[str, float]], progress: Progress) -> Mapping[str, float]:
    started = time.perf_counter()
    measured = measure()
    progress.eval_s += time.perf_counter() - started
    return measured


def _all_finite(measured: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for value in measured.values())


def _read(window: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """The window as (steps, 4) float64 on the CPU."""
    loss, hits, grad_norm, clipped = (torch.stack(column) for column in zip(*window, strict=True))
    return torch.stack([column.double() for column in (loss, hits.sum(1), grad_norm, clipped)], dim=1).cpu()


def _first_not_finite(steps: Tensor, last_step: int) -> int | None:
    """The number (from 1) of the first step whose loss or gradient norm is not finite."""
    bad = (~steps.isfinite().all(dim=1)).nonzero()
    return last_step - len(steps) + int(bad[0]) + 1 if len(bad) else None


def _averages(steps: Tensor, batch_size: int) -> dict[str, float]:
    loss, hits, grad_norm, clipped = steps.mean(dim=0).tolist()
    return {
        "train_loss": loss,
        "train_acc": hits / batch_size,
        "grad_norm_mean": grad_norm,
        "grad_norm_max": steps[:, 2].max().item(),
        "clip_frac": clipped,
    }


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    preprocess: Callable[[Tensor], Tensor],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    by_batch: Sequence[nn.Module] = (),
) -> tuple[float, float]:
    """Mean loss and accuracy (in [0, 1]) in evaluation mode, over every image exactly once.

    Args:
        by_batch: layers that stay in training mode, to normalize by the statistics of the batch. No batch is then
            smaller than batch_size: what is left over joins the others.
    """
    model.eval()
    for layer in by_batch:
        layer.train()
    parts = max(1, len(labels) // batch_size) if by_batch else -(-len(labels) // batch_size)
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    hits = torch.zeros((), dtype=torch.int64, device=labels.device)
    for x, y in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
        logits = model(preprocess(x))
        loss += loss_fn(logits, y).double() * len(y)
        hits += (logits.argmax(1) == y).sum()
    return loss.item() / len(labels), hits.item() / len(labels)
