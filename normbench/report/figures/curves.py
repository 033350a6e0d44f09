"""`curves`: does a norm train faster, or better? Accuracy and loss against steps, every seed and the mean."""

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

import matplotlib
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from normbench.report import panels, reported
from normbench.report.captions import curves_caption, seeds_drawn
from normbench.report.facets import MOST_LINES, Line, Row, even, rows
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.sheet import MOST_FIGURES, page_names
from normbench.report.study import Study
from normbench.report.style import RC, WIDTH, mean_look, norm_looks, optimizer_dashes

MOST_ROWS = 4  # a figure: more would not fit on a page
AXES = (("val_acc", "Validation accuracy"), ("train_loss", "Training loss (log scale)"))
# inches
PANEL, TITLE, NAME, TICKS, STEPS, LEFT, GUTTER, RIGHT, ENTRY = 1.5, 0.18, 0.21, 0.25, 0.1, 0.4, 0.5, 0.12, 0.18
LETTER = 0.062  # the width of a letter, of 8 pt text on average


def draw(study: Study) -> list[Drawn]:
    """See `curves`: the runs that arms are reported by, each at its own best setting, and the targets."""
    runs = reported.runs(study)
    keys = [key for key in study.keys if key in study.setting]
    tuned = study.options.tuned
    beside = (
        [_arms.tuning(study, study.arms, "Each"), reported.left_out(study)] if set(tuned) & {*study.setting} else []
    )
    return curves(runs, study.setting.loc[runs.index, keys], study.metrics, _goals(study), beside)


def _goals(study: Study) -> dict[str, tuple[float, float | None]]:
    """run_id -> the target of its arm, and the median steps to it of the arm's reported runs; None where never."""
    found = {}
    for contrast in study.contrasts:
        for arm in (contrast.baseline, contrast.variant) if contrast.target is not None else ():
            crossed = [study.crossing(i, contrast.target or 1.0) for i in arm.reported.values()]
            middle = median(c.step if c.reached else math.inf for c in crossed) if crossed else math.inf
            told = contrast.target or 1.0, middle if math.isfinite(middle) else None
            found |= dict.fromkeys(arm.reported.values(), told)
    return found


def curves(
    runs: pd.DataFrame, setting: pd.DataFrame, metrics: pd.DataFrame,
    goals: Mapping[str, tuple[float, float | None]] | None = None, beside: Sequence[str] = (),
) -> list[Drawn]:  # fmt: skip
    """Validation accuracy and training loss against steps, a row of two panels for each facet.

    Args:
        runs: the used runs, as `collect` gives them.
        setting: what tells them apart, from `tables.settings`.
        metrics: their rows.
        goals: run_id -> (target accuracy, median steps to it of the runs of its line).
        beside: sentences of the caption.

    Returns:
        One figure for every MOST_ROWS facets: `curves`, `curves_2`, ...

    Raises:
        NotDrawn: no runs, or more facets than MOST_FIGURES figures hold.
    """
    facets = rows(runs, setting) if len(runs) else []
    if not facets:
        raise NotDrawn("needs at least one complete or diverged run, found none")
    if len(facets) > MOST_ROWS * MOST_FIGURES:
        varied = ", ".join(key for key in map(str, setting) if key not in ("norm", "optimizer"))
        raise NotDrawn(
            f"needs at most {MOST_ROWS * MOST_FIGURES} combinations of what varies beside norm and optimizer "
            f"({varied}), found {len(facets)}; give folders with fewer: normbench report FOLDER/..."
        )
    pages = even(facets, MOST_ROWS)
    names = page_names("curves", len(pages))
    with matplotlib.rc_context(RC):
        shown = _Shown(runs, metrics, goals or {}, beside)
        return [_page(name, page, shown) for name, page in zip(names, pages, strict=True)]


class _Shown:
    """What all pages are drawn from."""

    def __init__(self, runs: pd.DataFrame, metrics: pd.DataFrame, goals: Mapping, beside: Sequence[str]):
        self.runs, self.goals, self.beside = runs, goals, [text for text in beside if text]
        looks, dashes = norm_looks(runs["norm"]), optimizer_dashes(runs["optimizer"])
        diverged = frozenset(runs.loc[runs["state"] == "diverged", "run_id"])
        self.curves = {c: panels.Curves(panels.measured(metrics, c), looks, dashes, diverged) for c, _ in AXES}
        self._limits: dict[tuple[str, frozenset], tuple[float, float]] = {}

    def limits(self, metric: str, own: pd.DataFrame) -> tuple[float, float]:
        """Of the y axis: rows of one data set share it, since they are compared."""
        key = metric, frozenset(own["dataset"])
        if key not in self._limits:
            same = self.runs[self.runs["dataset"].isin(own["dataset"])]
            complete = set(same.loc[same["state"] == "complete", "run_id"])
            curves = self.curves[metric]
            points = {i: curves.points[i] for i in same["run_id"] if i in curves.points}
            found = panels.accuracy_limits if metric == "val_acc" else panels.loss_limits
            self._limits[key] = found(points, complete)
        return self._limits[key]


def _page(name: str, page: Sequence[Row], shown: _Shown) -> Drawn:
    curves = shown.curves["val_acc"]
    names = line_names({line for row in page for line in row.lines}, shown.runs)
    figure = _labelled(page, shown, names)
    if not figure:
        layout = _Layout(page, names, direct=False)
        figure, _ = _drawn(page, shown, layout)
        _legend(figure, curves, names, layout)
    accuracy, loss = (shown.curves[metric].points for metric, _ in AXES)
    text = curves_caption(page, shown.runs, accuracy, loss, [axis.get_ylim() for axis in figure.axes])
    aims = {shown.goals[i][0] for row in page for line in row.lines for i in line.run_ids if i in shown.goals}
    if aims:
        told = ", ".join(f"{goal:g}" for goal in sorted(aims))
        text += f" Dotted: the target, {told}; ticks on it: median steps to it, of a line that mostly reached it."
    return Drawn(name, figure, " ".join([text, *shown.beside]))


def _draw_goals(axis: Axes, row: Row, shown: _Shown) -> None:
    """A dotted line at each target of the row, and on it a tick where the median run of each line reached it."""
    looks, ticks = shown.curves["val_acc"].looks, []
    for line in row.lines:
        ticks += [(*goal, looks[line.norm][0]) for i in line.run_ids[:1] if (goal := shown.goals.get(i))]
    for goal in sorted({goal for goal, _, _ in ticks}):
        axis.axhline(goal, color="#555555", linestyle=":", linewidth=0.8, zorder=1, label="_target")
    for goal, step, color in ticks:
        if step is not None:
            axis.plot([step], [goal], color=color, marker="|", markersize=8, markeredgewidth=1.4, label="_reached",
                      zorder=4)  # fmt: skip


def _labelled(page: Sequence[Row], shown: _Shown, names: Mapping[Line, str]) -> Figure | None:
    """With the lines' names at their ends, where these lie far enough apart in every row's first panel."""
    if max(len(row.lines) for row in page) > panels.MOST_LABELS:
        return None
    figure, ends = _drawn(page, shown, _Layout(page, names, direct=True))
    fits = [panels.can_label(panels.heights(axis, ends[axis]), page[i // 2]) for i, axis in enumerate(figure.axes)]
    if not all(fits[::2]):
        return None
    for axis, fit in zip(figure.axes, fits, strict=True):
        if fit:
            panels.label_ends(axis, ends[axis], names, shown.curves["val_acc"].looks)
    return figure


def line_names(lines: set[Line], runs: pd.DataFrame) -> dict[Line, str]:
    """Name lines by what differs: the norm alone where there is one optimizer, the optimizer alone for one norm."""
    one_optimizer, one_norm = runs["optimizer"].nunique() == 1, runs["norm"].nunique() == 1
    return {
        line: line.norm if one_optimizer else line.optimizer if one_norm else f"{line.norm}, {line.optimizer}"
        for line in lines
    }


class _Layout:
    """Where everything lies, in inches: fixed sizes, so that every panel of every report is as large as the others."""

    def __init__(self, page: Sequence[Row], names: Mapping[Line, str], direct: bool):
        self.names = sorted(set(names.values()))
        # above MOST_LINES, one legend for the norms and one for the optimizers, not for all their pairs
        self.split = len(self.names) > MOST_LINES
        norms, optimizers = {line.norm for line in names}, {line.optimizer for line in names}
        parts = [part for part in (norms, optimizers) if len(part) > 1] if self.split else [self.names]
        self.blocks = [_grid(part) for part in parts]
        self.legend = 0.0 if direct else ENTRY * sum(rows for rows, _ in self.blocks) + 0.04
        label = max(map(len, self.names)) * LETTER + 0.1 if direct else 0.0
        self.heads = [TITLE * bool(row.title) + NAME for row in page]
        self.height = self.legend + sum(head + PANEL + TICKS for head in self.heads) + STEPS
        self.width = (WIDTH - LEFT - GUTTER - RIGHT - 2 * label) / 2
        self.lefts = (LEFT, LEFT + self.width + label + GUTTER)

    def box(self, number: int, column: int) -> tuple[float, float, float, float]:
        """The panel as fractions of the figure: left, bottom, width, height."""
        above = self.legend + sum(head + PANEL + TICKS for head in self.heads[:number]) + self.heads[number]
        bottom = (self.height - above - PANEL) / self.height
        return self.lefts[column] / WIDTH, bottom, self.width / WIDTH, PANEL / self.height


def _drawn(page: Sequence[Row], shown: _Shown, layout: _Layout) -> tuple[Figure, dict[Axes, dict[Line, panels.Points]]]:
    """The panels without labels or legend, and in each the means that have an end to label."""
    figure, ends = Figure(figsize=(WIDTH, layout.height)), {}
    reached, runs = shown.curves["val_acc"].points, shown.runs
    for number, row in enumerate(page):
        own = runs[runs["run_id"].isin([i for line in row.lines for i in line.run_ids])]
        for column, (metric, title) in enumerate(AXES):
            curves = shown.curves[metric]
            axis = figure.add_axes(layout.box(number, column))
            last = [reached[i][0][-1] for i in own["run_id"] if i in reached]
            end = max([*last, *own["total_steps"].dropna().astype(float), 1.0])
            axis.set_xlim(-0.01 * end, 1.015 * end)  # room for half a marker
            if metric == "val_acc":
                axis.set_ylim(shown.limits(metric, own))
                axis.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
            else:
                axis.set_yscale("log")
                axis.set_ylim(shown.limits(metric, own))
                panels.log_ticks(axis)
            axis.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
            axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axis.set_ylabel(title, rotation=0, ha="left", va="bottom")
            axis.yaxis.set_label_coords(0, 1.03)
            ends[axis] = panels.draw(axis, row, curves, seeds_drawn(page))
            panels.explain_if_empty(axis, row, curves)
            if metric == "val_acc":
                _draw_goals(axis, row, shown)
            if number == len(page) - 1:
                axis.set_xlabel("Optimizer steps", labelpad=2)
        if row.title:
            top = layout.box(number, 0)[1] + (PANEL + NAME) / layout.height
            look: Any = {"va": "bottom", "ha": "left", "weight": "bold", "fontsize": _heading_size(row.title)}
            figure.text(LEFT / WIDTH, top, row.title, **look)
    return figure, ends


def _heading_size(title: str) -> float:
    """In points: 8, or what lets a long heading end within the figure; what tells rows apart must not be cut off."""
    return min(8.0, 8.0 * (WIDTH - LEFT) / (len(title) * LETTER * 1.2))


def _grid(entries: Collection[str]) -> tuple[int, int]:
    """Rows and columns of a legend that is not wider than the panels."""
    fit = max(1, int((WIDTH - LEFT) / (max(map(len, entries)) * LETTER + 0.55)))
    rows_ = math.ceil(len(entries) / fit)
    return rows_, math.ceil(len(entries) / rows_)


def _legend(figure: Figure, curves: panels.Curves, names: Mapping[Line, str], layout: _Layout) -> None:
    """Legends above the panels, in the order in which the lines end at the right, highest first."""
    ordered = sorted(names, key=lambda line: (-_end(line, curves), line.norm, line.optimizer))
    if layout.split:
        norms = {line.norm: mean_look(line.norm, curves.looks) for line in ordered}
        used = sorted({line.optimizer for line in ordered})
        grey = "#555555" if len(norms) > 1 else curves.looks[ordered[0].norm][0]
        plain = {o: {"color": grey, "linestyle": curves.dashes[o], "linewidth": 1.2} for o in used}
        blocks = [block for block in (norms, plain) if len(block) > 1]
    else:
        blocks = [{names[k]: mean_look(k.norm, curves.looks, curves.dashes[k.optimizer]) for k in ordered}]
    top = 1.0
    for looks, (count, columns) in zip(blocks, layout.blocks, strict=True):
        handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
        # matplotlib fills column by column, people read row by row
        handles = [handle for column in range(columns) for handle in handles[column::columns]]
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(LEFT / WIDTH, top), ncols=columns, frameon=False,
            handlelength=2.6, columnspacing=1.4, borderaxespad=0.3, borderpad=0, handletextpad=0.5, labelspacing=0.4,
        )  # fmt: skip
        top -= count * ENTRY / layout.height


def _end(line: Line, curves: panels.Curves) -> float:
    """Mean of the last measured values; -1 where nothing was."""
    last = [curves.points[i][1][-1] for i in line.run_ids if i in curves.points]
    return sum(last) / len(last) if last else -1.0
