"""`gradients`: do gradients explode, and does the clipping rule act? Norms before clipping, and how often it acted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from normbench.report import multiples, panels, reported
from normbench.report.captions import dots_drawn, scope, seed_lines, seeds_drawn
from normbench.report.facets import Line, Row
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.figures.curves import line_names
from normbench.report.sheet import page_names
from normbench.report.study import Study
from normbench.report.style import RC, norm_looks, optimizer_dashes
from normbench.report.tables import cell_text

BOUND = "cfg.clip.max_norm"  # of clip=norm, the one rule whose bound is one of the norm that is drawn
COLUMNS = [
    "run_id", "norm", "optimizer", "clip", "lr", "seed", "step", "grad_norm_mean", "grad_norm_max", "clip_frac",
]  # fmt: skip


@dataclass(frozen=True)
class _Shown:
    norm: panels.Curves
    largest: panels.Curves
    share: panels.Curves
    runs: pd.DataFrame
    dots: int  # seeds of a line whose maxima are drawn


def draw(study: Study) -> list[Drawn]:
    """The gradient norm of every reported run, and below it, where any run clips, the share of steps that were clipped.

    Raises:
        NotDrawn: no run recorded a gradient norm, or there are too many facets.
    """
    runs = reported.runs(study)
    own = study.metrics[study.metrics["run_id"].isin(runs["run_id"])]
    table = own.loc[np.isfinite(own["grad_norm_mean"].astype(float)), COLUMNS].sort_values(["run_id", "step"])
    if not len(table):
        raise NotDrawn("needs grad_norm_mean, the gradient norm before clipping, found none")
    looks, dashes = norm_looks(study.norms), optimizer_dashes(study.optimizers)
    diverged = frozenset(runs.loc[runs["state"] == "diverged", "run_id"])
    norm, largest, share = (panels.Curves(panels.measured(table, c), looks, dashes, diverged) for c in COLUMNS[-3:])
    facets = reported.facets(study, runs)
    parts = [
        multiples.Part("Gradient norm before clipping (log)", 1.4, lambda axis, row, few: _norm(axis, row, shown, few))
    ]
    if (runs["clip"] != "none").any():
        parts.append(
            multiples.Part("Share of steps clipped", 0.6, lambda axis, row, few: _share(axis, row, shown, few))
        )
    names = line_names({line for row in facets for line in row.lines}, runs)
    pages = multiples.pages(facets, parts)
    evaluations = max((len(x) for x, _ in largest.points.values()), default=1)
    dots = min(dots_drawn([len(k.run_ids) for row in page for k in row.lines], evaluations) for page in pages)
    shown = _Shown(norm, largest, share, runs, dots)
    with matplotlib.rc_context(RC):
        return [
            Drawn(
                name,
                multiples.figure(page, parts, multiples.Looks(names, looks, dashes), "Optimizer steps"),
                *_told(page, study, runs, table, dots),
            )
            for name, page in zip(page_names("gradients", len(pages)), pages, strict=True)
        ]


def _norm(axis: Axes, row: Row, shown: _Shown, few: int) -> Mapping[Line, panels.Points]:
    multiples.steps_axis(axis, row, shown.runs)
    values = np.concatenate([y[y > 0] for c in (shown.norm, shown.largest) for _, y in c.points.values()] or [[1.0]])
    bounds = sorted(set(shown.runs.loc[_clips(shown.runs), BOUND].astype(float))) if BOUND in shown.runs else []
    low, high = min([values.min(), *bounds]), max([values.max(), *bounds])
    room = max((high / low) ** 0.05, 1.1)
    axis.set_yscale("log")
    axis.set_ylim(float(low / room), float(high * room))  # every panel has the same y axis
    panels.log_ticks(axis)
    for line in row.lines:
        ids = line.run_ids[: min(few, shown.dots)]
        if points := [shown.largest.points[i] for i in ids if i in shown.largest.points]:
            x, y = (np.concatenate(values) for values in zip(*points, strict=True))
            color = shown.norm.looks[line.norm][0]
            axis.plot(x, y, ".", color=color, markersize=2, alpha=0.45, zorder=2, label=f"_max {line.norm}")
    ends = panels.draw(axis, row, shown.norm, few)
    for bound in _bounds(row, shown.runs):
        axis.axhline(bound, color="#555555", linewidth=0.9, linestyle=(0, (5, 3)), zorder=1, label="_bound")
    panels.explain_if_empty(axis, row, shown.norm)
    return ends


def _share(axis: Axes, row: Row, shown: _Shown, few: int) -> Mapping[Line, panels.Points]:
    multiples.steps_axis(axis, row, shown.runs)
    axis.set_ylim(-0.04, 1.04)
    axis.yaxis.set_major_locator(ticker.FixedLocator([0, 0.5, 1]))
    ids = [i for line in row.lines for i in line.run_ids]
    if (shown.runs.loc[shown.runs["run_id"].isin(ids), "clip"] == "none").all():
        axis.text(0.5, 0.5, "no clipping", transform=axis.transAxes, ha="center", va="center", color="#777777")
        axis.grid(False)
        return {}
    ends = panels.draw(axis, row, shown.share, few)
    panels.explain_if_empty(axis, row, shown.share)
    return ends


def _clips(runs: pd.DataFrame) -> pd.Series:
    return runs["clip"] == "norm"


def _bounds(row: Row, runs: pd.DataFrame) -> list[float]:
    own = runs[runs["run_id"].isin([i for line in row.lines for i in line.run_ids]) & _clips(runs)]
    return sorted(set(own[BOUND].astype(float))) if BOUND in own else []


def _told(
    page: Sequence[Row], study: Study, runs: pd.DataFrame, table: pd.DataFrame, dots: int
) -> tuple[str, pd.DataFrame]:
    """The page's caption and data."""
    ids = {i for row in page for line in row.lines for i in line.run_ids}
    own = runs[runs["run_id"].isin(ids)]
    counts = [len(line.run_ids) for row in page for line in row.lines]
    bounds = sorted({bound for row in page for bound in _bounds(row, runs)})
    clips = (runs["clip"] != "none").any()
    few = seeds_drawn(page, 1 + int(clips))
    thin, thick = seed_lines(reported.seeds(counts), max(counts), few)
    same = f", of the first {dots}" if dots < min(few, max(counts)) else ", of the same seeds" * (thick != "their mean")
    other = sorted(set(own["clip"]) - {"none", "norm"})
    parts = [
        "L2 norm of all gradients together, before clipping"
        + (", and below it the share of steps on which the clipping rule acted" if clips else "")
        + ", against optimizer steps. Each point covers the steps since the point before.",
        f"Lines: mean over those steps, thin for {thin}, thick for {thick}."
        if max(counts) > 1
        else "Lines: mean over those steps, of a single run of one seed.",
        f"Dots: their maximum{same}.",
        f"Dashed: the bound, {', '.join(map(cell_text, bounds))}." if bounds else "",
        f"The bound of {' and '.join(f'clip={rule}' for rule in other)} is not one of this norm." if other else "",
        _arms.tuning(study, [arm for arm in study.arms if ids & set(arm.reported.values())], "Each"),
        scope(own),
        reported.crosses(own),
        reported.left_out(study),
    ]
    return " ".join(part for part in parts if part), table[table["run_id"].isin(ids)].reset_index(drop=True)
