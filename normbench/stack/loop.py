"""The method for N replicas at once: normbench/train.py's train() and evaluate(), line by line. No files in here."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.stack.clips import Clips
from normbench.stack.optimizers import Optimizers
from normbench.train import Progress, Row, Step, add_row, all_finite, averages_of, first_not_finite

Measured = Sequence[Mapping[str, float]]  # one a replica


def train(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    optimizers: Optimizers,
    clips: Clips,
    measure: Callable[[], Measured],
    progresses: Sequence[Progress],
    window: list[tuple[Tensor, ...]],
    *,
    total_steps: int,
    steps_per_epoch: int,
    eval_every: int,
    captured: Callable[[Step], Step] = lambda step: step,
) -> Iterator[list[Row | None]]:
    """Train on the batches; yield the replicas' rows when their serial runs would, None for those that diverged.

    A replica that diverges is computed on, its numbers meet no other's, and it gets no more rows. When all have, it
    is over. A replica's seconds are its share, one in N, of those that the stack took.

    Args:
        network: of stacked layers (normbench/stack/layers.py).
        batches: images (B, N C, ...) and labels (N, B).
        measure: as for train(), of each replica.
        progresses: of each replica, all at the same step; in place of their windows there is
        window: what the steps since the last row measured, in each tensor one entry a replica.
        captured: as for train().
    """
    parameters = list(network.parameters())
    width = len(progresses)

    def step_of_all(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        logits = split(network(x), width)
        losses = each_loss(loss_fn, logits, y)
        for parameter in parameters:
            parameter.grad = None
        losses.sum().backward()  # the gradient of each replica's loss: they share no weight
        clipped = clips(parameters)
        optimizers.step()
        return losses.detach(), logits.max(1).indices == y, *clipped

    take = captured(step_of_all)
    step = progresses[0].step
    histories = [progress.rows for progress in progresses]
    if not progresses[0].rows:
        rows = []
        for n, (progress, measured) in enumerate(zip(progresses, _timed(measure, progresses), strict=True)):
            progress.diverged_step = None if all_finite(measured) else 0
            lr = optimizers.first_lr(n, total_steps)
            rows.append(None if _is_over(progress) else add_row(progress, 0, 0.0, lr, {}, measured))
        yield rows
        if all(map(_is_over, progresses)):
            return

    network.train()
    started = time.perf_counter()
    for x, y in batches:
        optimizers.set_to(step, total_steps, histories)
        window.append(take(x, y))
        step += 1
        for progress in progresses:
            progress.step = progress.step if _is_over(progress) else step
        if step % eval_every == 0 or step == total_steps:
            steps = _read(window)  # the only wait for the device
            _share(progresses, started)
            for n, progress in enumerate(progresses):
                if not _is_over(progress):
                    progress.diverged_step = first_not_finite(steps[n], step)
            if all(map(_is_over, progresses)):
                return
            network.eval()
            rows = []
            examples, epoch = step * y.shape[1], step / steps_per_epoch
            for n, (progress, measured) in enumerate(zip(progresses, _timed(measure, progresses), strict=True)):
                if not _is_over(progress) and not all_finite(measured):
                    progress.diverged_step = step
                averages = averages_of(steps[n], y.shape[1])
                lr = optimizers.lr(n)
                rows.append(None if _is_over(progress) else add_row(progress, examples, epoch, lr, averages, measured))
            window.clear()
            yield rows
            if all(map(_is_over, progresses)):
                return
            if step < total_steps:
                network.train()
            started = time.perf_counter()
    _share(progresses, started)


def split(logits: Tensor, width: int) -> Tensor:
    """The network's (B, N K) as (N, K, B)."""
    return logits.t().reshape(width, -1, len(logits))


def each_loss(loss_fn: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """Each replica's loss, (N,), from logits (N, K, B) and labels (N, B)."""
    if type(loss_fn) is nn.CrossEntropyLoss:
        smoothing = loss_fn.label_smoothing
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing).mean(1)
    return torch.stack([loss_fn(its.t(), y) for its, y in zip(logits, labels, strict=True)])


def _is_over(progress: Progress) -> bool:
    return progress.diverged_step is not None


def _share(progresses: Sequence[Progress], started: float) -> None:
    seconds = (time.perf_counter() - started) / len(progresses)
    for progress in progresses:
        progress.train_s += 0.0 if _is_over(progress) else seconds


def _timed(measure: Callable[[], Measured], progresses: Sequence[Progress]) -> Measured:
    started = time.perf_counter()
    measured = measure()
    for progress in progresses:
        if not _is_over(progress):
            progress.eval_s += (time.perf_counter() - started) / len(progresses)
    return measured


def _read(window: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """The window as (N, steps, 5) float64 on the CPU: loss, hits, grad_norm, size, share."""
    losses, hits, *clipped = (torch.stack(column) for column in zip(*window, strict=True))
    return torch.stack([column.double().t() for column in (losses, hits.sum(2), *clipped)], dim=2).cpu()


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    preprocess: Callable[[Tensor], Tensor],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    width: int,
    batch_size: int,
) -> list[tuple[float, float]]:
    """Of each replica: mean loss and accuracy in evaluation mode, over every image exactly once.

    Args:
        batch_size: images at a time, for all replicas together.
    """
    network.eval()
    parts = -(-len(labels) // max(1, batch_size // width))
    loss = torch.zeros(width, dtype=torch.float64, device=labels.device)
    hits = torch.zeros(width, dtype=torch.int64, device=labels.device)
    for x, y in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
        logits, y = split(network(preprocess(x)), width), y.expand(width, -1)
        loss += each_loss(loss_fn, logits, y).double() * y.shape[1]
        hits += (logits.max(1).indices == y).sum(1)
    count = len(labels)
    return [(its / count, right / count) for its, right in zip(loss.tolist(), hits.tolist(), strict=True)]
