"""Small multiples over steps or trials: for each facet a panel or a stack of panels, two facets side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normbench.report import panels
from normbench.report.captions import seeds_drawn
from normbench.report.facets import MOST_LINES, Line, Row
from normbench.report.figures import NotDrawn
from normbench.report.panels import Points
from normbench.report.sheet import LINE, MOST_FIGURES, TALLEST, Sheet, legend_height, wrapped
from normbench.report.style import WIDTH, mean_look, text_width
from normbench.report.tables import natural

# inches
LEFT, GUTTER, RIGHT, NAME, TICKS, XLABEL, BETWEEN = 0.42, 0.5, 0.12, 0.21, 0.22, 0.16, 0.1
LONGEST = 0.9  # a label at a line's end; longer ones go to the legend


@dataclass(frozen=True)
class Part:
    """One panel of a stack: what it shows, how high it is, and what draws it, so many seeds a line, and gives the
    lines' ends.
    """

    title: str
    height: float
    draw: Callable[[Axes, Row, int], Mapping[Line, Points]]


@dataclass(frozen=True)
class Looks:
    """Names, colours and dashes of the lines, the same on every page."""

    names: Mapping[Line, str]
    norms: Mapping[str, tuple[str, str]]
    dashes: Mapping[str, Any]

    def samples(self, ordered: Sequence[Line]) -> list[dict[str, dict[str, Any]]]:
        """Legends: one of the lines, or, of too many, one of the norms and one of the optimizers."""
        if len(set(self.names.values())) <= MOST_LINES:
            return [{self.names[k]: mean_look(k.norm, self.norms, self.dashes[k.optimizer]) for k in ordered}]
        own = sorted({line.norm for line in ordered}, key=lambda norm: natural([norm]))
        norms = {norm: mean_look(norm, self.norms) for norm in own}
        grey = "#555555" if len(norms) > 1 else self.norms[ordered[0].norm][0]
        used = sorted({line.optimizer for line in ordered})
        plain = {o: {"color": grey, "linestyle": self.dashes[o], "linewidth": 1.2} for o in used}
        return [block for block in (norms, plain) if len(block) > 1]


def pages(facets: Sequence[Row], parts: Sequence[Part]) -> list[list[Row]]:
    """As many facets a figure as its height allows, two side by side."""
    each = sum(part.height + NAME for part in parts) + BETWEEN * (len(parts) - 1) + TICKS + XLABEL + 2 * LINE
    most = 2 * max(1, int((TALLEST - 0.5) / each))
    if len(facets) > most * MOST_FIGURES:
        raise NotDrawn(
            f"needs at most {most * MOST_FIGURES} combinations of settings beside norm and optimizer, found "
            f"{len(facets)}; give folders with fewer"
        )
    count = -(-len(facets) // most)
    size = -(-len(facets) // count)
    size += size % 2 if count > 1 else 0
    return [list(facets[i : i + size]) for i in range(0, len(facets), size)]


def figure(page: Sequence[Row], parts: Sequence[Part], looks: Looks, xlabel: str) -> Figure:
    """One page. Names stand at the lines' ends in each stack's first panel if they fit everywhere, else in a legend."""
    own = {line: looks.names[line] for row in page for line in row.lines}
    room = max(text_width(name) for name in own.values()) + 0.1
    sheet, ends = _drawn(page, parts, room if room <= LONGEST else 0.0, 0.0, xlabel)
    at = [panels.heights(axis, end) for axis, end in ends]
    if room <= LONGEST and all(panels.can_label(some, row) for row, some in zip(page, at, strict=True)):
        for axis, end in ends:
            panels.label_ends(axis, end, own, looks.norms)
        return sheet.figure
    last = _means(at)
    ordered = sorted(own, key=lambda line: (-last.get((line.norm, line.optimizer), -1e9), line.norm, line.optimizer))
    blocks = looks.samples(ordered)
    heights = [legend_height(block, LEFT) for block in blocks]
    sheet, _ = _drawn(page, parts, 0.0, sum(heights) + 0.04, xlabel)
    for i, block in enumerate(blocks):
        sheet.legend(LEFT, sum(heights[:i]), block)
    return sheet.figure


def _means(heights: Sequence[Mapping[Line, float]]) -> dict[tuple[str, str], float]:
    """Where the lines end in the first panels, for the order of a legend; means over facets."""
    found: dict[tuple[str, str], list[float]] = {}
    for at in heights:
        for line, height in at.items():
            found.setdefault((line.norm, line.optimizer), []).append(height)
    return {key: sum(values) / len(values) for key, values in found.items()}


def _drawn(
    page: Sequence[Row], parts: Sequence[Part], room: float, legend: float, xlabel: str
) -> tuple[Sheet, list[tuple[Axes, Mapping[Line, Points]]]]:
    columns = min(2, len(page))
    width = (WIDTH - LEFT - RIGHT - (columns - 1) * GUTTER - columns * room) / columns
    lines = [wrapped(row.title, width + room + RIGHT, weight="bold") for row in page]
    stack = sum(part.height + NAME for part in parts) + BETWEEN * (len(parts) - 1) + TICKS
    tops, top = [], legend
    for i in range(0, len(page), columns):
        head = LINE * max(map(len, lines[i : i + columns]))
        tops += [(top, top + head)] * columns
        top += head + stack + (BETWEEN if i + columns < len(page) else XLABEL)
    sheet, ends, few = Sheet(top), [], seeds_drawn(page, len(parts))
    for i, row in enumerate(page):
        left = LEFT + (i % columns) * (width + room + GUTTER)
        for number, line in enumerate(lines[i]):
            sheet.text(left, tops[i][0] + LINE * number, line, weight="bold")
        bottom = i + columns >= len(page)
        axes = _stack(sheet, row, parts, few, (left, tops[i][1], width), xlabel if bottom else "")
        ends.append(axes[0])
    return sheet, ends


def _stack(
    sheet: Sheet, row: Row, parts: Sequence[Part], few: int, place: tuple[float, float, float], xlabel: str
) -> list[tuple[Axes, Mapping[Line, Points]]]:
    left, top, width = place
    found = []
    for number, part in enumerate(parts):
        axis = sheet.axes(left, top + NAME, width, part.height)
        top += NAME + part.height + BETWEEN
        axis.set_ylabel(part.title, rotation=0, ha="left", va="bottom")
        axis.yaxis.set_label_coords(0, 1 + 0.045 / part.height)
        found.append((axis, part.draw(axis, row, few)))
        if number < len(parts) - 1:
            axis.tick_params(labelbottom=False)
        elif xlabel:
            axis.set_xlabel(xlabel, labelpad=2)
    return found


def steps_axis(axis: Axes, row: Row, runs: pd.DataFrame) -> None:
    """X from 0 to the longest budget of the row's runs."""
    own = runs[runs["run_id"].isin([i for line in row.lines for i in line.run_ids])]
    end = max([*own["total_steps"].dropna().astype(float), 1.0])
    axis.set_xlim(-0.01 * end, 1.015 * end)  # room for half a marker
    axis.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
