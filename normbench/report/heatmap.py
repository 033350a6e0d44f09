"""Tables of coloured cells with their numbers in them: how `grid` and `stability` are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from normbench.report.facets import even
from normbench.report.sheet import GAP, LINE, Block, Sheet, wrapped
from normbench.report.style import WIDTH, text_width
from normbench.report.tables import cell_text

SMALL = 7  # points: ticks and numbers
SMALL_LINE, TOP = 0.125, 0.03  # inches
WIDEST_COLUMN, WIDEST_LABEL, MOST_ROWS = 1.1, 2.0, 20  # beyond: labels are wrapped, rows continue in a further block
EMPTY = "#ffffff"


@dataclass(frozen=True)
class Cell:
    """What one cell says: its number, a remark in its upper right corner, its colour; hatched where runs diverged."""

    text: str
    color: str
    corner: str = ""
    hatched: bool = False


@dataclass(frozen=True)
class Heatmap:
    """Rows and columns by label, cells by (row, column); a missing cell was not run.

    cell: its least size, in inches; widest: how far columns are stretched where there is room.
    """

    title: str
    name: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]
    cell: tuple[float, float]
    widest: float = 0.0
    xlabel: str = ""


def words(setting: Mapping[str, object], keys: Sequence[str], plain: str) -> list[str]:
    """The words of a label: the value of `plain` alone, the others as key=value, without what does not apply."""
    found = []
    for key in keys:
        if setting[key] != "":
            short = key.partition(".")[2] if "." in key and key.partition(".")[0] in keys else key
            found.append(cell_text(setting[key]) if key == plain else f"{short}={cell_text(setting[key])}")
    return found


def shade(value: float, low: float, high: float) -> str:
    """Cividis, from `low` (dark) to `high` (bright)."""
    share = (value - low) / (high - low) if high > low else 1.0
    red, green, blue, _ = matplotlib.colormaps["cividis"](float(np.clip(share, 0, 1)))
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def ink(color: str) -> str:
    """Black or white, whichever has the more contrast on this colour (WCAG's relative luminance)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return "#000000" if np.dot([0.2126, 0.7152, 0.0722], linear) > 0.179 else "#ffffff"


def blocks(table: Heatmap) -> list[Block]:
    """The table, torn where it would be wider than a page or too high."""
    left = 0.12 + max(text_width(line, SMALL) for row in table.rows for line in wrapped(row, WIDEST_LABEL, SMALL))
    wanted = max(text_width(word, SMALL) for label in table.columns for word in label.split("\n"))
    width = max(table.cell[0], min(wanted, WIDEST_COLUMN) + 0.1)
    fit = max(1, int((WIDTH - left) / width))
    width = max(width, min(table.widest, (WIDTH - left) / len(table.columns)))
    return [
        _block(table, rows, columns, left, width)
        for rows in even(list(table.rows), MOST_ROWS)
        for columns in even(list(table.columns), fit)
    ]


def _block(table: Heatmap, rows: list[str], columns: list[str], left: float, width: float) -> Block:
    labels = ["\n".join(line for part in c.split("\n") for line in wrapped(part, width - 0.06, SMALL)) for c in columns]
    names = ["\n".join(wrapped(row, WIDEST_LABEL, SMALL)) for row in rows]
    height = max(table.cell[1], SMALL_LINE * max(name.count("\n") + 1 for name in names) + 0.06)
    # over the cells, or, if it is too long for that, over the labels too
    room = max(width * len(columns), WIDTH / 2 - GAP - left)
    indent = left if text_width(table.title, weight="bold") <= room else 0.04
    title = wrapped(table.title, room + left - indent, weight="bold")
    head = TOP + LINE * (len(title) + 1) + 0.05
    below = SMALL_LINE * max(label.count("\n") + 1 for label in labels) + 0.06 + (0.16 if table.xlabel else 0.0)

    def draw(sheet: Sheet, x: float, y: float) -> None:
        for number, line in enumerate(title):
            sheet.text(x + indent, y + TOP + LINE * number, line, weight="bold")
        sheet.text(x + left, y + TOP + LINE * len(title), table.name)
        axis = sheet.axes(x + left, y + head, width * len(columns), height * len(rows))
        axis.set(xlim=(0, len(columns)), ylim=(len(rows), 0), label=table.title)
        axis.set_xticks(np.arange(len(columns)) + 0.5, labels, fontsize=SMALL)
        axis.set_yticks(np.arange(len(rows)) + 0.5, names, fontsize=SMALL)
        axis.tick_params(length=0, pad=3)
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.set_xlabel(table.xlabel, labelpad=2)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                _cell(axis, i, j, table.cells.get((row, column)))

    wide = max(left + width * len(columns), left + text_width(table.name))
    wide = max([wide, *(indent + text_width(line, weight="bold") for line in title)])
    return Block(wide, head + height * len(rows) + below, draw, table.title)


def _cell(axis: Axes, row: int, column: int, cell: Cell | None) -> None:
    color = cell.color if cell else EMPTY
    axis.add_patch(Rectangle((column, row), 1, 1, facecolor=color, linewidth=0))
    if cell and cell.hatched:
        lines = "#555555" if ink(color) == "#000000" else "#bbbbbb"
        axis.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=lines, hatch="//////", linewidth=0))
    axis.add_patch(Rectangle((column, row), 1, 1, facecolor="none", edgecolor="white", linewidth=1.5))
    text = cell.text if cell else "–"
    ground = {"boxstyle": "square,pad=0.15", "facecolor": color, "edgecolor": "none"}
    box = ground if cell and cell.hatched else None
    middle = 0.6 if cell and cell.corner else 0.5
    axis.text(column + 0.5, row + middle, text, ha="center", va="center", fontsize=SMALL, color=ink(color), bbox=box)
    if cell and cell.corner:
        axis.text(
            column + 0.95, row + 0.07, cell.corner, ha="right", va="top", fontsize=5.5, color=ink(color),
            bbox={**ground, "boxstyle": "square,pad=0.05"} if cell.hatched else None,
        )  # fmt: skip
