"""Which lines share a panel: rows of a figure, so that no panel holds more lines than an eye can follow. Pure."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

from normbench.report.tables import cell_text, natural

MOST_LINES = 6  # a panel
T = TypeVar("T")
LINE_GROUPS = ("norm", "optimizer")  # they are colour and dash, not facets


@dataclass(frozen=True)
class Line:
    """One setting in one panel, with its runs in order of seed."""

    norm: str
    optimizer: str
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """Two panels side by side; `title` is what its lines have in common and other rows have not."""

    title: str
    lines: tuple[Line, ...]


def rows(runs: pd.DataFrame, setting: pd.DataFrame) -> list[Row]:
    """Rows for every value of what varies beside norm and optimizer, split further above MOST_LINES lines.

    Where only some norms (or optimizers) have a key, the others are repeated in the row of each of its values:
    `norm.num_groups=2` and `=4` are two rows, both with `none`.
    """
    keys = [key for key in map(str, setting) if key not in LINE_GROUPS]
    cells = setting[keys].apply(tuple, axis=1) if keys else pd.Series([()] * len(runs), runs.index)
    distinct = sorted(set(cells), key=natural)
    wild = [key.partition(".")[0] in LINE_GROUPS for key in keys]
    full = [cell for cell in distinct if not any(_covers(cell, other, wild) for other in distinct if other != cell)]
    result = []
    for cell in full:
        part = runs[[_covers(other, cell, wild) for other in cells]]
        pairs = [(key, value) for key, value in zip(keys, cell, strict=True) if value != ""]
        title = brief(", ".join(f"{key}={cell_text(value)}" for key, value in pairs))
        result += _split(title, part)
    return result


def brief(text: str) -> str:
    """Lists of three equal values or more as in `model.hidden=12 x [64]`: in full they are too long for a title."""
    return re.sub(r"\[(\w+)(?:, ?\1){2,}\]", lambda found: f"{found[0].count(',') + 1} x [{found[1]}]", text)


def _covers(cell: tuple, other: tuple, wild: Sequence[bool]) -> bool:
    """Whether runs of `cell` belong in the row of `other`: equal, or they have no such key."""
    return all(a == b or (w and a == "") for a, b, w in zip(cell, other, wild, strict=True))


def _split(title: str, runs: pd.DataFrame) -> list[Row]:
    norms, optimizers = sorted(set(runs["norm"]), key=lambda n: natural([n])), sorted(set(runs["optimizer"]))
    ordered = runs.assign(seed=runs["seed"].astype(int)).sort_values(["seed", "run_id"])
    groups = {key: tuple(part["run_id"]) for key, part in ordered.groupby(["norm", "optimizer"])}
    said = [title] if title else []
    if len(groups) <= MOST_LINES:
        parts = [(norms, optimizers, title)]
    else:
        parts = [
            (few, some, ", ".join([*said, *_named("norm", few, norms), *_named("optimizer", some, optimizers)]))
            for some in even(optimizers, max(1, MOST_LINES // len(norms)))
            for few in norm_chunks(norms)
        ]
    found = [
        Row(text, tuple(Line(*key, groups[key]) for key in ((n, o) for n in few for o in some) if key in groups))
        for few, some, text in parts
    ]
    return [row for row in found if row.lines]


def _named(key: str, some: Sequence[str], of: Sequence[str]) -> list[str]:
    return [f"{key}={','.join(some)}"] if len(some) < len(of) else []


def norm_chunks(norms: list[str]) -> list[list[str]]:
    """At most MOST_LINES norms a row; the baseline `none` is in every row, to compare with."""
    if len(norms) <= MOST_LINES:
        return [norms]
    baseline = [norm for norm in norms if norm == "none"]
    rest = [norm for norm in norms if norm != "none"]
    return [baseline + chunk for chunk in even(rest, MOST_LINES - len(baseline))]


def even(items: Sequence[T], most: int) -> list[list[T]]:
    """As few chunks as possible of at most `most` items, of sizes as equal as possible."""
    count = math.ceil(len(items) / most)
    bounds = [round(i * len(items) / count) for i in range(count + 1)]
    return [list(items[a:b]) for a, b in itertools.pairwise(bounds)]
