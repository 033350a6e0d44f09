"""`normbench verify`: finished runs of engine=stack, trained once more by themselves and compared."""

import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from normbench import parts, records
from normbench.config import GROUPS, ConfigError, RunConfig, from_dict

FIRST = 1e-4  # relative, of the losses before the first step: the same weights and images, added in another order
ERRORS = 4.0  # standard errors that the accuracies at the end may differ by

USAGE = f"""\
usage: normbench verify RUN ... [--at-most N] [--data-root FOLDER] [--trust-code]

Trains finished runs of engine=stack once more with engine=serial, in a temporary folder, and compares. RUN may be a
folder of runs. Nothing in them changes. A run passes if
  - it ends in the same state (complete or diverged)
  - the losses before the first step are equal within {FIRST:g} of their size
  - the accuracies at the end (validation, test) differ by at most {ERRORS:g} standard errors: float32 rounding grows
    from step to step until two trainings are like two of different luck, so that no tighter bound would be honest;
    step by step, stacks are compared with serial runs in float64 by the tests (docs/performance.md)
The largest differences are printed. The exit code is 1 if a run does not pass.

  --at-most     so many of the runs, spread evenly
  --data-root   where the data are, if not where they were (dataset.root)
  --trust-code  run code of somebody's own that a run names
"""


@dataclass(frozen=True)
class Compared:
    """A stacked run beside the serial one; `problems` says in words where they differ by more than they may."""

    first_loss: float  # relative
    last_loss: float
    val_acc: float | None
    test_acc: float | None
    weights: float | None  # ||ours - theirs|| / ||theirs||
    problems: tuple[str, ...]


def main(args: Sequence[str]) -> int:
    """Exit code: 0 all pass; 1 one does not; 2 bad input; 4 the data are missing or others now."""
    if not args or any(arg in ("-h", "--help") for arg in args):
        print(USAGE, end="")
        return 0 if args else 2
    from normbench import app

    try:
        options = _options(args)
        folders = _chosen(options)
        if options.trust_code:
            sys.path.append(os.getcwd())
        results = [_shown(folder, verify(folder, options.data_root, options.trust_code)) for folder in folders]
    except (records.Damaged, PermissionError) as error:
        print(f"normbench verify: {error}", file=sys.stderr)
        return 4 if isinstance(error, records.Damaged) else 2
    except Exception as error:
        known = app.exit_code(error)
        if known is None:
            raise
        print(f"normbench verify: {app.in_words(error)}", file=sys.stderr)
        return known
    bad = sum(bool(result.problems) for result in results)
    print(f"{len(results) - bad} of {len(results)} runs agree with their serial runs")
    return 1 if bad else 0


def _options(args: Sequence[str]) -> Any:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise ConfigError(f"{message}; normbench verify --help tells more")

    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--at-most", type=int)
    parser.add_argument("--data-root")
    parser.add_argument("--trust-code", action="store_true")
    options = parser.parse_args(args)
    if options.at_most is not None and options.at_most < 1:
        raise ConfigError(f"--at-most must be a whole number >= 1, got {options.at_most}")
    return options


def _chosen(options: Any) -> list[Path]:
    """The finished runs of engine=stack; a run that is named itself must be one."""
    found = []
    for given in map(Path.expanduser, options.runs):
        folders = list(records.find_runs(given))
        if not folders:
            raise ConfigError(f"no runs found under {given} ({given / 'run.json'} is missing); RUN must hold some")
        if folders == [given]:
            _refuse_unfit(given)
        found += [folder for folder in folders if folders == [given] or _why_unfit(folder) is None]
    if not found:
        raise ConfigError("none of the runs is a finished one of engine=stack: there is nothing to verify")
    count = min(len(found), options.at_most or len(found))
    return [found[i * len(found) // count] for i in range(count)]


def _refuse_unfit(folder: Path) -> None:
    why = _why_unfit(folder)
    if why:
        raise ConfigError(f"{folder} {why}; RUN must be a finished run of engine=stack, or a folder with some")


def _why_unfit(folder: Path) -> str | None:
    record = records.read_run(folder)
    engine = record["config"].get("engine", "serial")
    if engine != "stack":
        return f"was made with engine={engine}"
    return None if record["state"] in records.DONE else f"is {record['state']}"


def verify(folder: Path, data_root: str | None = None, trust_code: bool = False) -> Compared:
    """Train the run once more, serially, and compare.

    Raises:
        Damaged: the run's files are not what was written. PermissionError: see parts.refuse_unknown.
        ConfigError, DataError: it can't be trained here.
    """
    from normbench import run
    from normbench.dataset import DataError

    record = records.verify(folder)
    config = from_dict(record["config"])
    if data_root:
        config.dataset["root"] = data_root
    if not trust_code:
        parts.refuse_unknown(config, GROUPS, folder, "--trust-code")
    with tempfile.TemporaryDirectory(prefix="normbench-verify-") as out:
        outcome = run.run(_alone(config, out), announce=lambda _: None, bar=False)
        if outcome.state == "failed":
            raise ConfigError(f"{folder} trained serially fails: {outcome.record['reason']}")
        if outcome.record["data_fingerprint"] != record["data_fingerprint"]:
            raise DataError(f"{folder} was made from other data than those of dataset={config.dataset['name']} now")
        return compare(folder, outcome.folder)


def _alone(config: RunConfig, out: str) -> RunConfig:
    checkpoint = replace(config.checkpoint, keep="weights")
    return replace(config, engine="serial", out=out, stop_epoch=None, progress=False, checkpoint=checkpoint)


def compare(stacked: Path, serial: Path) -> Compared:
    """The numbers and weights of the same run, made by either engine."""
    ours, theirs = records.read_run(stacked), records.read_run(serial)
    our_rows, their_rows = (records.read_metrics(folder / "metrics.csv") for folder in (stacked, serial))
    problems = []
    if ours["state"] != theirs["state"]:
        problems.append(f"{ours['state']} in the stack, {theirs['state']} by itself")
    first = _loss_between(our_rows[:1], their_rows[:1])
    if not first <= FIRST:
        problems.append(f"losses before the first step differ by {first:.1e}, at most {FIRST:g} may be")
    for key, count in (("val_acc", ours["n_val"]), ("test_acc", ours["n_test"])):
        problems += _too_far(key, ours[key], theirs[key], count)
    shared = min(len(our_rows), len(their_rows))
    return Compared(
        first_loss=first,
        last_loss=_loss_between(our_rows[shared - 1 : shared], their_rows[shared - 1 : shared]),
        val_acc=_between(ours["val_acc"], theirs["val_acc"]),
        test_acc=_between(ours["test_acc"], theirs["test_acc"]),
        weights=_weights_between(stacked, serial),
        problems=tuple(problems),
    )


def _loss_between(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> float:
    """The largest relative difference of the losses that were evaluated; 0 where there is no row."""
    pairs = [(a[key], b[key]) for a, b in zip(ours, theirs, strict=True) for key in ("train_eval_loss", "val_loss")]
    return max((abs(a - b) / max(abs(b), 1e-12) for a, b in pairs), default=0.0)


def _between(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def _too_far(key: str, ours: float | None, theirs: float | None, count: int) -> list[str]:
    """In words, if two accuracies over `count` images are too far apart for luck."""
    if ours is None or theirs is None:
        return []
    error = math.sqrt((ours * (1 - ours) + theirs * (1 - theirs)) / count)
    if abs(ours - theirs) <= ERRORS * error + 1 / count:  # an image, where all or none are right
        return []
    return [f"{key} is {ours:.4f} in the stack, {theirs:.4f} by itself: more than {ERRORS:g} standard errors apart"]


def _weights_between(stacked: Path, serial: Path) -> float | None:
    """The distance of the weights over their size; None where a run keeps none."""
    import torch

    from normbench import checkpoint

    if not all((folder / "checkpoint.pt").exists() for folder in (stacked, serial)):
        return None
    ours, theirs = (checkpoint.read(folder / "checkpoint.pt")["model"] for folder in (stacked, serial))
    names = [name for name, value in theirs.items() if value.is_floating_point()]
    ours, theirs = (torch.cat([its[name].double().flatten() for name in names]) for its in (ours, theirs))
    return ((ours - theirs).norm() / theirs.norm()).item()


def _shown(folder: Path, found: Compared) -> Compared:
    """Print a line for the run as soon as it is known."""
    cells = [f"losses at the start {found.first_loss:.1e}, at the end {found.last_loss:.1e} apart"]
    cells += [f"{key} {value:+.4f}" for key in ("val_acc", "test_acc") if (value := getattr(found, key)) is not None]
    cells += [] if found.weights is None else [f"weights {found.weights:.1e} of their size"]
    print(
        "; ".join([f"{'differs' if found.problems else 'agrees'}  {folder.name}  {cells[0]}", *cells[1:]]), flush=True
    )
    for problem in found.problems:
        print(f"  {problem}")
    return found
