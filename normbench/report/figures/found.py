"""`found`: what two ways of searching find, against how many settings they try. From the tables of runs of a claim."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes

from normbench.claim import Question
from normbench.report import searched, stats
from normbench.report.arms import Arm
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.figures._claimed import claim_of
from normbench.report.figures._sheet import Sheet, legend, legend_height, sheet_width
from normbench.report.measures import FOUND
from normbench.report.study import Study
from normbench.report.style import RC

HEIGHT, LEFT, HEAD, FOOT = 1.9, 0.45, 0.25, 0.42  # inches
TRIALS = (4, 6, 8, 12, 16, 24, 32, 48, 64)
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "marker": "s", "markersize": 3.4}, {"color": "#555555", "marker": "o", "markersize": 3.4},
)  # fmt: skip


def draw(study: Study) -> list[Drawn]:
    """A line for each way of the claim's question.

    Raises:
        NotDrawn: no claim about searching.
    """
    question = next((q for q in claim_of(study).asks if q.measure == FOUND), None)
    if question is None:
        raise NotDrawn("needs a claim about ways of searching, found another")
    arm = study.arms[0]
    rows = [row for way in (question.of, question.than) for row in _line(question, arm, way)]
    if not rows:
        raise NotDrawn("needs every place of the table that is searched, found some without a run")
    with rc_context(RC):
        return [_figure(study, question, arm, pd.DataFrame(rows))]


def _line(question: Question, arm: Arm, way: str) -> list[dict[str, Any]]:
    keys = question.along.split()
    places = int(np.prod([arm.runs[key].nunique() for key in keys]))
    rows = []
    for trials in _trials(way, len(keys), places):
        found = searched.accuracy(arm.runs, keys, way, trials)
        rows += [{"way": way, "trials": trials, "seed": seed, "test_acc": value} for seed, value in found.items()]
    return rows


def _trials(way: str, dims: int, places: int) -> list[int]:
    """Of a grid the numbers that it can have."""
    if way == "search=grid":
        return [k**dims for k in range(2, 9) if k**dims < places]
    return [n for n in TRIALS if n < places]


def _figure(study: Study, question: Question, arm: Arm, rows: pd.DataFrame) -> Drawn:
    looks = {way: look for way, look in zip((question.of, question.than), LOOKS, strict=True)}
    top = legend_height([looks], sheet_width(1, 1))
    sheet = Sheet(1, 1, HEIGHT, left=LEFT, head=HEAD, foot=FOOT, top=top)
    legend(sheet.figure, [looks])
    (axis,) = sheet.axes
    for way, look in looks.items():
        own = rows[rows["way"] == way]
        for _, seed in own.groupby("seed"):
            axis.plot(seed["trials"], 100 * seed["test_acc"], color=look["color"], linewidth=0.5, alpha=0.35)
        means = [(n, stats.mean(sorted(100 * part["test_acc"])).estimate) for n, part in own.groupby("trials")]
        axis.plot(*np.array(means, float).T, **look, linewidth=1.3, label=way)
    axis.set_xscale("log", base=2)
    _judged(axis, question, rows)
    axis.xaxis.set_major_locator(ticker.FixedLocator([n for n in (2, 4, 8, 16, 32, 64) if n <= rows["trials"].max()]))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_xlabel("Settings tried (log scale)", labelpad=2)
    axis.set_ylabel("Test accuracy of what is found (%)", rotation=0, ha="left", va="bottom")
    axis.yaxis.set_label_coords((0.03 - LEFT) / sheet.panel, 1.03)
    return Drawn("found", sheet.figure, _caption(study, question, arm, rows), rows)


def _judged(axis: Axes, question: Question, rows: pd.DataFrame) -> None:
    """At the number of settings that the question is about: a line, and what differs less than matters."""
    at = searched.trials(question)
    axis.axvline(at, color="#777777", linewidth=0.7, linestyle=(0, (1, 2)), zorder=0, label="_judged")
    own = rows.loc[(rows["way"] == question.than) & (rows["trials"] == at), "test_acc"]
    if len(own):
        mean, margin = (100 * value for value in (stats.mean(sorted(own)).estimate, searched.margin(question)))
        look = {"color": "#000000", "alpha": 0.12, "linewidth": 0, "zorder": 1}
        axis.fill_between([at / 1.06, at * 1.06], mean - margin, mean + margin, **look, label="_margin")


def _caption(study: Study, question: Question, arm: Arm, rows: pd.DataFrame) -> str:
    keys = question.along.split()
    shape: Sequence[str] = [f"{arm.runs[key].nunique()} values of {key}" for key in keys]
    parts = [
        "Test accuracy of the setting that a search finds by validation accuracy, against how many settings it tries: "
        f"the mean of {searched.REPEATS} searches drawn from a table of runs ({' by '.join(shape)}, all trained). Thin "
        f"lines: single seeds ({rows['seed'].nunique()}); thick: their mean.",
        "A grid has as many settings as a power allows, in a random place."
        if "search=grid" in set(rows["way"])
        else "",
        f"Dotted: the {searched.trials(question)} that the claim is judged at; grey: what is less than "
        f"{100 * searched.margin(question):g} pp from {question.than}, which does not matter.",
        _arms.scope(study, [arm]),
    ]
    return " ".join(text for text in parts if text)
