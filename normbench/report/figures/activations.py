"""`activations`: does what goes into a hidden unit drift? Percentiles of its input against steps, a panel an arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from normbench.report import reported
from normbench.report.arms import Arm
from normbench.report.captions import scope
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.figures._sheet import Sheet, columns, legend, legend_height, pages, sheet_width
from normbench.report.study import Study
from normbench.report.style import RC, norm_looks

MOST = 9  # panels a figure
HEIGHT, LEFT, HEAD, FOOT = 1.35, 0.45, 0.41, 0.42  # inches
LINES = {"unit_p85": 0.7, "unit_p50": 1.4, "unit_p15": 0.7}  # stat: width
GREY = "#555555"


@dataclass(frozen=True)
class Panel:
    """One arm's run: its steps, and the percentiles of LINES at each, (steps, 3)."""

    arm: Arm
    run_id: str
    seed: int
    diverged: bool
    layer: str
    steps: np.ndarray
    values: np.ndarray


def draw(study: Study) -> list[Drawn]:
    """The 15th, 50th and 85th percentile of one unit's input in the last hidden layer; see docs/probes.md.

    A single run an arm, of its first reported seed: units of other runs are other units, and a mean over them would
    hide that each drifts.

    Raises:
        NotDrawn: no reported run had probe=activations.
    """
    table = study.layers[study.layers["kind"] == "pre_act"] if len(study.layers) else study.layers
    shown = [panel for arm in study.arms for panel in panel_of(arm, table)] if len(table) else []
    if not shown:
        raise NotDrawn("needs runs with percentiles of activations, found none; train them with probe=activations")
    parts = pages("activations", shown, MOST, "arms")
    with matplotlib.rc_context(RC):
        return [_page(name, page, shown, study, table) for name, page in parts]


def panel_of(arm: Arm, table: pd.DataFrame) -> list[Panel]:
    measured = set(table["run_id"])
    for seed, run_id in arm.reported.items():  # by seed
        if run_id in measured:
            own = table[table["run_id"] == run_id]
            last = own[own["layer_index"] == own["layer_index"].max()]
            wide = last.pivot(index="step", columns="stat", values="value")[list(LINES)]
            wide = wide[np.isfinite(wide).all(axis=1)]
            layer, lost = str(last["layer"].iloc[0]), bool(arm.diverged({seed: run_id}))
            return [Panel(arm, run_id, seed, lost, layer, wide.index.to_numpy(float), wide.to_numpy(float))]
    return []


def _page(name: str, page: Sequence[Panel], shown: Sequence[Panel], study: Study, table: pd.DataFrame) -> Drawn:
    look: Any = {"color": GREY}
    block = {"50th percentile": look | {"linewidth": 1.4}, "15th and 85th": look | {"linewidth": 0.7}}
    wide = columns(len(page))
    top = legend_height([block], sheet_width(len(page), wide))
    sheet = Sheet(len(page), wide, HEIGHT, left=LEFT, head=HEAD, foot=FOOT, top=top)
    legend(sheet.figure, [block])
    limits, looks = limits_of(shown), norm_looks(study.used["norm"])
    for axis, panel in zip(sheet.axes, page, strict=True):
        sheet.heading(axis, study.name(panel.arm))
        draw_panel(axis, panel, looks[panel.arm.norm][0], limits)
        axis.set_ylabel("Input of the unit", rotation=0, ha="left", va="bottom")
        axis.yaxis.set_label_coords((0.03 - LEFT) / sheet.panel, 1.03)
        if axis in sheet.last:
            axis.set_xlabel("Optimizer steps", labelpad=2)
    own = table[table["run_id"].isin([panel.run_id for panel in page]) & table["stat"].isin([*LINES])]
    own = own[own["layer"] == own["run_id"].map({panel.run_id: panel.layer for panel in page})]
    return Drawn(name, sheet.figure, _caption(page, study, limits), own.reset_index(drop=True))


def limits_of(shown: Sequence[Panel]) -> tuple[float, float]:
    """Of every panel: they are compared. Runs that diverged widen them to three times the others' range at most."""
    whole = [p.values for p in shown if not p.diverged and len(p.values)] or [p.values for p in shown]
    values, every = (
        np.concatenate([v.ravel() for v in some] + [np.zeros(1)]) for some in (whole, [p.values for p in shown])
    )
    low, high, width = float(values.min()), float(values.max()), float(np.ptp(values))
    low, high = max(float(every.min()), low - width), min(float(every.max()), high + width)
    room = 0.06 * (high - low) or 0.1
    return low - room, high + room


def draw_panel(axis: Axes, panel: Panel, color: str, limits: tuple[float, float]) -> None:
    end = max(float(panel.arm.runs["total_steps"].astype(float).max()), 1.0)
    axis.set_xlim(-0.01 * end, 1.015 * end)
    axis.set_ylim(limits)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    high, middle, low = panel.values.T
    axis.fill_between(panel.steps, low, high, color=color, alpha=0.15, linewidth=0)
    for values, (stat, width) in zip((high, middle, low), LINES.items(), strict=True):
        axis.plot(panel.steps, values, color=color, linewidth=width, label=stat)
    if panel.diverged and len(middle):
        y = min(max(middle[-1], limits[0]), limits[1])
        axis.plot(panel.steps[-1], y, "x", color=color, markersize=5, markeredgewidth=1.2, clip_on=False, zorder=4)


def _caption(page: Sequence[Panel], study: Study, limits: tuple[float, float]) -> str:
    layers = sorted({panel.layer for panel in page})
    runs = study.used[study.used["run_id"].isin([panel.run_id for panel in page])]
    seeds = sorted({panel.seed for panel in page})
    outside = sum(bool(((p.values < limits[0]) | (p.values > limits[1])).any()) for p in page)
    parts = [
        "What goes into the activation of one unit of the last hidden layer "
        f"({', '.join(layers)}, unit {_number(runs)}) against optimizer steps: the 15th, 50th and 85th percentile over "
        "a fixed batch of training images, norms working by the batch as in training. One y axis for all panels.",
        f"Each panel is a single run, of seed {' or '.join(map(str, seeds))}: a unit has no counterpart in other runs.",
        f"Diverged runs end in a cross; lines of {reported.several(outside, 'run')} leave the axis." if outside else
        "Diverged runs end in a cross." if any(p.diverged for p in page) else "",
        _arms.tuning(study, [panel.arm for panel in page], "Each"),
        scope(runs),
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


def _number(runs: pd.DataFrame) -> str:
    return " or ".join(sorted({str(int(unit)) for unit in runs["cfg.probe.unit"].dropna()})) or "of the probe"
