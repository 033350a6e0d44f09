"""`normbench list`: the choices of each group, one line each, read from their YAML files."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from normbench.config import GROUPS

LISTED = (*GROUPS, "experiment")
EPILOG = f"""\
groups: {", ".join(LISTED)}

Type a choice as GROUP=CHOICE after `normbench train`, an experiment as +experiment=CHOICE."""


def choices(group: str, root: Traversable | None = None) -> dict[str, str]:
    """Name -> what it is (its file's first comment), sorted by name, `none` first.

    Args:
        root: the folder that holds the group; None: what normbench ships.
    """
    folder = (root or files("normbench.conf")) / group
    names = [f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")]
    names.sort(key=lambda name: (name != "none", name))
    return {name: _comment((folder / f"{name}.yaml").read_text()) for name in names}


def _comment(text: str) -> str:
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""


def nearest(group: str, typed: str, among: Iterable[str]) -> list[str]:
    """At most two names that `typed` may have meant: `adma` is near adam, and `batchnorm` begins what bn is called."""
    near = sorted(get_close_matches(typed.lower(), sorted(among), 2))
    if near or group not in LISTED:
        return near
    called = {re.sub(r"\W", "", text.lower())[: len(typed)]: name for name, text in choices(group).items()}
    return [called[words] for words in get_close_matches(re.sub(r"\W", "", typed.lower()), called, 1, 0.75)]


def default(group: str) -> str | None:
    """The choice of conf/train.yaml."""
    for line in (files("normbench.conf") / "train.yaml").read_text().splitlines():
        key, _, value = line.strip(" -").partition(": ")
        if key == group:
            return value.strip()
    return None


def main(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="normbench list",
        description="Show the choices of every group, or of these.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("groups", metavar="GROUP", nargs="*")
    parser.add_argument(
        "--config-dir", metavar="FOLDER", type=Path, help="with your own choices in FOLDER/GROUP/*.yaml"
    )
    options = parser.parse_args(args)
    for group in options.groups:
        if group not in LISTED:
            near = get_close_matches(group, LISTED, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            print(f"normbench: no group {group!r}; {hint}there are: {', '.join(LISTED)}", file=sys.stderr)
            return 2
    mine: Path | None = options.config_dir
    if mine is not None and not mine.is_dir():
        print(f"normbench: --config-dir must be a folder, got {mine}", file=sys.stderr)
        return 2
    for group in options.groups or LISTED:
        print(group)
        lines = {n: text + "  [default]" * (n == default(group)) for n, text in choices(group).items()}
        if mine is not None and (mine / group).is_dir():
            lines |= {n: f"{text}  [yours]".lstrip() for n, text in choices(group, mine).items()}
        width = max(14, *map(len, lines))
        for name, text in lines.items():
            print(f"  {name:<{width}} {text}")
    return 0
