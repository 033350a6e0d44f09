"""`paired`: how big is the effect, and is it consistent across seeds? Gardner and Altman's plot, one a contrast."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normbench.report import panels, stats
from normbench.report.arms import Arm
from normbench.report.captions import MOST_SEED_LINES
from normbench.report.figures import Drawn, _arms, _sheet
from normbench.report.state import ACCURACY_MARGIN, State
from normbench.report.study import Contrast, Study
from normbench.report.style import COLUMN, RC, WIDTH, text_color
from normbench.report.verdict import Comparison

HEIGHT, HEAD, FOOT, LEFT, RIGHT = 1.55, 0.34, 0.24, 0.42, 0.42  # inches, around a panel
MOST_PANELS = 12  # a page
LEAST_SPAN = 0.02  # of the accuracy axis: noise must not look like an effect
ALIKE = 4.0  # panels share their scale where the widest span is at most so many times the narrowest
DIFFERENCE, GAP = 0.62, 0.06  # where the difference's axis begins, and what is free before, as shares of the panel
SMALLEST = 6.0  # points, of a name below a panel
ZONE = "#DDDDDD"


@dataclass(frozen=True)
class Panel:
    """One contrast: seed -> (baseline, variant), and the row of comparisons.csv that judges it."""

    contrast: Contrast
    names: tuple[str, str]
    pairs: dict[int, tuple[float, float]]
    row: Comparison


def draw(study: Study) -> list[Drawn]:
    """One panel a contrast: every seed's two test accuracies, and their mean difference with its interval.

    Raises:
        NotDrawn: nothing to compare, or too few shared seeds with a test accuracy.
    """
    shared = _arms.compared(study, lambda arm: arm.column("test_score", arm.reported))
    found = [_panel(study, study.contrasts[i], seeds) for i, seeds in shared.items()]
    with rc_context(RC):
        return [
            Drawn(name, _page(study, page), _caption(study, page), _table(page))
            for name, page in _sheet.pages("paired", found, MOST_PANELS, "contrasts")
        ]


def _panel(study: Study, contrast: Contrast, seeds: Sequence[int]) -> Panel:
    arms = contrast.baseline, contrast.variant
    a, b = (arm.column("test_score", arm.reported) for arm in arms)
    row = next(row for row in contrast.rows if row.metric == "test_acc")  # the first: each arm at its own rate
    names = _arms.arm_name(study, contrast, arms[0]), _arms.arm_name(study, contrast, arms[1])
    return Panel(contrast, names, {s: (a[s], b[s]) for s in seeds}, row)


# ------------------------------------------------------------------------------------------------------------- drawing


def _page(study: Study, page: Sequence[Panel]) -> Figure:
    columns = _sheet.columns(len(page))
    cell = WIDTH / columns if columns > 1 else COLUMN
    room = (cell - LEFT - RIGHT) * (DIFFERENCE - GAP) / 1.8 - 0.04  # the columns lie 1 apart on an axis of 1.8
    fit = all(_sheet.fitted(name, room, size=7.0) > SMALLEST for panel in page for name in panel.names)
    titles = [_heading(panel, cell - 0.1, fit) for panel in page]
    head = HEAD - _sheet.LINE * (not any(titles)) + _sheet.LINE * max(title.count("\n") for title in titles)
    sheet = _sheet.Sheet(len(page), columns, HEIGHT, left=LEFT, right=RIGHT, head=head, foot=FOOT)
    for axis, panel, title, limits in zip(sheet.axes, page, titles, _limits(page), strict=True):
        sheet.heading(axis, title)
        _draw(sheet, axis, study, panel, limits, _few(page))
        for x, label in enumerate(panel.names if fit else ("baseline", "variant")):
            size = _sheet.fitted(label, room, size=7.0)
            _sheet.note(
                axis, label, (x, 0), (0, -9), ("data", "axes fraction"), ha="center", va="baseline", fontsize=size
            )
    return sheet.figure


def _heading(panel: Panel, inches: float, fit: bool) -> str:
    """Where the contrast lies, and what it is if its names do not fit below the panel."""
    lines = [] if fit else [f"{panel.names[1]} against {panel.names[0]}"]
    lines += [said] if (said := _arms.words(panel.contrast.where)) else []
    return "\n".join(_sheet.wrapped(line, inches, weight="bold") for line in lines)


def _limits(page: Sequence[Panel]) -> list[tuple[float, float]]:
    """Every value and the interval, on one scale for all panels unless that would flatten some of them."""
    found = []
    for panel in page:
        middle = _mean(panel)
        ends = [middle + e for e in (panel.row.ci_low, panel.row.ci_high, 0.0) if math.isfinite(e)]
        values = [v for pair in panel.pairs.values() for v in pair]
        found.append((min([*values, *ends]), max([*values, *ends])))
    spans = [max((high - low) * 1.12, LEAST_SPAN) for low, high in found]
    shared = max(spans) if max(spans) <= ALIKE * min(spans) else 0.0
    return [
        ((low + high - max(span, shared)) / 2, (low + high + max(span, shared)) / 2)
        for (low, high), span in zip(found, spans, strict=True)
    ]


def _mean(panel: Panel) -> float:
    """Of the baseline: where the difference's axis has its 0."""
    return stats.mean(a for a, _ in panel.pairs.values()).estimate


def _draw(sheet: _sheet.Sheet, axis: Axes, study: Study, panel: Panel, limits: tuple[float, float], few: int) -> None:
    """Left the seeds in percent, right, on the same scale and from the baseline's mean, the difference in points."""
    box = axis.get_position()
    axis.set_position((box.x0, box.y0, box.width * (DIFFERENCE - GAP), box.height))
    right = sheet.figure.add_axes((box.x0 + box.width * DIFFERENCE, box.y0, box.width * (1 - DIFFERENCE), box.height))
    low, high = (100 * end for end in limits)
    zero = 100 * _mean(panel)
    axis.set(xlim=(-0.4, 1.4), ylim=(low, high), xticks=[])
    right.set(xlim=(-1, 1), ylim=(low - zero, high - zero), xticks=[])
    axis.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    right.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    right.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _signed(value, "g") if value else "0"))
    right.yaxis.tick_right()
    right.spines["right"].set_visible(True)
    right.spines["left"].set_visible(False)
    for one in (axis, right):
        one.spines["bottom"].set_visible(False)
        one.grid(False)
    axis.set_ylabel("Test accuracy (%)", rotation=0, ha="left", va="bottom")
    axis.yaxis.set_label_coords(-0.2, 1.03)
    _sheet.note(right, "difference (pp)", (1, 1), (RIGHT * 72 - 6, 3.5), ha="right", va="bottom")
    _seeds(axis, study, panel, few)
    _difference(right, study, panel)


def _few(page: Sequence[Panel]) -> int:
    """How many pairs of a panel are drawn, beside those with a diverged run."""
    return max(1, MOST_SEED_LINES // len(page))


def _seeds(axis: Axes, study: Study, panel: Panel, few: int) -> None:
    arms = panel.contrast.baseline, panel.contrast.variant
    drawn = [
        seed for number, seed in enumerate(panel.pairs) if number < few or any(_diverged(arm, seed) for arm in arms)
    ]
    values = 100 * np.array([panel.pairs[seed] for seed in drawn])
    panels.thin(axis, [(np.array([0, 1]), pair) for pair in values], "_seeds", color="#999999", linewidth=0.7, zorder=2)
    for x, arm in enumerate(arms):
        lost, look = np.array([_diverged(arm, seed) for seed in drawn]), _arms.dot(study, arm)
        cross = {"marker": "x", "markeredgecolor": look["color"], "markeredgewidth": 1.2}
        for some, changes, name in ((~lost, {}, panel.names[x]), (lost, cross, "diverged")):
            if some.any():
                at = np.full(some.sum(), x)
                axis.plot(at, values[some, x], **look | changes, zorder=3, clip_on=False, label=f"_{name}")


def _diverged(arm: Arm, seed: int) -> bool:
    return arm.diverged({seed: arm.reported[seed]}) == 1


def _difference(axis: Axes, study: Study, panel: Panel) -> None:
    row, color = panel.row, _arms.dot(study, panel.contrast.variant)["color"]
    color = "#777777" if row.state == State.REFUSED else color
    margin = 100 * ACCURACY_MARGIN
    axis.axhspan(-margin, margin, color=ZONE, linewidth=0, zorder=0)
    axis.axhline(0, color="#000000", linewidth=0.8, zorder=1)
    mean, low, high = (100 * v for v in (row.effect, row.ci_low, row.ci_high))
    axis.plot([-0.7, -0.7], [low, high], color=color, linewidth=1.6, zorder=3, label="_interval")
    axis.plot(-0.7, mean, marker="o", markersize=4.5, color=color, zorder=4, label="_mean")
    box = {"facecolor": "white", "alpha": 0.9, "linewidth": 0, "boxstyle": "square,pad=0.05"}
    said, look = _signed(mean, f".{_digits(low, high)}f"), {"color": text_color(color), "bbox": box}
    _sheet.note(axis, said, (-0.7, mean), (5, 0), "data", va="center", fontsize=7.5, **look)
    if row.state == State.REFUSED:
        _sheet.note(axis, "no verdict", (0.5, 0), (0, -9), ha="center", va="baseline", fontsize=7, color="#555555")


def _signed(value: float, form: str) -> str:
    return f"{value:+{form}}".replace("-", "\N{MINUS SIGN}")


def _digits(low: float, high: float) -> int:
    """Decimals of a percentage: of 0.1 for a half width up to 3, as many as it needs, at most 2."""
    half = (high - low) / 2
    return 1 if not half > 0 else min(max(-math.floor(math.log10(half / 3)), 0), 2)


# --------------------------------------------------------------------------------------------------------------- words


def _any_wider(page: Sequence[Panel]) -> bool:
    selections = [a.selection for p in page for a in (p.contrast.baseline, p.contrast.variant)]
    return any(s.unstable for s in selections if s)


def _caption(study: Study, page: Sequence[Panel]) -> str:
    arms = [arm for panel in page for arm in (panel.contrast.baseline, panel.contrast.variant)]
    shown = _arms.seeds(seed for panel in page for seed in panel.pairs)
    n = _arms.counted(len(panel.pairs) for panel in page)
    parts = [
        "Test accuracy after the last step. Left of each panel: a grey line joins the two runs of a seed "
        f"(n = {n} pairs, {shown}). Right, on the same scale, its zero at the baseline's mean: mean difference with "
        "its 95% paired t interval in percentage points (pp); grey: differences within "
        f"±{100 * ACCURACY_MARGIN:g} pp, too small to matter."
        + (" It is wider where the choice of a setting hangs on one seed (Methods)." if _any_wider(page) else "")
    ]
    if max(len(panel.pairs) for panel in page) > (few := _few(page)):
        parts.append(f"Of the pairs the first {few} of a panel are drawn; mean and interval are those of all.")
    wins = [f"{_title(panel)} {panel.row.wins} of {len(panel.pairs)}" for panel in page]
    parts.append(f"Seeds for which the variant is better: {', '.join(wins)}.")
    spans = {round(high - low, 9) for low, high in _limits(page)}
    if len(page) > 1:
        parts.append("All panels have one scale." if len(spans) == 1 else "The panels' scales differ.")
    if lost := sum(
        _diverged(arm, s) for p in page for arm in (p.contrast.baseline, p.contrast.variant) for s in p.pairs
    ):
        parts.append(f"Crosses: diverged ({lost}), counted as guessing.")
    refused = [_title(panel) for panel in page if panel.row.state == State.REFUSED]
    if refused:
        parts.append(f"No verdict can be given for {', '.join(refused)}: see comparisons.csv.")
    return " ".join(text for text in (*parts, _arms.tuning(study, arms), _arms.scope(study, arms)) if text)


def _title(panel: Panel) -> str:
    said = _arms.words(panel.contrast.where)
    return panel.names[1] + f" ({said})" * bool(said)


def _table(page: Sequence[Panel]) -> pd.DataFrame:
    """One row a seed, and beside it what comparisons.csv says of the contrast."""
    rows = []
    for panel in page:
        a, b = panel.names
        front = {"metric": "test_acc", "baseline": a, "variant": b, **panel.contrast.where}
        r = panel.row
        back = {"n_pairs": r.n_pairs, "effect": r.effect, "ci_low": r.ci_low, "ci_high": r.ci_high, "wins": r.wins}
        for seed, (x, y) in panel.pairs.items():
            own = {"seed": seed, "test_acc_baseline": x, "test_acc_variant": y, "difference": y - x}
            rows.append(front | own | back | {"state": str(r.state)})
    return pd.DataFrame(rows)
