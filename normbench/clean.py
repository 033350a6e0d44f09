"""`normbench clean FOLDER`: what is not needed in the run folders is named, and with --yes removed."""

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench import records, status, words

STATES = ("damaged", "failed", "interrupted", "paused", "diverged", "skipped")
USAGE = """\
usage: normbench clean FOLDER ... [--keep weights|none] [--states STATE,...] [--yes]

Removes what is not needed of the runs below the folders. Without --yes it only says what that would be.

  what a killed process left behind, and checkpoints that were moved aside as damaged: always
  --keep     of the checkpoints of complete runs, as checkpoint.keep does: weights (the network can still be loaded and
             evaluated) or none; what is gone is made again only into another out=FOLDER
  --states   whole runs in these states: damaged, failed, interrupted, paused, diverged, skipped
  --yes      do it

A run that another process holds is left alone.
"""


@dataclass(frozen=True)
class Removal:
    """Something to remove. what: `run`, `file` or `checkpoint`; size: bytes that are freed, about."""

    what: str
    path: Path
    size: int
    state: str = ""


class Refused(Exception):
    """What was typed can't be."""


def main(args: Sequence[str]) -> int:
    if any(arg in ("-h", "--help") for arg in args):
        print(USAGE, end="")
        return 0
    try:
        roots, keep, states, yes = _read(args)
    except Refused as error:
        print(f"normbench clean: {error}", file=sys.stderr)
        return 2
    code = 0
    for root in roots:
        runs = [(folder, *status.look(folder)) for folder in records.find_runs(root)]
        print(f"{root}: {status.count(runs)}" if runs else f"{root}: no runs")
        removals = [removal for run in runs for removal in _of_run(*run[:3], keep, states)]
        _say(removals, yes)
        if yes and removals:
            kept = [path for removal in removals if (path := _remove(removal, keep)) is not None]
            code = 3 if kept else code
            left = [(folder, *status.look(folder)) for folder in records.find_runs(root)]
            print(f"{root}: {status.count(left)}" if left else f"{root}: no runs")
    return code


def _read(args: Sequence[str]) -> tuple[list[Path], str, set[str], bool]:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise Refused(f"{message}; see normbench clean --help")

    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--keep", choices=("weights", "none"), default="all")
    parser.add_argument("--states", default="")
    parser.add_argument("--yes", action="store_true")
    found = parser.parse_args(list(args))
    states = {state for state in found.states.split(",") if state}
    if unknown := sorted(states - set(STATES)):
        raise Refused(f"--states must be of {', '.join(STATES)}, got {unknown[0]!r}")
    if not found.folders:
        raise Refused("a folder must be given; try normbench clean results")
    for folder in found.folders:
        if not folder.is_dir():
            raise Refused(f"{folder} is no folder")
    return found.folders, found.keep, states, found.yes


def _of_run(folder: Path, state: str, record: dict[str, Any], keep: str, states: set[str]) -> Iterator[Removal]:
    if state == "running":
        return
    if state in states:
        yield Removal("run", folder, status.size_of(folder), state)
        return
    for path in sorted([*folder.glob(".*.tmp"), *folder.glob("checkpoint.pt.damaged")]):
        yield Removal("file", path, path.stat().st_size)
    path = folder / "checkpoint.pt"
    if state == "complete" and path.exists() and _reduces(record, keep):
        weights = 4 * (record.get("n_params") or 0)
        size = path.stat().st_size
        yield Removal("checkpoint", path, size if keep == "none" else max(0, size - weights))


def _reduces(record: dict[str, Any], keep: str) -> bool:
    """Whether a checkpoint that is there holds more than is to be kept."""
    now = record.get("cleaned") or record["config"].get("checkpoint", {}).get("keep", "all")
    return keep == "none" or (keep == "weights" and now == "all")


def _say(removals: Sequence[Removal], yes: bool) -> None:
    verb = "removing" if yes else "would remove"
    for removal in removals:
        if removal.what == "run":
            print(f"  {verb} {removal.path} ({removal.state}, {words.size(removal.size)})")
    for what, words_of in (("file", "left-over file"), ("checkpoint", "checkpoint")):
        sizes = [removal.size for removal in removals if removal.what == what]
        if sizes:
            print(f"  {verb} {words.several(len(sizes), words_of)} (about {words.size(sum(sizes))})")
    if not removals:
        print("  nothing to remove")
    elif not yes:
        counts = Counter(removal.what for removal in removals)
        total = words.size(sum(removal.size for removal in removals))
        parts = " and ".join(words.several(number, what) for what, number in counts.items())
        print(f"  {parts}, {total} in all; nothing was removed: add --yes to do it")


def _remove(removal: Removal, keep: str) -> Path | None:
    """Do it; the path if another process holds the run by now."""
    folder = removal.path if removal.what == "run" else removal.path.parent
    try:
        with records.Lock(folder):
            if removal.what == "run":
                shutil.rmtree(folder)
            elif removal.what == "file":
                removal.path.unlink(missing_ok=True)
            else:
                _reduce(folder, keep)
    except (records.InUse, records.Damaged, OSError) as error:
        print(f"normbench clean: left as it is: {error}", file=sys.stderr)
        return folder
    return None


def _reduce(folder: Path, keep: str) -> None:
    """The checkpoint as `keep` wants it; at every moment the folder is that of a complete run."""
    record = records.read_run(folder)
    path = folder / "checkpoint.pt"
    record["files"].pop(path.name, None)
    if keep == "none":
        records.write(folder / "run.json", records.run_json(record | {"cleaned": keep}))
        path.unlink(missing_ok=True)
        return
    from normbench import checkpoint

    data = checkpoint.without_what_resumes(path)
    records.write(folder / "run.json", records.run_json(record))  # without the file, which is now replaced
    records.write(path, data)
    record["files"][path.name] = records.sha256(data)
    records.write(folder / "run.json", records.run_json(record | {"cleaned": keep}))
