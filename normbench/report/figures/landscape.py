"""`landscape`: is the loss smoother with a norm? Loss and gradient along the gradient at one point, against steps."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from normbench.report import panels, reported
from normbench.report.captions import scope
from normbench.report.facets import Line, Row
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.figures._sheet import Sheet, legend, legend_height, pages
from normbench.report.figures.curves import line_names
from normbench.report.study import Study
from normbench.report.style import RC, WIDTH, mean_look, norm_looks, optimizer_dashes
from normbench.report.tables import cell_text

MEASURES = {  # title: lower and upper end of the band
    "Loss range": ("loss_min", "loss_max"),
    "Gradient predictiveness": ("gdiff_min", "gdiff_max"),
    "Effective β-smoothness": ("beta_max", "beta_max"),
}
MOST = 4  # rows a figure
HEIGHT, LEFT, FOOT = 1.5, 0.5, 0.42  # inches


def draw(study: Study) -> list[Drawn]:
    """Santurkar et al.'s three measures of every setting, a band each and no mean; see docs/probes.md.

    A single run a setting, of its first reported seed.

    Raises:
        NotDrawn: no reported run had probe=landscape, or there are too many facets.
    """
    table = study.layers[study.layers["kind"] == "landscape"] if len(study.layers) else study.layers
    runs = reported.runs(study)
    runs = runs[runs["run_id"].isin(set(table["run_id"]))] if len(table) else runs.iloc[:0]
    if not len(runs):
        raise NotDrawn("needs runs measured along the gradient, found none; train them with probe=landscape")
    facets = [Row(row.title, tuple(_first(line) for line in row.lines)) for row in reported.facets(study, runs)]
    points = {str(i): part.pivot(index="step", columns="stat", values="value") for i, part in table.groupby("run_id")}
    looks, dashes = norm_looks(study.used["norm"]), optimizer_dashes(study.used["optimizer"])
    names = line_names({line for row in facets for line in row.lines}, runs)
    parts = pages("landscape", facets, MOST, "combinations of settings beside norm and optimizer")
    with matplotlib.rc_context(RC):
        return [_page(name, page, study, runs, points, names, looks, dashes, table) for name, page in parts]


def _first(line: Line) -> Line:
    return Line(line.norm, line.optimizer, line.run_ids[:1])


def _page(
    name: str, page: Sequence[Row], study: Study, runs: pd.DataFrame, points: Mapping[str, pd.DataFrame],
    names: Mapping[Line, str], looks: Mapping, dashes: Mapping, table: pd.DataFrame,
) -> Drawn:  # fmt: skip
    lines = list(dict.fromkeys(line for row in page for line in row.lines))
    block = {names[line]: mean_look(line.norm, looks, dashes[line.optimizer]) for line in lines}
    titles = any(row.title for row in page)
    sheet = Sheet(
        3 * len(page), 3, HEIGHT, left=LEFT, head=0.22 + 0.19 * titles, foot=FOOT, top=legend_height([block], WIDTH)
    )
    legend(sheet.figure, [block])
    ids = [line.run_ids[0] for line in lines]
    own = runs[runs["run_id"].isin(ids)]
    end = max(float(own["total_steps"].astype(float).max()), 1.0)
    lost = set(own.loc[own["state"] == "diverged", "run_id"])
    limits = {title: _limits([points[i][[*ends]] for i in ids if i not in lost] or [points[i][[*ends]] for i in ids])
              for title, ends in MEASURES.items()}  # fmt: skip
    for number, row in enumerate(page):
        axes = sheet.axes[3 * number : 3 * number + 3]
        if row.title:
            sheet.heading(axes[0], row.title)
        for axis, (title, ends) in zip(axes, MEASURES.items(), strict=True):
            _axis(axis, title, limits[title], end, sheet)
            for line in row.lines:
                look = mean_look(line.norm, looks, dashes[line.optimizer])
                faint = {"alpha": 0.25 if len(row.lines) <= 3 else 0.12}
                _band(axis, points[line.run_ids[0]], ends, look, faint, line.run_ids[0] in lost)
    return Drawn(
        name, sheet.figure, _caption(page, study, own), table[table["run_id"].isin(ids)].reset_index(drop=True)
    )


def _limits(values: Sequence[pd.DataFrame]) -> tuple[float, float]:
    """Of the runs that did not diverge, which would flatten them; of all, if all did."""
    found = np.concatenate([part.to_numpy(float).ravel() for part in values])
    found = found[np.isfinite(found) & (found > 0)]
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.1, 10.0)
    room = max((high / low) ** 0.06, 1.1)
    return low / room, high * room


def _axis(axis: Axes, title: str, limits: tuple[float, float], end: float, sheet: Sheet) -> None:
    axis.set_xlim(-0.01 * end, 1.015 * end)
    axis.set_yscale("log")
    axis.set_ylim(limits)
    panels.plain_log_ticks(axis, "y", most=7)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_ylabel(title, rotation=0, ha="left", va="bottom")
    axis.yaxis.set_label_coords((0.03 - LEFT) / sheet.panel, 1.03)
    if axis in sheet.last:
        axis.set_xlabel("Optimizer steps", labelpad=2)


def _band(
    axis: Axes, points: pd.DataFrame, ends: tuple[str, str], look: Mapping[str, Any], faint: Any, lost: bool
) -> None:
    """A band between two stats, or a line where they are one."""
    beyond = 10 * axis.get_ylim()[1]
    steps, low, high = points.index.to_numpy(float), *(points[stat].to_numpy(float) for stat in ends)
    low, high = (np.where(np.isfinite(values), values, beyond) for values in (low, high))  # not seen, but not left out
    if ends[0] == ends[1]:
        axis.plot(steps, low, **look, markevery=max(1, len(steps) // 8), label=ends[0])
    else:
        axis.fill_between(steps, low, high, color=look["color"], **faint, linewidth=0, label=ends[0])
        for edge in (low, high):
            axis.plot(steps, edge, color=look["color"], linestyle=look["linestyle"], linewidth=0.6, label="_edge")
    if lost:
        y = min(max(high[-1], axis.get_ylim()[0]), axis.get_ylim()[1])
        axis.plot(steps[-1], y, "x", color=look["color"], markersize=5, markeredgewidth=1.2, clip_on=False, zorder=4)


def _caption(page: Sequence[Row], study: Study, own: pd.DataFrame) -> str:
    ids = set(own["run_id"])
    seeds = sorted(set(own["seed"].astype(int)))
    parts = [
        "From the network's weights w, steps of different sizes s along its gradient g on a fixed batch of training "
        f"images, w - s g with s = {_sizes(own)}; left, the smallest and the largest loss met there; middle, the "
        "smallest and the largest ||g_s - g||, how far the gradient there is from g; right, the largest "
        "||g_s - g|| / ||s g||. Log scales. Norms work by the batch, as in training.",
        f"Bands are ranges over step sizes of a single run, of seed {' or '.join(map(str, seeds))}; no mean is taken.",
        "Bands that reach the top of an axis go on above it." if _leaves(own, study) else "",
        "Crosses: diverged, at the last finite point." if (own["state"] == "diverged").any() else "",
        _arms.tuning(study, [arm for arm in study.arms if ids & set(arm.reported.values())], "Each"),
        scope(own),
        reported.left_out(study),
    ]
    return " ".join(part for part in parts if part)


def _leaves(own: pd.DataFrame, study: Study) -> bool:
    """Whether any number of these runs is not finite, or any of them diverged: both set no limits."""
    values = study.layers.loc[study.layers["run_id"].isin(own["run_id"]), "value"]
    return not bool(np.isfinite(values).all()) or bool((own["state"] == "diverged").any())


def _sizes(own: pd.DataFrame) -> str:
    lists = sorted({str(sizes) for sizes in own["cfg.probe.step_sizes"]})
    return "; or ".join(", ".join(cell_text(float(size)) for size in json.loads(sizes)) for sizes in lists)
