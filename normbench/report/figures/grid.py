"""`grid`: the whole sweep at a glance. Test accuracy of every norm with every optimizer and clipping rule."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from normbench.report import reported, stats
from normbench.report.arms import Arm
from normbench.report.captions import scope
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.heatmap import Cell, Heatmap, blocks, shade, words
from normbench.report.sheet import Block, flow, page_names
from normbench.report.study import Study
from normbench.report.style import RC
from normbench.report.tables import natural

CELL, WIDEST = (0.7, 0.32), 1.0  # inches
LOST = "#d0d0d0"  # of a cell in which every run diverged


def draw(study: Study) -> list[Drawn]:
    """A table of cells, rows norm, columns optimizer (x clipping), for every value of whatever else varies.

    Raises:
        NotDrawn: fewer than two norms or than two optimizers (x clipping).
    """
    table, order = _table(study)
    rows, columns = (table[name].nunique() if len(table) else 0 for name in ("row", "column"))
    if rows < 2 or columns < 2:
        raise NotDrawn(f"needs at least 2 norms x 2 optimizers (or clipping rules), found {rows} x {columns}")
    maps: list[Block] = []
    spans = []
    for _, same in table.groupby("dataset", sort=False):
        span = _span(same)
        spans.append(span)
        for title, part in same.groupby("facet", sort=False):
            maps += blocks(_heatmap(str(title), part, order, *span, alone=table["facet"].nunique() == 1))
    with matplotlib.rc_context(RC):
        pages = flow(maps)
    found = []
    for name, (sheet, placed) in zip(page_names("grid", len(pages)), pages, strict=True):
        own = table[table["facet"].isin({block.title for block in placed})]
        found.append(Drawn(name, sheet.figure, _caption(study, own, spans), own.reset_index(drop=True)))
    return found


def _table(study: Study) -> tuple[pd.DataFrame, list[str]]:
    """One row an arm that has a reported run: where its cell is, and the numbers in it. And the columns in order."""
    keys = study.keys
    rows = [key for key in keys if key == "norm" or key.startswith("norm.")]
    columns = [key for key in keys if key.partition(".")[0] in ("optimizer", "clip")]
    rest = [key for key in keys if key not in (*rows, *columns)]

    def place(arm: Arm) -> tuple:
        return tuple(natural(arm.setting[key] for key in part) for part in (rest, rows, columns))

    found = []
    for arm in sorted(study.arms, key=place):
        scores = arm.column("test_score", arm.reported)
        if not scores:
            continue
        lost = arm.diverged(arm.reported)
        whole = len(scores) == len(arm.reported)  # no mean over those that happen to have a score
        one = stats.summary("test_acc", scores.values(), n_ok=len(scores) - lost)
        found.append(
            {"dataset": str(arm.runs["dataset"].iloc[0]), "facet": ", ".join(words(arm.setting, rest, "")),
             "row": ", ".join(words(arm.setting, rows, "norm")),
             "column": "\n".join(words(arm.setting, columns, "optimizer")), "n": len(arm.reported), "n_diverged": lost,
             "test_acc_mean": one["mean"] if whole else np.nan, "test_acc_sd": one["sd"] if whole else np.nan}
        )  # fmt: skip
    ordered = sorted(study.arms, key=lambda arm: natural(arm.setting[key] for key in columns))
    return pd.DataFrame(found), list(dict.fromkeys("\n".join(words(a.setting, columns, "optimizer")) for a in ordered))


def _span(table: pd.DataFrame) -> tuple[float, float]:
    """Lowest and highest mean of the cells without failures, which the colours are for; of all where each has one."""
    whole = table[table["n_diverged"] == 0]["test_acc_mean"].dropna()
    means = whole if len(whole) else table["test_acc_mean"].dropna()
    return (float(means.min()), float(means.max())) if len(means) else (0.0, 1.0)


def _heatmap(title: str, part: pd.DataFrame, columns: Sequence[str], low: float, high: float, alone: bool) -> Heatmap:
    cells = {(str(one["row"]), str(one["column"])): _cell(one, low, high) for one in part.to_dict("records")}
    order = {label: number for number, label in enumerate(columns)}
    rows, own = list(dict.fromkeys(part["row"])), sorted(set(part["column"]), key=order.__getitem__)
    return Heatmap(title, "Test accuracy, %", rows, own, cells, CELL, WIDEST if alone else 0.0)


def _cell(one: Mapping[Any, Any], low: float, high: float) -> Cell:
    lost, n, mean, sd = one["n_diverged"], one["n"], one["test_acc_mean"], one["test_acc_sd"]
    corner = f"{lost}/{n} ✕" if lost else ""
    if lost == n:
        return Cell("diverged", LOST, corner, hatched=True)
    if np.isnan(mean):
        return Cell("not measured", "#f2f2f2", corner)
    text = f"{100 * mean:.1f}" + ("" if np.isnan(sd) or lost else f" ±{100 * sd:.1f}")
    return Cell(text, shade(mean, low, high), corner)


def _caption(study: Study, own: pd.DataFrame, spans: Sequence[tuple[float, float]]) -> str:
    runs = reported.runs(study)
    arms = [arm for arm in study.arms if arm.reported]
    lost = int(own["n_diverged"].sum())
    single = (own["n"] == 1).any()
    low, high = spans[0]
    parts = [
        f"Test accuracy in percent, read once after the last step: mean ± standard deviation over "
        f"{reported.seeds(own['n'].tolist())} ({'no ± with one; ' if single else ''}n - 1 in the denominator) of each "
        "norm (rows) with each optimizer or clipping rule (columns).",
        _arms.tuning(study, arms, "Each"),
        scope(runs),
        f"Colour: the mean, dark low, bright high, from {100 * low:.1f} to {100 * high:.1f}."
        if len(spans) == 1
        else "Colour: the mean, dark low, bright high, from the lowest to the highest of each data set.",
        f"✕: {lost} diverged {'run' if lost == 1 else 'runs'} of as many seeds as said; in the mean they count as "
        "guessing (and no ± is shown); hatched: all diverged."
        if lost
        else "",
        "A dash: not run." if _gaps(own) else "",
        reported.left_out(study),
    ]
    return " ".join(part for part in parts if part)


def _gaps(own: pd.DataFrame) -> bool:
    return any(len(part) < part["row"].nunique() * part["column"].nunique() for _, part in own.groupby("facet"))
