"""One panel: the lines of some settings for one metric, their axis, their marks and their labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from normbench.report.facets import Line, Row
from normbench.report.style import PALE, mean_look

Points = tuple[np.ndarray, np.ndarray]  # steps, values
NEAR = 6.0  # points; ends of lines that are closer than this cannot carry a label each
FEW = 10  # evaluations, of which each can be seen
MOST_LABELS = 4  # a panel
NEAREST = 0.07  # of a log axis: ticks as near have labels that meet
LABEL = 8.5  # points from one label to the next


@dataclass(frozen=True)
class Curves:
    """What every panel of one metric shares: the points of each run, the looks, and which runs diverged."""

    points: Mapping[str, Points]
    looks: Mapping[str, tuple[str, str]]
    dashes: Mapping[str, Any]
    diverged: frozenset[str]


def measured(metrics: pd.DataFrame, column: str) -> dict[str, Points]:
    """The steps and values of each run where `column` was measured and is finite."""
    kept = metrics[np.isfinite(metrics[column].astype(float))]
    steps, values = kept["step"].to_numpy(float), kept[column].to_numpy(float)
    return {str(run_id): (steps[own], values[own]) for run_id, own in kept.groupby("run_id").indices.items()}


def mean_of(parts: Sequence[Points]) -> Points:
    """The mean over runs, as far as all of them go and were measured at the same steps: never over survivors."""
    shortest = min(len(x) for x, _ in parts)
    steps = np.array([x[:shortest] for x, _ in parts])
    same = (steps == steps[0]).all(axis=0)
    end = shortest if same.all() else int(same.argmin())
    return steps[0, :end], np.array([y[:end] for _, y in parts]).mean(axis=0)


def accuracy_limits(points: Mapping[str, Points], complete: set[str]) -> tuple[float, float]:
    """From the lowest value after step 0 to the highest; at least 0.05 apart.

    Curves of more than FEW evaluations start at the 10th percentile, or at the lowest end of a complete run.
    The first steps would otherwise squeeze what is compared into a strip; without the least distance the noise
    of equal runs would fill the panel.
    """
    steps, values = (np.concatenate([np.empty(0), *(p[i] for p in points.values())]) for i in (0, 1))
    after = values[steps > 0]
    values = after if len(after) else values if len(values) else np.array([0.0, 1.0])
    share = 0.1 if max(map(_count, points.values()), default=0) > FEW else 0.0
    low, high = min([np.quantile(values, share), *(points[i][1][-1] for i in complete if i in points)]), values.max()
    if high - low < 0.05:
        low, high = (low + high) / 2 - 0.025, (low + high) / 2 + 0.025
    margin = 0.06 * (high - low)
    return max(float(low - margin), -0.01), min(float(high + margin), 1.01)


def _count(points: Points) -> int:
    return len(points[0])


def loss_limits(points: Mapping[str, Points], complete: set[str]) -> tuple[float, float]:
    """From the lowest value to three times the 98th percentile of the complete runs, or less if all lies below.

    An unstable start or a diverged run, many decades up, would otherwise flatten every other line.
    """
    values, finished = (
        np.concatenate([*(y for i, (_, y) in points.items() if i in some), np.empty(0)])
        for some in (points.keys(), complete)
    )
    values, finished = values[values > 0], finished[finished > 0]
    if not len(values):
        return 0.1, 10.0
    high = min(values.max(), 3 * np.quantile(finished, 0.98)) if len(finished) else values.max()
    low = min(values.min(), high)
    room = max((high / low) ** 0.06, 1.05)
    return float(low / room), float(high * room)


def log_ticks(axis: Axes) -> None:
    """Plain numbers on a log axis, also where it spans less than a decade."""
    low, high = axis.get_ylim()
    if high / low < 4:
        axis.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        subs = (1, 2, 3, 5) if high / low < 12 else (1, 2, 5) if high / low < 200 else (1,)
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=8))
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(ticker.NullLocator())


def plain_log_ticks(axis: Axes, which: str, fewest: int = 4, most: int = 9) -> None:
    """Between `fewest` and `most` round numbers on the log axis `which`, x or y, as far as its range allows."""
    one = axis.xaxis if which == "x" else axis.yaxis
    low, high = sorted(axis.get_xlim() if which == "x" else axis.get_ylim())
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for subs in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), [k / 10 for k in range(10, 100, 5)]):
        found = [s * 10.0**d for d in decades for s in subs if low <= s * 10.0**d <= high]
        if len(found) > most and ticks:
            break
        ticks = found
        if len(ticks) >= fewest:
            break
    if len(ticks) < 3:
        ticks = [t for t in ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= t <= high]
    one.set_major_locator(ticker.FixedLocator(_apart(ticks[:: math.ceil(len(ticks) / most)], low, high)))
    one.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))
    one.set_minor_locator(ticker.NullLocator())


def _apart(ticks: Sequence[float], low: float, high: float) -> list[float]:
    """Without those so near to a rounder one that their labels would meet."""
    kept: list[float] = []
    for tick in sorted(ticks, key=lambda tick: (len(f"{tick:g}".strip("0").replace(".", "")), tick)):
        if all(abs(math.log(tick / other)) >= NEAREST * math.log(high / low) for other in kept):
            kept.append(tick)
    return sorted(kept)


def shown(run_ids: Sequence[str], curves: Curves, most: int | None) -> list[str]:
    """The runs whose own lines are drawn: the first `most` (None: all), and those that diverged."""
    return [i for number, i in enumerate(run_ids) if most is None or number < most or i in curves.diverged]


def thin(axis: Axes, parts: Sequence[Points], label: str, **look: Any) -> None:
    """Lines of one look, without marks, into an axis whose limits are set; hundreds are drawn as quickly as a few."""
    paths = [np.column_stack(points) for points in parts]
    ends: dict[str, Any] = {"capstyle": "projecting", "joinstyle": "round"}  # as of a line by itself
    axis.add_collection(LineCollection(paths, label=label, **ends, **look), autolim=False)


def draw(axis: Axes, row: Row, curves: Curves, most: int | None = None) -> dict[Line, Points]:
    """Draw the row's lines into `axis`, whose limits are set; gives the mean of each that has one to its end.

    Of a line's runs those that are `shown` are drawn; the mean is that of all.
    """
    ends = {}
    for number, line in enumerate(row.lines):
        runs = {i: curves.points[i] for i in line.run_ids if i in curves.points}
        if not runs:
            continue
        whole = len(runs) == len(line.run_ids) and not any(i in curves.diverged for i in runs)
        color, dash = curves.looks[line.norm][0], curves.dashes[line.optimizer]
        if len(line.run_ids) > 1:
            # where no mean can stand for them to the end, the runs themselves must be seen, and told apart
            look: dict[str, Any] = (
                {"linewidth": 0.5, "alpha": 0.35} if whole else {"linewidth": 0.7, "alpha": 0.7, "linestyle": dash}
            )
            parts = [runs[run_id] for run_id in shown(list(runs), curves, most)]
            thin(axis, parts, f"_runs {line.norm}, {line.optimizer}", color=color, **look, zorder=2)
        if len(runs) == len(line.run_ids):
            x, y = mean_of(list(runs.values()))
            axis.plot(
                x, y, **mean_look(line.norm, curves.looks, dash), zorder=3,
                markevery=_marked(x, axis.get_xlim()[1], number / len(row.lines)),
                label=f"{line.norm}, {line.optimizer}",
            )  # fmt: skip
            if whole and len(x) == max(len(steps) for steps, _ in runs.values()):
                ends[line] = (x, y)
        _crosses(axis, [points for i, points in runs.items() if i in curves.diverged], color)
    return ends


def _crosses(axis: Axes, runs: Sequence[Points], color: str) -> None:
    if runs:
        low, high = axis.get_ylim()
        x, y = zip(*((x[-1], min(max(y[-1], low), high)) for x, y in runs), strict=True)
        axis.plot(
            x, y, linestyle="none", marker="x", color=color, markersize=5, markeredgewidth=1.2, clip_on=False, zorder=4,
            label="_diverged",
        )  # fmt: skip


def _marked(steps: np.ndarray, width: float, shift: float) -> list[int]:
    """Indices of the points nearest to every tenth of the x range, shifted so that lines do not mark the same ones."""
    if not len(steps):
        return []
    wanted = (np.arange(10) + shift) * width / 10
    nearest = {int(np.abs(steps - x).argmin()) for x in wanted if x <= steps[-1] + width / 20}
    return sorted(nearest) if len(steps) > 1 else [0]


def explain_if_empty(axis: Axes, row: Row, curves: Curves) -> None:
    """Say why a panel shows no line."""
    ids = [i for line in row.lines for i in line.run_ids]
    first = 2 if any(0 in curves.points[i][0] for i in ids if i in curves.points) else 1  # a lone start is no line
    if all(len(curves.points.get(i, [()])[0]) < first for i in ids):
        bad = sum(i in curves.diverged for i in ids)
        text = f"{bad} of {len(ids)} diverged before\nthe next evaluation" if bad else "not measured after step 0"
        axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="#777777")


def heights(axis: Axes, ends: Mapping[Line, Points]) -> dict[Line, float]:
    """How high above the panel's bottom each line ends, in points (1/72 inch)."""
    low = axis.transAxes.transform((0, 0))[1]
    scale = 72 / axis.figure.dpi
    return {k: (axis.transData.transform((x[-1], y[-1]))[1] - low) * scale for k, (x, y) in ends.items() if len(x)}


def can_label(at: Mapping[Line, float], row: Row) -> bool:
    """Whether labels at the right ends tell the lines apart: all have an end, and the ends are NEAR or more apart."""
    gaps = np.diff(sorted(at.values()))
    return len(at) == len(row.lines) <= MOST_LABELS and bool((gaps >= NEAR).all())


def label_ends(axis: Axes, ends: Mapping[Line, Points], names: Mapping[Line, str], looks: Mapping) -> None:
    """Write each line's name right of its end; names that would overlap are moved up, from the lowest on."""
    at = heights(axis, ends)
    floor = -math.inf
    for line in sorted(ends, key=lambda line: at[line]):
        height = max(at[line], floor)
        floor = height + LABEL
        x, y = ends[line]
        color = looks[line.norm][0]
        axis.annotate(
            names[line], (x[-1], y[-1]), (5, height - at[line]), textcoords="offset points", va="center",
            color="#000000" if color in PALE else color, annotation_clip=False,
        )  # fmt: skip
