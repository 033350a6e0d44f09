"""`shift`: Ioffe & Szegedy's figure 1. Accuracy without and with a norm, and what goes into one unit, side by side."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes

from normbench.report import panels
from normbench.report.arms import Arm
from normbench.report.figures import Drawn, NotDrawn, _arms, activations
from normbench.report.figures._claimed import claim_of
from normbench.report.figures._sheet import legend, legend_height
from normbench.report.sheet import Sheet
from normbench.report.study import Study
from normbench.report.style import RC, WIDTH, mean_look, norm_looks

FEWEST, MOST = 2, 3  # norms
HEAD, PANEL, FOOT, LEFT, GAP = 0.32, 1.75, 0.42, 0.42, 0.5  # inches
PAPER = (
    "After Ioffe & Szegedy 2015, figure 1: there 50,000 steps on MNIST as binary images, small random weights, one "
    "learning rate that is not told, test accuracy."
)


def draw(study: Study) -> list[Drawn]:
    """(a) accuracy against steps, a line a norm; (b), (c) percentiles of one unit's input, a panel a norm.

    Raises:
        NotDrawn: no claim, no percentiles, or arms that differ in more than the norm.
    """
    claim_of(study)
    table = study.layers[study.layers["kind"] == "pre_act"] if len(study.layers) else study.layers
    shown = [panel for arm in study.arms for panel in activations.panel_of(arm, table)] if len(table) else []
    if not shown:
        raise NotDrawn("needs runs with percentiles of activations, found none; train them with probe=activations")
    norms = [panel.arm.norm for panel in shown]
    if not FEWEST <= len(norms) <= MOST or len(set(norms)) < len(norms):
        found = ", ".join(study.name(panel.arm) for panel in shown)
        raise NotDrawn(f"needs {FEWEST} or {MOST} arms that differ in their norm alone, found {found}")
    with rc_context(RC):
        return [_figure(study, shown, table)]


def _figure(study: Study, shown: Sequence[activations.Panel], table: pd.DataFrame) -> Drawn:
    looks = norm_looks(study.norms)
    block = {p.arm.norm: mean_look(p.arm.norm, looks) | {"marker": ""} for p in shown}
    top = legend_height([block], WIDTH)
    sheet = Sheet(top + HEAD + PANEL + FOOT)
    legend(sheet.figure, [block])
    width = (WIDTH - LEFT - 0.1 - GAP * len(shown)) / (len(shown) + 1)
    axes = [sheet.axes(LEFT + (width + GAP) * i, top + HEAD, width, PANEL) for i in range(len(shown) + 1)]
    titles = [
        "(a) Validation accuracy",
        *(f"({'bcd'[i]}) norm={p.arm.norm}: input of a unit" for i, p in enumerate(shown)),
    ]
    for i, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        sheet.text(LEFT + (width + GAP) * i - 0.36, top + 0.1, title, weight="bold", fontsize=7.5)
        axis.set_xlabel("Optimizer steps", labelpad=2)
    _accuracy(study, axes[0], [p.arm for p in shown], looks)
    limits = activations.limits_of(shown)
    for axis, panel in zip(axes[1:], shown, strict=True):
        activations.draw_panel(axis, panel, looks[panel.arm.norm][0], limits)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    ids = [panel.run_id for panel in shown]
    own = table[table["run_id"].isin(ids) & table["stat"].isin([*activations.LINES])]
    own = own[own["layer"] == own["run_id"].map({panel.run_id: panel.layer for panel in shown})]
    return Drawn("shift", sheet.figure, _caption(study, shown), own.reset_index(drop=True))


def _accuracy(study: Study, axis: Axes, arms: Sequence[Arm], looks: dict[str, tuple[str, str]]) -> None:
    """Thin lines: seeds; thick ones: their mean."""
    points = panels.measured(study.metrics, "val_acc")
    ends = []
    for arm in arms:
        own = [points[i] for i in arm.reported.values() if i in points]
        color = looks[arm.norm][0]
        for steps, values in own:
            axis.plot(steps, values, color=color, linewidth=0.5, alpha=0.35, label=f"_seed {arm.norm}")
        if own:
            steps, values = panels.mean_of(own)
            axis.plot(steps, values, color=color, linewidth=1.3, label=arm.norm)
            ends.append(np.quantile(np.concatenate([y for _, y in own]), 0.03))
    high = axis.get_ylim()[1]
    axis.set_ylim(max(min(ends) - 0.02, 0.0) if ends else 0.0, min(high, 1.01))
    axis.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))


def _caption(study: Study, shown: Sequence[activations.Panel]) -> str:
    arms = [panel.arm for panel in shown]
    layers = ", ".join(sorted({panel.layer for panel in shown}))
    counts = _arms.counted(len(arm.reported) for arm in arms)
    lost = sum(panel.diverged for panel in shown)
    parts = [
        f"(a) Validation accuracy against optimizer steps; thin lines: single seeds ({counts} a norm), thick: their "
        f"mean. The others: the 15th, 50th and 85th percentile of what goes into one unit of the last hidden layer "
        f"({layers}) over a fixed batch of training images, in a single run ({_arms.seeds(p.seed for p in shown)}); "
        "one axis for all.",
        _arms.tuning(study, arms, "Each norm"),
        "Crosses: diverged runs." if lost else "",
        _arms.scope(study, arms),
        PAPER,
    ]
    return " ".join(text for text in parts if text)
