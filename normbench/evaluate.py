"""A trained network with other statistics in its normalizations, and `normbench evaluate`, which does it afterwards.

A layer has such statistics if it has a `momentum` and buffers called running_*: normbench's, torch's, or a user's own.
"""

import contextlib
import csv
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench import assembly, build, parts, records, streams
from normbench.build import Built
from normbench.config import GROUPS, STATISTICS, ConfigError, from_dict

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

USAGE = """\
usage: normbench evaluate RUN ... [--statistics ema,population,batch] [--batch-size N] [--csv FILE]

Evaluates the networks of finished (or paused) runs once more, with these statistics in their normalizations:
  ema         the running averages of training
  population  the mean over the batches that one more epoch would bring, with frozen weights and without dropout
  batch       those of the batch that is evaluated, as in training; the images are in an order drawn from data_seed, and
              what is left over after the last whole batch joins the others
A norm without running statistics gives the same three times. RUN may be a folder of runs. Nothing in them changes.

  --statistics  which, in this order (default: all three)
  --batch-size  images of a batch for `batch` (default: the training's)
  --csv         write the table to this file, too
  --data-root   where the data are, if not where they were (dataset.root)
  --device      auto, cpu, cuda or cuda:N (default: auto)
  --trust-code  run code of somebody's own that a run names
"""
HEADER = ("run", "statistics", "batch_size", "val_acc", "val_loss", "test_acc", "test_loss")

MOST = 1000  # images that are evaluated at once, unless eval.batch_size says another number
ON_A_CPU = 2**22  # numbers that a layer then gives at most: 16 MB
ON_A_GPU = 4  # times the images of a training step: without gradients they take no more memory than training

Numbers = dict[str, float | None]


def images_at_once(built: Built, width: int = 1) -> int:
    """How many images an evaluation takes at once, of all `width` networks together: eval.batch_size, if it is set.

    On a CPU a network with large convolutions is evaluated twice as fast in small batches: beyond the caches, and
    beyond 32 MB the C library gives memory back after every layer and gets it anew, page by page. On a GPU the fewer
    launches the better.
    """
    config = built.config
    if config.eval.batch_size is not None:
        return config.eval.batch_size
    if built.device.type == "cuda":
        return max(MOST, ON_A_GPU * config.batch_size * width)
    return max(1, min(MOST, ON_A_CPU // built.widest))


def by_statistics(
    built: Built, kinds: Sequence[str], batch_size: int | None = None, splits: Sequence[str] = ("val", "test")
) -> dict[str, Numbers]:
    """val_loss, val_acc, test_loss and test_acc with each kind of statistics; the network stays as it was.

    Args:
        built: with trained weights.
        kinds: of normbench.config.STATISTICS.
        batch_size: `batch` takes its statistics over so many images (None: as many as in training), in an order
            drawn from data_seed, since a data set may be sorted by class.
        splits: which to evaluate.
    """
    from normbench import train

    config, model, found = built.config, built.model, {}
    for kind in kinds:
        numbers: Numbers = {}
        with _statistics(kind, built) as by_batch:
            for name in splits:
                images, labels = built.inputs.split(name)
                size = images_at_once(built)
                if by_batch:
                    size = batch_size or config.batch_size
                    order = streams.shuffle(config.data_seed, len(labels)).to(labels.device)
                    images, labels = images[order], labels[order]
                loss, acc = train.evaluate(
                    model, built.inputs.transform, built.loss_fn, images, labels, size, by_batch=by_batch, amp=built.amp
                )
                numbers |= {f"{name}_loss": records.finite_or_none(loss), f"{name}_acc": acc}
        found[kind] = numbers
    return found


@contextlib.contextmanager
def _statistics(kind: str, built: Built) -> "Iterator[Sequence[nn.Module]]":
    """With these statistics in the network; the layers that must normalize by the batch."""
    layers = with_statistics(built.model)
    before = [(layer.momentum, _buffers(layer)) for layer in layers]
    try:
        if kind == "population":
            last = built.config.epochs * built.steps_per_epoch
            batches = built.batches(range(last, last + built.steps_per_epoch))
            recalibrate(built.model, (x for x, _ in batches), built.amp)
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


def _buffers(layer: "nn.Module") -> "dict[str, Tensor]":
    """Its buffers as they are now; `_put` puts them back."""
    return {name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)}


def _put(layer: "nn.Module", buffers: "dict[str, Tensor]") -> None:
    for name, buffer in layer.named_buffers(recurse=False):
        buffer.copy_(buffers[name])


def recalibrate(model: "nn.Module", batches: "Iterable[Tensor]", amp: "torch.dtype | None" = None) -> None:
    """Give every running statistic the mean of its values over the batches, in place.

    All layers but those with statistics are in evaluation mode, and one that corrects the batch's statistics by the
    running ones (brn: its attribute `correction`) does not: what stands behind it sees what it will see. Batch
    normalization's statistics become what Ioffe & Szegedy 2015, algorithm 2, use for inference: the mean of the
    batches' means, and m/(m-1) times the mean of their variances.
    """
    import torch

    from normbench.train import autocast

    layers = with_statistics(model)
    before = [_buffers(layer) for layer in layers]
    momenta = [layer.momentum for layer in layers]
    sums: list[dict[str, Tensor]] = [{k: torch.zeros_like(b).double() for k, b in _running(m).items()} for m in layers]
    count = 0
    model.eval()
    for layer in layers:
        layer.train()
        layer.momentum = 1.0  # type: ignore[assignment] - the running statistic becomes the batch's
        if hasattr(layer, "correction"):
            layer.correction = False  # type: ignore[assignment]
    with torch.inference_mode():
        for x in batches:
            for layer, buffers in zip(layers, before, strict=True):  # some use the running ones where a batch is small
                _put(layer, buffers)
            with autocast(x, amp):
                model(x)
            count += 1
            for layer, total in zip(layers, sums, strict=True):
                for name, buffer in _running(layer).items():
                    total[name] += buffer
        for layer, total, buffers, momentum in zip(layers, sums, before, momenta, strict=True):
            layer.momentum = momentum
            if hasattr(layer, "correction"):
                layer.correction = True  # type: ignore[assignment]
            _put(layer, buffers | {name: value / count for name, value in total.items()})
    model.eval()


def readings(built: Built) -> dict[str, dict[str, float]]:
    """What the norm's layers learned about how they normalize: path of the layer -> its numbers.

    Of layers that share their parameters (one for each time step) the first stands for all.
    """
    found, seen = {}, set()
    for path, layer in built.model.named_modules():
        if not any(layer is made for made in built.norm_layers):
            continue
        shared = tuple(id(parameter) for parameter in layer.parameters())
        numbers = built.norm.readings(layer) if shared not in seen else {}
        seen.add(shared)
        found |= {path: numbers} if numbers else {}
    return found


# ---------------------------------------------------------------------------------------------------- the command


def main(args: Sequence[str]) -> int:
    """Exit code: 0 all done; 2 bad input, or a run whose network can't be had; 4 its data are missing or others now."""
    if not args or any(arg in ("-h", "--help") for arg in args):
        print(USAGE, end="")
        return 0 if args else 2
    from normbench import app

    try:
        options = _options(args)
        folders = [folder for given in options.runs for folder in _runs(given)]
    except ConfigError as error:
        print(f"normbench evaluate: {error}", file=sys.stderr)
        return 2
    if options.trust_code:
        sys.path.append(os.getcwd())  # where `normbench train` looks for a user's classes
    table, code = [], 0
    for folder in folders:
        try:
            table += _rows(folder, options)
        except (records.Damaged, PermissionError) as error:
            print(f"normbench evaluate: {error}", file=sys.stderr)
            code = 2
        except Exception as error:
            known = app.exit_code(error)
            if known is None:
                raise  # a bug: its traceback helps
            print(f"normbench evaluate: {folder.name}: {app.in_words(error)}", file=sys.stderr)
            code = known
    if table:
        print(_text(table))
    try:
        if options.csv and table:
            with open(options.csv, "w", newline="") as file:
                csv.writer(file).writerows([HEADER, *([row[key] for key in HEADER] for row in table)])
    except OSError as error:
        print(f"normbench evaluate: --csv {options.csv}: {error.strerror}", file=sys.stderr)
        return 2
    return code


def _runs(given: Path) -> list[Path]:
    found = list(records.find_runs(given))
    if not found:
        raise ConfigError(f"no runs found under {given} ({given / 'run.json'} is missing); RUN must hold one or more")
    return found


def _options(args: Sequence[str]) -> Any:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise ConfigError(f"{message}; normbench evaluate --help tells more")

    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--statistics", default=",".join(STATISTICS))
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--data-root")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--trust-code", action="store_true")
    options = parser.parse_args(args)
    options.runs = [Path(os.path.expanduser(run)) for run in options.runs]
    options.statistics = [word for word in options.statistics.split(",") if word]
    unknown = [word for word in options.statistics if word not in STATISTICS]
    if unknown or not options.statistics:
        given = repr(unknown[0]) if unknown else "nothing"
        raise ConfigError(f"--statistics must be some of {', '.join(STATISTICS)} with commas between, got {given}")
    if options.batch_size is not None and options.batch_size < 1:
        raise ConfigError(f"--batch-size must be a whole number >= 1, got {options.batch_size}")
    if options.batch_size and "batch" not in options.statistics:
        raise ConfigError("--batch-size is that of the statistics `batch`: add batch to --statistics")
    return options


def _rows(folder: Path, options: Any) -> list[dict[str, Any]]:
    built = _restored(folder, options)
    size = options.batch_size or built.config.batch_size
    if "batch" in options.statistics:
        assembly.check_norm(built.norm, built.norm_layers, built.model, built.preprocess(built.data.sample()), size)
    found = by_statistics(built, options.statistics, size)
    return [
        {"run": folder.name, "statistics": kind, "batch_size": size if kind == "batch" else "", **numbers}
        for kind, numbers in found.items()
    ]


def _restored(folder: Path, options: Any) -> Built:
    """The run's objects, with its trained weights."""
    from normbench import checkpoint
    from normbench.dataset import DataError

    record, content = checkpoint.of_run(folder)
    # a network is evaluated alike, whatever trained it, and on a CPU, too, if that was a graph on a GPU
    config = from_dict({**record["config"], "device": options.device, "engine": "serial"})
    if options.data_root:
        if "root" not in config.dataset:
            raise ConfigError(f"dataset={config.dataset['name']} is in no folder; leave out --data-root")
        config.dataset["root"] = options.data_root
    if not options.trust_code:
        parts.refuse_unknown(config, GROUPS, folder, "--trust-code")
    streams.set_determinism(config.threads)
    built = build.build(config)
    if built.data.fingerprint != record["data_fingerprint"]:
        raise DataError(
            f"{folder} was made from other data: dataset={config.dataset['name']} had the fingerprint "
            f"{record['data_fingerprint'][:12]}, now it is {built.data.fingerprint[:12]}"
        )
    built.model.load_state_dict(content["model"])
    built.model.eval()
    return built


def _text(table: Sequence[dict[str, Any]]) -> str:
    cells = [list(HEADER), *([_cell(row[key]) for key in HEADER] for row in table)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    return "not finite" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
