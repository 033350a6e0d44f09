"""Which settings tell runs apart, and how a table is written: as Markdown, as CSV. Pure: tables in, tables out."""

import csv
import io
import itertools
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from normbench.report.collect import is_uncompared

MOST_DECIMALS = 4  # a data set of 10,000 images resolves no more


def natural(values: Iterable[object]) -> tuple:
    """Sort key: numbers by size before words, `none` before other words."""
    return tuple(
        (0, value, "") if isinstance(value, int | float) else (1, value != "none", str(value)) for value in values
    )


def settings(runs: pd.DataFrame) -> pd.DataFrame:
    """What tells the runs apart, one column a config key and one row a run: norm, optimizer, then what else varies.

    A key counts as varied only where runs of the same choice differ in it: `norm.num_groups`, which only some
    choices of `norm` have, tells nothing that `norm` does not; nor does an lr that goes with its optimizer.
    Seeds and what a run_id leaves out (folders, threads, ...) never count. A cell is "" where a run has no such key.
    """
    keys = [
        key for key in map(str, runs) if key.startswith("cfg.") and not is_uncompared(key[4:]) and key != "cfg.seed"
    ]
    full = runs[keys].astype(object).where(runs[keys].notna(), "")
    columns = {"norm": runs["norm"], "optimizer": runs["optimizer"]}
    for key in (key for key in keys if full[key].nunique() > 1):
        group, _, rest = key[4:].partition(".")
        if rest == "name":
            if group not in columns:
                columns[group] = full[key]
        elif _varies(full[key], [full.get(f"cfg.{group}.name", full[key].map(lambda _: ""))]):
            columns[key[4:]] = full[key]
    first = [name for name in ("norm", "optimizer", "optimizer.lr", "clip") if name in columns]
    columns = {name: columns[name] for name in [*first, *sorted(set(columns) - set(first))]}
    for key in ("data_fingerprint", "results_version"):  # not of the config; never averaged over all the same
        mark = runs[key].map(
            lambda value: value if isinstance(value, int) else "" if value is None else str(value)[:12]
        )
        if _varies(mark, list(columns.values())):
            columns[key] = mark
    return pd.DataFrame(columns, runs.index)


def _varies(values: pd.Series, within: list[pd.Series]) -> bool:
    return values.nunique() > 1 and bool(values.groupby(within, sort=False).nunique().gt(1).any())


def untrained(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.Series:
    """Whether a complete run ended no better than it began, up to noise.

    Its validation accuracy is at most two standard errors above that of step 0: 2 sqrt(2 p (1 - p) / n_val), the
    difference of two shares of n_val images. Loss does not tell: one that gave up guesses evenly, at a lower loss.
    """
    start = metrics[metrics["step"] == 0].set_index("run_id")["val_acc"]
    before, after = runs["run_id"].map(start).astype(float), runs["val_acc"].astype(float)
    noise = 2 * (2 * before * (1 - before) / runs["n_val"].astype(float)) ** 0.5
    return (runs["state"] == "complete") & (after <= before + noise.fillna(0))


def decimals(sds: Iterable[float]) -> int:
    """Decimals that give the smallest SD of a column one significant digit; 3 where no SD is known."""
    places = [
        -math.floor(math.log10(sd)) for sd in sds if 10.0**-MOST_DECIMALS <= sd < math.inf
    ]  # equal runs: 0, or rounding
    return max([*places, 0]) if places else 3


def cell_text(value: object) -> str:
    """A config value as one would type it; a dash where the key does not apply."""
    return "–" if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def markdown(columns: Mapping[str, Sequence[str]], bold: Container[tuple[int, int]] = ()) -> str:
    """A Markdown table, its columns as wide as their longest cell; `bold`: (row, column) of cells in bold."""
    body = [list(map(escaped, cells)) for cells in zip(*columns.values(), strict=True)]
    body = [[f"**{c}**" if (i, j) in bold else c for j, c in enumerate(cells)] for i, cells in enumerate(body)]
    rows = [list(map(escaped, columns)), *body]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]) + "\n"


def escaped(text: str) -> str:
    """One line that Markdown shows as it is, also inside a table: no markup, no mathematics, no link."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    line = re.sub(r"([\\`*|$~])", r"\\\1", line).replace("](", "]\\(")
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)  # between letters it marks nothing up


def as_csv(table: pd.DataFrame) -> bytes:
    """UTF-8, LF; floats in full precision, booleans as true and false, empty where not measured."""
    with io.StringIO() as text:  # csv's writer takes a third of the time of pandas'
        rows = zip(*(_cells(values) for _, values in table.items()), strict=True)
        csv.writer(text, lineterminator="\n").writerows(itertools.chain([map(str, table)], rows))
        return text.getvalue().encode()


def _cells(values: pd.Series) -> list[object]:
    cells = values.astype(object).where(values.notna(), "").tolist()
    if pd.api.types.infer_dtype(values) in ("boolean", "mixed", "mixed-integer"):
        return [str(cell).lower() if isinstance(cell, bool | np.bool_) else cell for cell in cells]
    return cells
