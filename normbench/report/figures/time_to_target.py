"""`time_to_target`: how many fewer steps? A dot for every seed, the median, and what never got there."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normbench.report import panels, stats, target
from normbench.report.arms import Arm
from normbench.report.captions import dots_drawn, first
from normbench.report.figures import Drawn, NotDrawn, _arms, _blocks, _sheet
from normbench.report.figures._blocks import Block
from normbench.report.study import Study
from normbench.report.style import RC, WIDTH, text_width

# inches
ROW, HEAD, GAP, FOOT, TOP, MOST_LABEL, COLUMN = 0.23, 0.2, 0.06, 0.42, 0.2, 2.2, 0.62
ROW_TEXT = ("axes fraction", "data")
BESIDE = ("median", "reached", "diverged")
CROWDED = 12  # seeds of a row whose marks cover each other: without white edges, and the median above them


def draw(study: Study) -> list[Drawn]:
    """One row an arm, in blocks of what is compared; see the caption for the marks.

    Raises:
        NotDrawn: no target, neither declared nor found.
    """
    blocks = _blocks.blocks(study)
    if not blocks:
        raise NotDrawn("needs a target (--target 0.85), or a baseline whose runs reach one; found none")
    if study.options.x == "step":
        sizes = sorted({size for block in blocks for size in _blocks.batch_sizes(block)})
        blocks = [block for block in blocks if len(_blocks.batch_sizes(block)) < 2]
        if not blocks:
            found = ", ".join(map(str, sizes))
            raise NotDrawn(f"needs runs of one batch size, or examples in place of steps (--x examples), found {found}")
    made = []
    with rc_context(RC):
        for name, page in _blocks.pages(blocks):
            figure = _figure(study, page)
            made.append(Drawn(name, figure, _caption(study, page), _table(study, page)))
    return made


# ------------------------------------------------------------------------------------------------------------- drawing


def _figure(study: Study, page: Sequence[Block]) -> Figure:
    labels = [label for block in page for label, *_ in block.rows]
    left = min(max(text_width(label) for label in labels), MOST_LABEL) + 0.15
    several = len({block.goal for block in page}) > 1
    heads = several or any(block.title for block in page)
    beside = BESIDE if any(arm.diverged(arm.reported) for b in page for _, arm, _ in b.rows) else BESIDE[:2]
    inner = sum(HEAD * heads + GAP + ROW * len(block.rows) for block in page)
    height = TOP + inner + FOOT
    figure, width = Figure(figsize=(WIDTH, height)), WIDTH - left - COLUMN * len(beside) - 0.1
    axis = figure.add_axes((left / WIDTH, FOOT / height, width / WIDTH, inner / height))
    axis.set_ylim(inner, 0)
    _x_axis(axis, study.options.x, page)
    for i, name in enumerate(beside):
        _beside(axis, i, 0, name, "#555555", up=4)
    y = 0.0
    for block in page:
        if heads:
            y += HEAD
            title = ", ".join(text for text in (block.title, f"target {block.goal:g}" * several) if text)
            size = _sheet.fitted(title, WIDTH - 0.2, "bold")
            _sheet.note(axis, title, (0, y), (2 - left * 72, 0), ROW_TEXT, va="bottom", weight="bold", fontsize=size)
        y += GAP
        _budget(axis, block, study.options.x, y)
        for label, arm, crossings in block.rows:
            y += ROW
            _row(axis, y - ROW / 2, label, study, arm, crossings, beside, _few(page))
    return figure


def _few(page: Sequence[Block]) -> int:
    return dots_drawn([len(crossings) for block in page for *_, crossings in block.rows])


def _x_axis(axis: Axes, unit: str, page: Sequence[Block]) -> None:
    times = [getattr(c, unit) for b in page for *_, crossings in b.rows for c in crossings.values()]
    times = [time for time in times if math.isfinite(time) and time > 0] or [1.0]
    low, high = min(times), max(times)
    axis.set_xscale("log")
    room = max((high / low) ** 0.03, 1.03)
    axis.set_xlim(low / room**2, high * room)
    panels.plain_log_ticks(axis, "x")
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    targets = {block.goal for block in page}
    goal = f"validation accuracy {page[0].goal:g}" if len(targets) == 1 else "the target"
    axis.set_xlabel(f"{_arms.UNITS[unit]} to {goal} (log scale)", labelpad=2)


def _budget(axis: Axes, block: Block, unit: str, top: float) -> None:
    """A dotted line where every run of the block had to stop, if they all had the same budget."""
    ends = {float(c.budget_steps) if unit == "step" else c.budget_examples for *_, r in block.rows for c in r.values()}
    if unit != "train_s" and len(ends) == 1 and math.isfinite(end := min(ends)) and end <= axis.get_xlim()[1]:
        bottom = top + ROW * len(block.rows)
        axis.plot([end, end], [top, bottom], color="#777777", linestyle=":", linewidth=0.8, zorder=1, label="_budget")


def _row(
    axis: Axes, y: float, label: str, study: Study, arm: Arm, crossings: Mapping[int, target.Crossing],
    beside: Sequence[str], few: int,
) -> None:  # fmt: skip
    unit, look = study.options.x, _arms.dot(study, arm)
    axis.plot([0, 1], [y, y], transform=axis.get_yaxis_transform(), color="#000000", alpha=0.08, linewidth=0.6)
    text = _sheet.wrapped(label, MOST_LABEL)
    size = _sheet.fitted(text, MOST_LABEL, size=8.0 if "\n" not in text else 6.4)
    _sheet.note(axis, text, (0, y), (-6, 0), ROW_TEXT, ha="right", va="center", fontsize=size, linespacing=1.1)
    low, high = axis.get_xlim()
    drawn = [c for _, c in sorted(crossings.items())][:few]
    crowded = len(drawn) > CROWDED
    look |= {"markeredgecolor": look["color"]} if crowded else {}
    times = np.array([getattr(c, unit) for c in drawn])
    x = np.where(np.isfinite(times), np.clip(times, low, high), high)
    up = y + np.linspace(-1, 1, len(drawn)) * ROW * 0.3 * (len(drawn) > 1)
    reached = np.array([c.reached for c in drawn], bool)
    hollow = {"marker": ">", "markersize": 4.2, "markeredgewidth": 0.9}
    hollow |= {"markerfacecolor": "white", "markeredgecolor": look["color"]}
    for some, changes, name in ((reached, {}, "_seeds"), (~reached, hollow, "_missed")):
        if some.any():
            axis.plot(x[some], up[some], **look | changes, label=name, clip_on=False, zorder=3)
    middle = _median(crossings, unit)
    if math.isfinite(middle):
        bar = [y - ROW * 0.42, y + ROW * 0.42]
        axis.plot([max(middle, low)] * 2, bar, color=look["color"], linewidth=1.6, zorder=4 if crowded else 2,
                  label="_median")  # fmt: skip
    told = {
        "median": "–" if not crossings else f"{middle:,.5g}" if middle < 1000 else f"{middle:,.0f}",
        "reached": f"{sum(c.reached for c in crossings.values())}/{len(crossings)}" if crossings else "no run",
        "diverged": f"{arm.diverged(arm.reported)}/{len(crossings)}" if arm.diverged(arm.reported) else "",
    }
    told["median"] = "–" if math.isinf(middle) else told["median"]
    for i, name in enumerate(beside):
        _beside(axis, i, y, told[name], "#000000")


def _beside(axis: Axes, column: int, y: float, text: str, color: str, up: float = 0) -> None:
    by, va = (COLUMN * (column + 1) * 72, up), "bottom" if up else "center"
    _sheet.note(axis, text, (1, y), by, ROW_TEXT, ha="right", va=va, color=color, fontsize=7.5)


def _median(crossings: Mapping[int, target.Crossing], unit: str) -> float:
    """Never reached is later than any time; infinite where half the runs or more never did."""
    times = [getattr(c, unit) if c.reached else math.inf for c in crossings.values()]
    return stats.median(times).estimate if times else math.inf


# --------------------------------------------------------------------------------------------------------------- words


def _caption(study: Study, page: Sequence[Block]) -> str:
    rows = [row for block in page for row in block.rows]
    every = [c for *_, crossings in rows for c in crossings.values()]
    unit, arms = study.options.x, [arm for _, arm, _ in rows]
    targets = sorted({block.goal for block in page})
    goal = f"validation accuracy {targets[0]:g}" if len(targets) == 1 else "the target validation accuracy"
    parts = [
        f"{_arms.UNITS[unit]} to {goal}: to the first of {target.SUSTAIN} consecutive evaluations at or above it; not "
        "smoothed, not interpolated."
    ]
    if len(targets) > 1:
        parts.append("The blocks have targets of their own: compare within a block.")
    if study.options.x == "step" and len({round(c.batch_size) for c in every if c.batch_size > 0}) > 1:
        parts.append("Batch sizes differ between blocks: compare steps within a block.")
    if any(block.post_hoc for block in page):
        parts.append(
            "The target was chosen after the runs: the highest round accuracy that half of the baseline's runs reach."
        )
    counts = _arms.counted(len(crossings) for *_, crossings in rows if crossings)
    shown = _arms.seeds(seed for *_, crossings in rows for seed in crossings)
    dots, bars = "single seeds", "their median"
    if max(len(crossings) for *_, crossings in rows) > (few := _few(page)):
        dots, bars = f"{first(few, 'seed')} of a row", "the median of all"
    parts.append(f"Dots: {dots} (n = {counts} a row, {shown}); bars: {bars}.")
    if missed := sum(not c.reached for c in every):
        budgets = sorted({c.budget_steps for c in every if not c.reached})
        parts.append(
            f"Open triangles: {missed} {'run' if missed == 1 else 'runs'} that never reached it, at the budget of "
            f"{' or '.join(f'{b:,}' for b in budgets)} steps (dotted); a median counts them as later than all others, "
            "and is a dash where there is none."
        )
    lost = sum(arm.diverged(arm.reported) for arm in arms)
    parts.append("At the right: the median, and how many runs reached the target" + ", and diverged." * bool(lost))
    parts[-1] = parts[-1].rstrip(".") + "."
    if early := sum(c.reached and c.step == 0 for c in every):
        parts.append(f"{early} reached it before the first step: at the left edge.")
    coarse = max((target.resolution(r[2], r[2]) for r in rows), default=0.0)
    if coarse:
        advice = "; that is coarse: set a smaller eval.every_steps" * (coarse > target.COARSE + 1e-12)
        parts.append(f"A time is known to the evaluation interval, up to {coarse:.0%} of the time itself{advice}.")
    return " ".join(text for text in (*parts, _arms.tuning(study, arms), _arms.scope(study, arms)) if text)


def _table(study: Study, page: Sequence[Block]) -> pd.DataFrame:
    """time_to_target.csv's columns of the runs that are drawn, with their arm's settings and seed."""
    parts = []
    for block in page:
        for label, arm, crossings in block.rows:
            ids = {arm.reported[seed]: seed for seed in crossings}
            told = target.table({run_id: crossings[seed] for run_id, seed in ids.items()})
            front = {"arm": label, **{k: arm.setting[k] for k in study.keys}}
            told.insert(1, "seed", [ids[i] for i in told["run_id"]])
            for at, (key, value) in enumerate(front.items()):
                told.insert(at, key, [value] * len(told))
            parts.append(told)
    return pd.concat([part for part in parts if len(part)], ignore_index=True)
