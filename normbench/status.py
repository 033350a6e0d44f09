"""`normbench status FOLDER`: what is done, running, broken."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normbench import records, words

USAGE = """\
usage: normbench status [FOLDER ...]        (default: results)

Counts the runs below the folders by state, with the hours that they trained and the bytes that they hold, and names
each one that is neither complete nor running, with the reason. Every file that a finished run lists is compared with
its checksum.
"""


def look(folder: Path) -> tuple[str, dict[str, Any], str]:
    """(state now, record, reason): state `damaged` or `newer` and an empty record where the folder can't be read."""
    try:
        record = records.read_run(folder)
        state = records.state_now(folder, record)
        if state != "running":
            records.check_files(folder, record)
    except records.Newer as error:
        return "newer", {}, str(error)
    except records.Damaged as error:
        return ("running", {}, "just started") if records.Lock.is_held(folder) else ("damaged", {}, str(error))
    return state, record, record.get("reason") or ""


def count(runs: Sequence[tuple[Path, str, dict[str, Any], str]]) -> str:
    """How many, in which states, hours and bytes."""
    states = Counter(state for _, state, _, _ in runs)
    by_state = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    trained = sum(record.get("train_s") or 0.0 for _, _, record, _ in runs)
    size = sum(size_of(folder) for folder, *_ in runs)
    return f"{words.several(len(runs), 'run')}: {by_state}; {words.duration(trained)} of training, {words.size(size)}"


def size_of(folder: Path) -> int:
    """Bytes of the files in a run's folder."""
    with os.scandir(folder) as files:
        return sum(file.stat(follow_symlinks=False).st_size for file in files)


def main(args: Sequence[str]) -> int:
    if any(arg in ("-h", "--help") for arg in args):
        print(USAGE, end="")
        return 0
    if flags := [arg for arg in args if arg.startswith("-")]:
        print(f"normbench: unknown option {flags[0]}; type normbench status FOLDER", file=sys.stderr)
        return 2
    roots = [Path(arg) for arg in args] or [Path("results")]
    found = 0
    for root in roots:
        runs = [(folder, *look(folder)) for folder in records.find_runs(root)]
        if not runs:
            message = f"normbench: no runs under {root} (looked for */run.json); to make one: normbench train"
            print(message, file=sys.stderr)
            continue
        found += len(runs)
        print(f"{root}: {count(runs)}")
        for folder, state, record, reason in runs:
            if state != "complete":
                steps = f" at step {record['steps']} of {record['total_steps']}" if "steps" in record else ""
                print(f"  {state:<12} {folder.name}{steps}" + (f": {reason}" if reason else ""))
    return 0 if found else 2
