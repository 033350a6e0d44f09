"""`gap`: does a norm help optimization, or regularization? Training minus validation accuracy against steps."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from normbench.report import multiples, panels, reported
from normbench.report.captions import scope
from normbench.report.facets import Line, Row
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.figures.curves import line_names
from normbench.report.sheet import page_names
from normbench.report.study import Study
from normbench.report.style import RC, norm_looks, optimizer_dashes

NARROWEST = 0.05  # of the y axis: below it the noise of equal runs would fill the panel
COLUMNS = ["run_id", "norm", "optimizer", "clip", "lr", "seed", "step", "train_eval_acc", "val_acc", "gap"]


def draw(study: Study) -> list[Drawn]:
    """Training minus validation accuracy of every reported run, both in evaluation mode; a panel a facet.

    Raises:
        NotDrawn: no run has a training accuracy in evaluation mode, or there are too many facets.
    """
    runs = reported.runs(study)
    table = _gaps(study.metrics, runs)
    if not len(table):
        raise NotDrawn("needs train_eval_acc, the accuracy on training images in evaluation mode, found none")
    curves = panels.Curves(
        panels.measured(table, "gap"), norm_looks(study.used["norm"]), optimizer_dashes(study.used["optimizer"]),
        frozenset(runs.loc[runs["state"] == "diverged", "run_id"]),
    )  # fmt: skip
    facets = reported.facets(study, runs)
    part = multiples.Part("Training minus validation accuracy", 1.5, lambda axis, row: _panel(axis, row, curves, runs))
    names = line_names({line for row in facets for line in row.lines}, runs)
    looks = multiples.Looks(names, curves.looks, curves.dashes)
    pages = multiples.pages(facets, [part])
    with matplotlib.rc_context(RC):
        return [
            Drawn(name, multiples.figure(page, [part], looks, "Optimizer steps"), *_told(page, study, runs, table))
            for name, page in zip(page_names("gap", len(pages)), pages, strict=True)
        ]


def _gaps(metrics: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    own = metrics[metrics["run_id"].isin(runs["run_id"])]
    train, val = (own[name].astype(float) for name in ("train_eval_acc", "val_acc"))
    table = own.assign(gap=train - val)
    return table.loc[np.isfinite(table["gap"]), COLUMNS].sort_values(["run_id", "step"])


def _panel(axis: Axes, row: Row, curves: panels.Curves, runs: pd.DataFrame) -> Mapping[Line, panels.Points]:
    multiples.steps_axis(axis, row, runs)
    values = np.concatenate([y for _, y in curves.points.values()])  # every panel has the same y axis
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    room = max(NARROWEST - (high - low), 0.0) / 2 + 0.06 * (high - low)
    axis.set_ylim(low - room, high + room)
    axis.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.axhline(0, color="#555555", linewidth=0.6, zorder=1, label="_zero")
    ends = panels.draw(axis, row, curves)
    panels.explain_if_empty(axis, row, curves)
    return ends


def _told(page: Sequence[Row], study: Study, runs: pd.DataFrame, table: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The page's caption and data."""
    ids = {i for row in page for line in row.lines for i in line.run_ids}
    own = runs[runs["run_id"].isin(ids)]
    n = reported.seeds([len(line.run_ids) for row in page for line in row.lines])
    parts = [
        "Training minus validation accuracy against optimizer steps, both in evaluation mode; the training accuracy is "
        "of a fixed subset of the training images. Above zero the network is better on what it has seen.",
        f"Thin lines: single seeds ({n} a setting); thick lines: their mean. No smoothing."
        if n != "1 seed"
        else "Each line is a single run, of one seed. No smoothing.",
        _arms.tuning(study, [arm for arm in study.arms if ids & set(arm.reported.values())], "Each"),
        scope(own),
        reported.crosses(own),
        reported.left_out(study),
    ]
    return " ".join(part for part in parts if part), table[table["run_id"].isin(ids)].reset_index(drop=True)
