"""`speedup_vs_target`: is the ratio cherry-picked? It is drawn for every target, not for one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normbench.report import panels, target
from normbench.report.figures import Drawn, NotDrawn, _arms, _sheet
from normbench.report.study import Contrast, Study
from normbench.report.style import COLUMN, RC, WIDTH, norm_looks

HEIGHT, HEAD, FOOT, LEFT = 1.3, 0.36, 0.36, 0.42  # inches, around a panel
MOST_PANELS = 15  # a page
STEPS, MOST_TARGETS = (0.001, 0.002, 0.005, 0.01, 0.02), 45  # of the grid of targets
LEAST, MOST = 1.5, 30.0  # the ratio's axis reaches at least so far on both sides, and at most
GREY = "#E4E4E4"


@dataclass(frozen=True)
class Panel:
    """One contrast: a row a target, as `target.speedup` gives them."""

    title: str
    contrast: Contrast
    ratios: pd.DataFrame
    n: int


def draw(study: Study) -> list[Drawn]:
    """One panel a contrast; see the caption for the marks.

    Raises:
        NotDrawn: nothing to compare, too few shared seeds, or no target that any run reaches.
    """
    shared = _arms.compared(study, lambda arm: arm.reported)
    found = [panel for i, seeds in shared.items() if (panel := _panel(study, study.contrasts[i], seeds))]
    if not found:
        raise NotDrawn("needs a target that some run reaches after its first evaluation, found none")
    made = []
    with rc_context(RC):
        for name, page in _sheet.pages("speedup_vs_target", found, MOST_PANELS, "contrasts"):
            made.append(Drawn(name, *_page(study, page), _table(study, page)))
    return made


def _panel(study: Study, contrast: Contrast, seeds: Sequence[int]) -> Panel | None:
    base, variant = contrast.baseline, contrast.variant
    a, b = ({s: study.track_of[arm.reported[s]] for s in seeds} for arm in (base, variant))
    every = [*a.values(), *b.values()]
    grids = [target.target_grid(every, step) for step in STEPS]
    grid = [goal for goal in next((g for g in grids if len(g) <= MOST_TARGETS), grids[-1]) if goal > _passed(every)]
    if not grid:
        return None
    budgets = [int(arm.runs["total_steps"].astype(int).max()) for arm in (base, variant)]
    ratios = target.speedup(a, b, grid, (budgets[0], budgets[1]), unit=study.options.x)
    names = [_arms.arm_name(study, contrast, arm) for arm in (variant, base)]
    said = _arms.words(contrast.where)
    return Panel(f"{names[0]} against {names[1]}" + f"\n{said}" * bool(said), contrast, ratios, len(seeds))


def _passed(runs: Sequence[target.Track]) -> float:
    """The highest target that every run has reached at its first evaluation after step 0: there all times are equal."""
    first = [run.value[1 : 1 + target.SUSTAIN] for run in runs]
    return min(float(values.min()) if len(values) == target.SUSTAIN else 0.0 for values in first)


# ------------------------------------------------------------------------------------------------------------- drawing


def _page(study: Study, page: Sequence[Panel]) -> tuple[Figure, str]:
    columns = _sheet.columns(len(page))
    cell = (WIDTH / columns if columns > 1 else COLUMN) - 0.2
    titles = [_title(panel, cell) for panel in page]
    head = HEAD + _sheet.LINE * max(title.count("\n") for title in titles)
    sheet = _sheet.Sheet(len(page), columns, HEIGHT, left=LEFT, head=head, foot=FOOT, right=0.15)
    limits, grid = _limits(page), [t for panel in page for t in panel.ratios["target"]]
    cut = 0
    for i, (axis, panel, title) in enumerate(zip(sheet.axes, page, titles, strict=True)):
        sheet.heading(axis, title)
        axis.set_yscale("log")
        axis.set_ylim(limits)
        room = max(0.02 * (max(grid) - min(grid)), 0.002)
        axis.set_xlim(min(grid) - room, max(grid) + room)
        panels.plain_log_ticks(axis, "y", 3, 7)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
        if i % columns == 0:
            axis.set_ylabel("Ratio of times (log scale)", rotation=0, ha="left", va="bottom")
            axis.yaxis.set_label_coords(-0.04, 1.03)
        if axis in sheet.last:
            axis.set_xlabel("Target validation accuracy", labelpad=2)
        cut += _draw(axis, panel, norm_looks(study.norms)[panel.contrast.variant.norm][0])
    return sheet.figure, _caption(study, page, cut)


def _title(panel: Panel, inches: float) -> str:
    return "\n".join(_sheet.wrapped(line, inches, weight="bold") for line in panel.title.split("\n"))


def _limits(page: Sequence[Panel]) -> tuple[float, float]:
    """All panels alike: every ratio, and the intervals as far as they are not wide beyond use."""
    ratios = np.concatenate([panel.ratios["ratio"].dropna() for panel in page])
    ends = np.concatenate([panel.ratios[end].dropna() for panel in page for end in ("ci_low", "ci_high")])
    ends = ends[np.isfinite(ends) & (ends > 0)]
    high = max([LEAST, *(r * 1.1 for r in ratios), *(e for e in ends if e <= MOST)])
    low = min([1 / LEAST, *(r / 1.1 for r in ratios), *(e for e in ends if e >= 1 / MOST)])
    return low, high


def _draw(axis: Axes, panel: Panel, color: str) -> bool:
    """The ratio where it is known, a bound where one arm missed the target, grey where there is none.

    Returns whether an interval is cut off by the axis.
    """
    rows, (low, high) = panel.ratios, axis.get_ylim()
    axis.axhline(1, color="#000000", linewidth=0.8, zorder=1.5)
    for state, part in _stretches(rows):
        x, y = part["target"].to_numpy(float), part["ratio"].to_numpy(float)
        left, right = _span(rows, part)
        if state:
            axis.axvspan(left, right, color=GREY, linewidth=0, zorder=0, label=f"_{state}")
        if state == "none":
            continue
        inside = np.clip(part[["ci_low", "ci_high"]].to_numpy(float), low / 2, high * 2)
        axis.fill_between(x, inside[:, 0], inside[:, 1], color=color, alpha=0.18, linewidth=0, zorder=2)
        if len(x) == 1:  # a band of no width cannot be seen
            axis.vlines(x, inside[:, 0], inside[:, 1], color=color, linewidth=0.8, alpha=0.5, zorder=2)
        if state or len(x) == 1:
            marker = {"low": "^", "high": "v", "": "o"}[state]
            axis.plot(x, y, color=color, linestyle=":" if state else "none", linewidth=0.8, label=f"_{state or 'one'}",
                      marker=marker, markevery=max(1, len(x) // 8), markersize=4)  # fmt: skip
        else:
            axis.plot(x, y, color=color, label="ratio", zorder=3)
    goal = panel.contrast.target
    if goal is not None and axis.get_xlim()[0] <= goal <= axis.get_xlim()[1]:
        axis.axvline(goal, color="#555555", linestyle=":", linewidth=0.8, zorder=1, label="_target")
    if rows["ratio"].isna().all():
        axis.text(0.5, 0.7, "no ratio at any target", transform=axis.transAxes, ha="center", color="#555555")
    known = rows[rows["ratio"].notna()]
    return bool((known["ci_low"].between(0, low, inclusive="neither") | known["ci_high"].between(high, 1e300)).any())


def _stretches(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Neighbouring targets of one kind: "" an estimate, "low" and "high" a bound, "none" no ratio."""
    kinds = rows["bound"].where(rows["ratio"].notna(), "none")
    return [(str(kinds[part.index[0]]), part) for _, part in rows.groupby((kinds != kinds.shift()).cumsum())]


def _span(rows: pd.DataFrame, part: pd.DataFrame) -> tuple[float, float]:
    """From half a step below the first to half a step above the last."""
    targets = rows["target"].to_numpy(float)
    half = (targets[1] - targets[0]) / 2 if len(targets) > 1 else 0.005
    return float(part["target"].iloc[0]) - half, float(part["target"].iloc[-1]) + half


# --------------------------------------------------------------------------------------------------------------- words


def _caption(study: Study, page: Sequence[Panel], cut: int) -> str:
    arms = [arm for panel in page for arm in (panel.contrast.baseline, panel.contrast.variant)]
    unit = _arms.UNITS[study.options.x].lower()
    kinds = {state for panel in page for state, _ in _stretches(panel.ratios)}
    parts = [
        f"How many times fewer {unit} the variant needs than the baseline, for every target that some run reaches, not "
        "for one: above 1 the variant is faster. Line: geometric mean of the per-seed ratios (n = "
        f"{_arms.counted(panel.n for panel in page)} paired seeds a panel); band: 95% paired t interval of the logs, "
        "at each target by itself."
    ]
    if kinds & {"low", "high"}:
        parts.append(
            "Grey with arrows: one arm never reached the target in some runs, its budget stands for them, and the "
            "ratio is a bound: the true one lies further in the arrows' direction."
        )
    reasons = {why for panel in page for why in panel.ratios["refused"] if why}
    missed = {why for why in reasons if "no ratio can be given" in why}
    if missed:
        parts.append("Grey without a line: no ratio, since the faster arm or both missed the target in some runs.")
    parts += [f"Grey without a line: {why}." for why in sorted(reasons - missed)]
    if any(panel.contrast.target is not None for panel in page):
        post = any(panel.contrast.post_hoc for panel in page)
        parts.append("Dotted: the target of the verdict" + " (chosen after the runs)." * post + "." * (not post))
    if cut:
        parts.append(f"In {cut} {'panel' if cut == 1 else 'panels'} the band is cut off by the axis.")
    parts.append(
        f"A target is reached at the first of {target.SUSTAIN} consecutive evaluations at or above it; no smoothing. "
        "Targets that every run has reached by its first evaluation are left out."
    )
    return " ".join(text for text in (*parts, _arms.tuning(study, arms), _arms.scope(study, arms)) if text)


def _table(study: Study, page: Sequence[Panel]) -> pd.DataFrame:
    parts = []
    for panel in page:
        c = panel.contrast
        front = {"baseline": _arms.arm_name(study, c, c.baseline), "variant": _arms.arm_name(study, c, c.variant)}
        parts.append(panel.ratios.assign(**front, **c.where)[[*front, *c.where, *panel.ratios]])
    return pd.concat(parts, ignore_index=True)
