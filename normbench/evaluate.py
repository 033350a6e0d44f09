"""A trained network with other statistics in its normalizations, and `normbench evaluate`, which does it afterwards.

ema         the running averages of training
population  the mean over the batches that one more epoch would bring, with frozen weights and without dropout
batch       those of the batch that is evaluated, as in training

A layer has such statistics if it has a `momentum` and buffers called running_*: normbench's, torch's, or a user's own.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from normbench import records
from normbench.build import Built

if TYPE_CHECKING:
    from torch import Tensor, nn

Numbers = dict[str, float | None]


def by_statistics(built: Built, kinds: Sequence[str], batch_size: int | None = None) -> dict[str, Numbers]:
    """val_loss, val_acc, test_loss and test_acc with each kind of statistics; the network stays as it was.

    Args:
        built: with trained weights.
        kinds: of normbench.config.STATISTICS.
        batch_size: `batch` takes its statistics over so many images (None: as many as in training), in an order
            drawn from data_seed, since a data set may be sorted by class.
    """
    from normbench import streams, train

    config, model, found = built.config, built.model, {}
    for kind in kinds:
        numbers: Numbers = {}
        with _statistics(kind, built) as by_batch:
            for name, (images, labels) in (("val", built.data.val), ("test", built.data.test)):
                size = config.eval.batch_size
                if by_batch:
                    size = batch_size or config.batch_size
                    order = streams.shuffle(config.data_seed, len(labels)).to(labels.device)
                    images, labels = images[order], labels[order]
                loss, acc = train.evaluate(
                    model, built.preprocess, built.loss_fn, images, labels, size, by_batch=by_batch
                )
                numbers |= {f"{name}_loss": records.finite_or_none(loss), f"{name}_acc": acc}
        found[kind] = numbers
    return found


@contextlib.contextmanager
def _statistics(kind: str, built: Built) -> "Iterator[Sequence[nn.Module]]":
    """With these statistics in the network; the layers that must normalize by the batch."""
    layers = with_statistics(built.model)
    before = [(layer.momentum, {name: b.clone() for name, b in layer.named_buffers(recurse=False)}) for layer in layers]
    try:
        if kind == "population":
            last = built.config.epochs * built.steps_per_epoch
            batches = built.batches(range(last, last + built.steps_per_epoch))
            recalibrate(built.model, (x for x, _ in batches))
        if kind == "batch":
            for layer in layers:
                layer.momentum = 0.0  # type: ignore[assignment] - what it sees changes no running average
        yield layers if kind == "batch" else []
    finally:
        for layer, (momentum, buffers) in zip(layers, before, strict=True):
            layer.momentum = momentum
            _put(layer, buffers)


def with_statistics(model: "nn.Module") -> "list[nn.Module]":
    """The layers that normalize by running statistics when they are evaluated."""
    return [layer for layer in model.modules() if hasattr(layer, "momentum") and _running(layer)]


def _running(layer: "nn.Module") -> "dict[str, Tensor]":
    return {name: buffer for name, buffer in layer.named_buffers(recurse=False) if name.startswith("running_")}


def _put(layer: "nn.Module", buffers: "dict[str, Tensor]") -> None:
    for name, buffer in layer.named_buffers(recurse=False):
        buffer.copy_(buffers[name])


def recalibrate(model: "nn.Module", batches: "Iterable[Tensor]") -> None:
    """Give every running statistic the mean of its values over the batches, in place.

    All layers but those with statistics are in evaluation mode. Batch normalization's becomes what Ioffe & Szegedy
    2015, algorithm 2, use for inference: the mean of the batches' means, m/(m-1) times the mean of their variances.
    """
    import torch

    layers = with_statistics(model)
    before = [{name: b.clone() for name, b in layer.named_buffers(recurse=False)} for layer in layers]
    momenta = [layer.momentum for layer in layers]
    sums: list[dict[str, Tensor]] = [{k: torch.zeros_like(b).double() for k, b in _running(m).items()} for m in layers]
    count = 0
    model.eval()
    for layer in layers:
        layer.train()
        layer.momentum = 1.0  # type: ignore[assignment] - the running statistic becomes the batch's
    with torch.inference_mode():
        for x in batches:
            for layer, buffers in zip(layers, before, strict=True):  # some look at the running ones while training
                _put(layer, buffers)
            model(x)
            count += 1
            for layer, total in zip(layers, sums, strict=True):
                for name, buffer in _running(layer).items():
                    total[name] += buffer
        for layer, total, buffers, momentum in zip(layers, sums, before, momenta, strict=True):
            layer.momentum = momentum
            _put(layer, buffers | {name: value / count for name, value in total.items()})
    model.eval()


def readings(built: Built) -> dict[str, dict[str, float]]:
    """What the norm's layers learned about how they normalize: path of the layer -> its numbers."""
    found = {}
    for path, layer in built.model.named_modules():
        if any(layer is made for made in built.norm_layers) and (numbers := built.norm.readings(layer)):
            found[path] = numbers
    return found
