"""`batch_size`: where does batch normalization break? Test error against the batch size."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes

from normbench.report import panels, stats
from normbench.report.arms import Arm
from normbench.report.captions import dots_drawn, first
from normbench.report.figures import Drawn, NotDrawn, _arms, _sheet
from normbench.report.paper import rate_text
from normbench.report.planning import FEWEST
from normbench.report.study import Study
from normbench.report.style import RC, mean_look, norm_looks

KEY = "batch_size"
HEIGHT, FOOT, LEFT = 1.8, 0.4, 0.42  # inches, around a panel
COLUMNS, MOST_PANELS = 2, 8  # a page
FEWEST_SIZES = 2
SHIFT = 0.02  # of the axis: from one line's interval to the next, which would else hide each other
LOG = 6.0  # highest over lowest error from which on the axis is logarithmic
RUN = {"linestyle": "none", "marker": "o", "markersize": 2.4, "markeredgewidth": 0}
LOST = {"linestyle": "none", "marker": "x", "markersize": 3.5, "markeredgewidth": 0.9}


def draw(study: Study) -> list[Drawn]:
    """A line a norm, a panel for each optimizer and each value of what else varies.

    Raises:
        NotDrawn: no norm has runs of FEWEST_SIZES batch sizes.
    """
    sizes = {int(arm.runs[KEY].iloc[0]) for arm in study.arms}
    if len(sizes) < FEWEST_SIZES or KEY not in study.keys:
        raise NotDrawn(f"needs >={FEWEST_SIZES} batch sizes, found {len(sizes)}")
    arms = [arm for arm in study.arms if arm.column("test_score", arm.reported)]
    every = _arms.groups(study, arms, KEY)
    found = [g for g in every if any(len(line) >= FEWEST_SIZES for _, line in g[1])]
    if not found:
        raise NotDrawn(f"needs >={FEWEST_SIZES} batch sizes of one setting with test accuracies, found 1 at most")
    made = []
    with rc_context(RC):
        for name, page in _sheet.pages("batch_size", found, MOST_PANELS, "panels"):
            made.append(_page(study, name, page))
    return made


def _summary(arm: Arm) -> dict[str, Any]:
    """The arm's row of summary.csv: its test accuracies at the chosen rates."""
    values = arm.column("test_score", arm.reported)
    lost = arm.diverged({seed: arm.reported[seed] for seed in values})
    made = stats.summary(
        "test_acc", values.values(), n_ok=len(values) - lost, n_images=int(arm.runs["n_test"].astype(int).iloc[0])
    )
    return {**arm.setting, "lr": rate_text(arm), **made}


# ------------------------------------------------------------------------------------------------------------- drawing


def _page(study: Study, name: str, page: Sequence[_arms.Group]) -> Drawn:
    looks = norm_looks(study.norms)
    arms = {id(arm): arm for _, lines in page for _, line in lines for arm in line}
    rows = {key: _summary(arm) for key, arm in arms.items()}
    entries = {norm: mean_look(norm, looks) for _, lines in page for norm, _ in lines}
    lost = any(row["n_ok"] < row["n"] for row in rows.values())
    blocks = [entries, {"diverged run": {"color": "#555555"} | LOST} if lost else {}]
    strips = [_strip(lines, looks) for _, lines in page]
    sheet = _arms.strip_sheet(page, strips, blocks, columns=COLUMNS, height=HEIGHT, left=LEFT, foot=FOOT)
    low, high, log = _limits(list(arms.values()), list(rows.values()))
    sizes = sorted({int(arm.setting[KEY]) for arm in arms.values()})
    data = pd.DataFrame(list(rows.values()))
    for axis, (_, lines), strip in zip(sheet.axes, page, strips, strict=True):
        axis.set_xscale("log", base=2)
        room = max((sizes[-1] / sizes[0]) ** 0.07, 1.1)
        axis.set(xlim=(sizes[0] / room, sizes[-1] * room), yscale="log" if log else "linear", ylim=(low, high))
        _ticks(axis, sizes, log)
        if axis in sheet.last:
            axis.set_xlabel("Batch size (log scale)", labelpad=2)
        axis.set_ylabel("Test error (%)" + ", log scale" * log, rotation=0, ha="left", va="bottom")
        for number, (norm, line) in enumerate(lines):
            shift = room ** (2 * SHIFT / 0.14 * (number - (len(lines) - 1) / 2))
            _draw(axis, norm, line, rows, entries[norm], shift, _few(data))
        _arms.draw_strip(axis, strip, sheet.left)
    return Drawn(name, sheet.figure, _caption(study, page, data, list(arms.values())), data)


def _few(rows: pd.DataFrame) -> int:
    """How many seeds of a point have their dots drawn."""
    return dots_drawn(rows["n"].tolist())


def _ticks(axis: Axes, sizes: Sequence[int], log: bool) -> None:
    """The batch sizes as run; of many, as many as have room."""
    axis.xaxis.set_major_locator(ticker.FixedLocator(sizes[:: math.ceil(len(sizes) / 9)]))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    if log:
        panels.plain_log_ticks(axis, "y")
    else:
        axis.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))


def _errors(arm: Arm) -> dict[int, float]:
    return {seed: 100 * (1 - score) for seed, score in arm.column("test_score", arm.reported).items()}


def _limits(arms: Sequence[Arm], rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, bool]:
    """Of every run and interval, for all panels alike; and whether the axis is logarithmic."""
    values = [error for arm in arms for error in _errors(arm).values()]
    ends = [100 * (1 - row[end]) for row in rows for end in ("ci_low", "ci_high") if math.isfinite(row[end])]
    log = min(values) > 0 and max(values) / min(values) > LOG
    if log:
        low, high = min([*values, *(e for e in ends if e > 0)]), min(max([*values, *ends]), 100.0)
        return max(low, min(values) / 3) / 1.15, high * 1.15, True
    low, high = max(min([*values, *ends]), 0.0), min(max([*values, *ends]), 100.0)
    room = max(0.06 * (high - low), 0.3)
    return low - room, high + room, False


def _strip(lines: Sequence, looks: Mapping[str, tuple[str, str]]) -> _arms.Strip:
    found = []
    for norm, line in lines:
        runs = pd.concat([arm.runs[arm.runs["run_id"].isin(arm.reported.values())] for arm in line])
        found.append((norm, looks[norm][0], _arms.diverged_counts(runs, KEY)))
    return [entry for entry in found if entry[2]]


def _draw(
    axis: Axes, label: str, line: Sequence[Arm], rows: Mapping[int, Mapping], look: Mapping[str, Any], shift: float,
    few: int,
) -> None:  # fmt: skip
    """Dots: runs; line: means; bars: intervals. `shift` is a factor of x."""
    line = sorted(line, key=lambda arm: int(arm.setting[KEY]))
    x = np.array([int(arm.setting[KEY]) for arm in line]) * shift
    dots: dict[bool, list[tuple[float, float]]] = {}  # by whether the run diverged
    for at, arm in zip(x, line, strict=True):
        for seed, error in list(_errors(arm).items())[:few]:
            dots.setdefault(arm.diverged({seed: arm.reported[seed]}) == 1, []).append((at, error))
    for bad, places in dots.items():
        axis.plot(*zip(*places, strict=True), color=look["color"], alpha=0.55, zorder=2, **(LOST if bad else RUN),
                  label=f"_{'diverged' if bad else 'runs'} {label}")  # fmt: skip
    mean, low, high = (np.array([100 * (1 - rows[id(arm)][k]) for arm in line]) for k in ("mean", "ci_high", "ci_low"))
    bottom, top = axis.get_ylim()  # an error below 0 or above 100 % cannot be
    low, high = np.clip(low, bottom, top), np.clip(high, bottom, top)
    axis.vlines(x, low, high, color=look["color"], linewidth=1.0, alpha=0.7, zorder=2.5, label=f"_interval {label}")
    axis.plot(x, mean, **look, zorder=3, label=label)


# --------------------------------------------------------------------------------------------------------------- words


def _caption(study: Study, page: Sequence[_arms.Group], rows: pd.DataFrame, arms: Sequence[Arm]) -> str:
    n = _arms.counted(rows["n"])
    shown = _arms.seeds(seed for arm in arms for seed in arm.column("test_score", arm.reported))
    dots, mean = "single seeds", "their mean"
    if rows["n"].max() > (few := _few(rows)):
        dots, mean = f"{first(few, 'seed')} of a point", "the mean of all"
    text = f"Test error after the last step against the batch size. Small dots: {dots} (n = {n} a point, {shown})"
    parts = [f"{text}; lines: {mean}" + ("." if rows["n"].max() < FEWEST else "; bars: its 95% t interval.")]
    if rows["n"].min() < FEWEST:
        parts.append(f"Below {FEWEST} seeds there is no interval.")
    if any(len(lines) > 1 for _, lines in page):
        parts.append("Lines are moved sideways a little, so that bars do not hide each other.")
    lost = int((rows["n"] - rows["n_ok"]).sum())
    if lost:
        parts.append(
            f"Crosses: {lost} diverged {'run' if lost == 1 else 'runs'}, counted as guessing. Above each panel: "
            "how many of how many diverged, where any did."
        )
    if ((rows["ci_low"] < 0) | (rows["ci_high"] > 1)).any():
        parts.append("Intervals that reach beyond 0 or 100% are cut off.")
    missing = [arm for arm in study.arms if not arm.column("test_score", arm.reported)]
    if missing:
        parts.append(f"Not drawn, without a test accuracy: {'; '.join(study.name(arm) for arm in missing)}.")
    parts += [_arms.tuning(study, arms, "Each point"), _arms.repeated(page)]
    return " ".join(text for text in (*parts, _arms.scope(study, arms)) if text)
