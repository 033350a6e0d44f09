"""`normbench list`: the choices of each group, one line each, read from the first line of their YAML files."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files

from normbench.config import GROUPS

USAGE = f"""\
usage: normbench list [GROUP ...]

Shows the choices of every group, or of these; type one as GROUP=CHOICE after `normbench train`.
groups: {", ".join(GROUPS)}
"""


def choices(group: str) -> dict[str, str]:
    """Name -> what it is, of the choices that normbench ships, sorted by name, `none` first."""
    folder = files("normbench.conf") / group
    names = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
    names.sort(key=lambda name: name != "none")
    return {name: (folder / f"{name}.yaml").read_text().partition("\n")[0].lstrip("# ") for name in names}


def default(group: str) -> str:
    """The choice of conf/train.yaml."""
    for line in (files("normbench.conf") / "train.yaml").read_text().splitlines():
        key, _, value = line.strip(" -").partition(": ")
        if key == group:
            return value.strip()
    raise KeyError(group)


def main(args: Sequence[str]) -> int:
    if any(arg in ("-h", "--help") for arg in args):
        print(USAGE, end="")
        return 0
    for group in args:
        if group not in GROUPS:
            near = get_close_matches(group, GROUPS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            print(f"normbench: no group {group!r}; {hint}there are: {', '.join(GROUPS)}", file=sys.stderr)
            return 2
    for group in args or GROUPS:
        print(group)
        for name, text in choices(group).items():
            print(f"  {name:<14} {text}{'  [default]' if name == default(group) else ''}")
    return 0
