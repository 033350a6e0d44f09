"""`along`: test accuracy against the values of a key that a claim's question runs over, a line for each side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context, ticker

from normbench.report import panels, stats
from normbench.report.answers import varied_cells
from normbench.report.arms import Arm
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.figures._claimed import claim_of
from normbench.report.figures._sheet import Sheet, columns, legend, legend_height, pages, sheet_width
from normbench.report.study import Study
from normbench.report.style import NORMS, RC, mean_look, norm_looks

MOST = 4  # panels a figure
HEIGHT, LEFT, HEAD, FOOT = 1.7, 0.42, 0.4, 0.42  # inches
DECADES = 30.0  # largest over smallest value from which on the axis is logarithmic
Line = tuple[str, list[tuple[float, Arm]]]  # words of a side, its arms by their value
OTHERS: tuple[dict[str, Any], ...] = ({"color": "#0072B2", "marker": "s"}, {"color": "#555555", "marker": "o"})


def draw(study: Study) -> list[Drawn]:
    """A panel for each value of what else varies; arms at their own best setting.

    Raises:
        NotDrawn: no claim, or none of its questions runs over a number that tells arms apart.
    """
    claim = claim_of(study)
    keys = list(dict.fromkeys(q.along for q in claim.asks if q.along in study.keys and q.along != "batch_size"))
    if not keys:
        raise NotDrawn("needs a question along a number that tells arms apart, as model.init_scale; found none")
    key = keys[0]
    question = next(q for q in claim.asks if q.along == key)
    found = []
    for cell, sides in varied_cells(study, question):
        lines = [(words, sorted((float(arm.setting[key]), arm) for arm in arms)) for words, arms in sides]
        found.append((_arms.words(cell), lines))
    with rc_context(RC):
        return [_page(study, name, page, key) for name, page in pages("along", found, MOST, "panels")]


def _looks(study: Study, lines: Sequence[Line]) -> dict[str, dict[str, Any]]:
    """By norm, where the sides differ in it; else by their place."""
    norms = [line[1][0][1].norm for line in lines]
    if len(set(norms)) == len(lines) and set(norms) <= NORMS.keys():
        looks = norm_looks(study.norms)
        return {words: mean_look(norm, looks) for (words, _), norm in zip(lines, norms, strict=True)}
    return {words: dict(look) for (words, _), look in zip(lines, OTHERS, strict=False)}


def _page(study: Study, name: str, page: Sequence[tuple[str, list[Line]]], key: str) -> Drawn:
    looks = _looks(study, page[0][1])
    wide = columns(len(page))
    top = legend_height([looks], sheet_width(len(page), wide))
    head = HEAD if any(title for title, _ in page) else HEAD - 0.18
    sheet = Sheet(len(page), wide, HEIGHT, left=LEFT, head=head, foot=FOOT, top=top)
    legend(sheet.figure, [looks])
    rows: list[dict[str, Any]] = []
    for axis, (title, lines) in zip(sheet.axes, page, strict=True):
        sheet.heading(axis, title)
        places = sorted({at for _, line in lines for at, _ in line})
        log = places[0] > 0 and places[-1] / places[0] >= DECADES
        if log:
            axis.set_xscale("log")
        for words, line in lines:
            rows += _draw(axis, words, line, looks[words], title)
        if log:
            room = (places[-1] / places[0]) ** 0.06
            axis.set_xlim(places[0] / room, places[-1] * room)
            panels.plain_log_ticks(axis, "x", fewest=2, most=7)
        else:
            axis.xaxis.set_major_locator(ticker.FixedLocator(places))
            axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_ylabel("Test accuracy (%)", rotation=0, ha="left", va="bottom")
        axis.yaxis.set_label_coords((0.03 - LEFT) / sheet.panel, 1.03)
        if axis in sheet.last:
            axis.set_xlabel(key + " (log scale)" * log, labelpad=2)
    arms = [arm for _, lines in page for _, line in lines for _, arm in line]
    return Drawn(name, sheet.figure, _caption(study, arms, key), pd.DataFrame(rows))


def _draw(axis: Any, words: str, line: Sequence[tuple[float, Arm]], look: Mapping[str, Any], title: str) -> list[dict]:
    rows, means = [], []
    for at, arm in line:
        values = {seed: 100 * score for seed, score in arm.column("test_score", arm.reported).items()}
        axis.plot([at] * len(values), list(values.values()), "o", color=look["color"], alpha=0.45, markersize=2.4,
                  markeredgewidth=0, label=f"_run {words}")  # fmt: skip
        mean = stats.mean(sorted(values.values()))
        means.append((at, mean.estimate, mean.low, mean.high))
        rows += [
            {"panel": title, "side": words, "value": at, "seed": s, "test_acc": v / 100} for s, v in values.items()
        ]
    x, y, low, high = np.array(means, float).T
    low, high = np.maximum(low, 0), np.minimum(high, 100)
    axis.vlines(x, low, high, color=look["color"], linewidth=1.0, alpha=0.7, label=f"_interval {words}")
    axis.plot(x, y, **look, label=words)
    return rows


def _caption(study: Study, arms: Sequence[Arm], key: str) -> str:
    n = _arms.counted(len(arm.reported) for arm in arms)
    lost = sum(arm.diverged(arm.reported) for arm in arms)
    parts = [
        f"Test accuracy after the last step against {key}. Small dots: single seeds (n = {n} a point); lines: their "
        "mean; bars: its 95% t interval.",
        f"{lost} diverged runs count as guessing." if lost else "",
        _arms.tuning(study, arms, "Each point"),
        _arms.scope(study, arms),
    ]
    return " ".join(text for text in parts if text)
