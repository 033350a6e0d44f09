"""`depth`: do activations or gradients grow with depth? Their size by layer, early and late in the training."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from normbench.report import panels, reported
from normbench.report.captions import scope, seed_lines, seeds_drawn
from normbench.report.facets import Line, Row
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.figures._sheet import Sheet, fitted, legend, legend_height
from normbench.report.figures.curves import line_names
from normbench.report.sheet import MOST_FIGURES, page_names
from normbench.report.study import Study
from normbench.report.style import RC, WIDTH, mean_look, norm_looks, optimizer_dashes

MEASURES = {  # kind and stat of layers.csv: the y axis, and what it is
    ("pre_act", "rms"): (
        "RMS of an activation's input",
        "Root mean square of what goes into each activation, over units, images and positions of a fixed batch,",
    ),
    ("grad", "norm_mean"): (
        "Gradient norm",
        "L2 norm of the gradient of each layer's weights, before clipping, mean over the steps looked at since the "
        "evaluation before,",
    ),
}
MOST = 4  # rows a figure
HEIGHT, LEFT, FOOT = 1.5, 0.5, 0.42  # inches
EARLY = 0.1  # of the training


def draw(study: Study) -> list[Drawn]:
    """A row of panels a facet: at the first step that was measured, after a tenth of the training, and at its end.

    Raises:
        NotDrawn: no reported run had a probe that tells of two layers or more, or there are too many facets.
    """
    runs = reported.runs(study)
    parts = []
    for measure in MEASURES if len(study.layers) else ():
        table = study.layers[(study.layers["kind"] == measure[0]) & (study.layers["stat"] == measure[1])]
        table = table[table["run_id"].isin(set(runs["run_id"]))]
        if table["layer_index"].nunique() > 1:
            facets = reported.facets(study, runs[runs["run_id"].isin(set(table["run_id"]))])
            parts += [(measure, table, facets[i : i + MOST]) for i in range(0, len(facets), MOST)]
    if not parts:
        raise NotDrawn(
            "needs runs with a measured size of two layers or more, found none; train them with probe=activations or "
            "probe=gradients"
        )
    if len(parts) > MOST_FIGURES:
        raise NotDrawn(f"needs at most {MOST_FIGURES} figures, found {len(parts)}; give folders with fewer settings")
    with matplotlib.rc_context(RC):
        names = page_names("depth", len(parts))
        return [_page(name, study, runs, *part) for name, part in zip(names, parts, strict=True)]


def _page(
    name: str, study: Study, runs: pd.DataFrame, measure: tuple[str, str], table: pd.DataFrame, page: Sequence[Row]
) -> Drawn:
    lines = list(dict.fromkeys(line for row in page for line in row.lines))
    ids = {i for line in lines for i in line.run_ids}
    own, looks = runs[runs["run_id"].isin(ids)], _Looks(study, set(lines), runs)
    table = table[table["run_id"].isin(ids)]
    moments = [_moments(table, row, own) for row in page]
    wide = max(map(len, moments))
    block = {looks.names[line]: looks.of(line) for line in lines}
    head = 0.22 + 0.19 * any(row.title for row in page)
    top = legend_height([block], WIDTH)
    sheet = Sheet(wide * len(page), wide, HEIGHT, left=LEFT, head=head, foot=FOOT, top=top)
    legend(sheet.figure, [block])
    few, limits = seeds_drawn(page, wide), _limits(table)
    for number, (row, steps) in enumerate(zip(page, moments, strict=True)):
        axes = sheet.axes[wide * number : wide * (number + 1)]
        if row.title:
            sheet.heading(axes[0], row.title)
        for axis, step in zip(axes, steps, strict=False):
            _axis(axis, f"{MEASURES[measure][0]}, step {step:,}", limits, table, sheet)
            at = table[table["step"] == step]
            points = {str(i): part.sort_values("layer_index") for i, part in at.groupby("run_id")}
            for line in row.lines:
                _draw(axis, line, points, looks.of(line), few)
        for axis in axes[len(steps) :]:
            axis.set_visible(False)
    text = _caption(study, page, own, measure, few, wide)
    return Drawn(name, sheet.figure, text, table.reset_index(drop=True))


class _Looks:
    def __init__(self, study: Study, lines: set[Line], runs: pd.DataFrame):
        self.names = line_names(lines, runs)
        self._norms, self._dashes = norm_looks(study.norms), optimizer_dashes(study.optimizers)

    def of(self, line: Line) -> dict[str, Any]:
        return mean_look(line.norm, self._norms, self._dashes[line.optimizer])


def _moments(table: pd.DataFrame, row: Row, runs: pd.DataFrame) -> list[int]:
    """The first step that was measured in the row's runs, the one nearest to EARLY of the longest, and the last."""
    ids = {i for line in row.lines for i in line.run_ids}
    steps = sorted(set(table.loc[table["run_id"].isin(ids), "step"].astype(int)))
    early = EARLY * float(runs.loc[runs["run_id"].isin(ids), "total_steps"].astype(float).max())
    return sorted({steps[0], min(steps, key=lambda step: abs(step - early)), steps[-1]})


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    values = table["value"].to_numpy(float)
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.1, 10.0)
    room = max((high / low) ** 0.06, 1.1)
    return low / room, high * room


def _axis(axis: Axes, title: str, limits: tuple[float, float], table: pd.DataFrame, sheet: Sheet) -> None:
    last = int(table["layer_index"].max())
    axis.set_xlim(-0.15 - 0.02 * last, last * 1.02 + 0.15)
    axis.set_yscale("log")
    axis.set_ylim(limits)
    panels.plain_log_ticks(axis, "y", most=7)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
    size = fitted(title, sheet.panel + LEFT - 0.1)
    axis.set_ylabel(title, rotation=0, ha="left", va="bottom", fontsize=size)
    axis.yaxis.set_label_coords((0.03 - LEFT) / sheet.panel, 1.03)
    if axis in sheet.last:
        axis.set_xlabel("Layer, from the input", labelpad=2)


def _draw(axis: Axes, line: Line, points: Mapping[str, pd.DataFrame], look: Mapping[str, Any], few: int) -> None:
    """Thin: the seeds that were measured at this step; thick: their geometric mean, where it is that of all."""
    found = {
        i: (points[i]["layer_index"].to_numpy(float), _positive(points[i]["value"]))
        for i in line.run_ids if i in points
    }  # fmt: skip
    whole = len(found) == len(line.run_ids)
    if len(line.run_ids) > 1 and found:
        thin: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.35} if whole else {"linewidth": 0.7, "alpha": 0.7}
        parts = list(found.values())[:few]
        panels.thin(axis, parts, f"_runs {line.norm}, {line.optimizer}", color=look["color"], zorder=2, **thin)
    if whole:
        x, logs = panels.mean_of([(x, np.log(y)) for x, y in found.values()])
        axis.plot(x, np.exp(logs), **look, zorder=3, label=f"{line.norm}, {line.optimizer}")


def _positive(values: pd.Series) -> np.ndarray:
    """NaN where a log axis has no place: nothing is drawn there, and nothing that would hide it."""
    found = values.to_numpy(float)
    return np.where(np.isfinite(found) & (found > 0), found, np.nan)


def _caption(
    study: Study, page: Sequence[Row], own: pd.DataFrame, measure: tuple[str, str], few: int, wide: int
) -> str:
    counts = [len(line.run_ids) for row in page for line in row.lines]
    thin, thick = seed_lines(reported.seeds(counts), max(counts), few)
    ids = set(own["run_id"])
    parts = [
        f"{MEASURES[measure][1]} against the layer's place from the input"
        + (", early in the training and at its end." if wide > 1 else ".")
        + " One log axis for all panels.",
        f"Thin lines: {thin}; thick lines: {thick}, geometric."
        if max(counts) > 1
        else "Each line is a single run, of one seed.",
        "Where some runs of a line had ended before, it has no mean." if (own["state"] == "diverged").any() else "",
        "Gaps: 0, or not finite." if _gaps(study, own, measure) else "",
        _arms.tuning(study, [arm for arm in study.arms if ids & set(arm.reported.values())], "Each"),
        scope(own),
        reported.left_out(study),
    ]
    return " ".join(part for part in parts if part)


def _gaps(study: Study, own: pd.DataFrame, measure: tuple[str, str]) -> bool:
    table = study.layers[study.layers["run_id"].isin(own["run_id"])]
    values = table.loc[(table["kind"] == measure[0]) & (table["stat"] == measure[1]), "value"].to_numpy(float)
    return bool((~np.isfinite(values) | (values <= 0)).any())
