"""Panels on a page, in inches: fixed sizes, headings and row labels that fit, one legend above. Pure."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from normbench.report.facets import even
from normbench.report.figures import NotDrawn
from normbench.report.sheet import MOST_FIGURES, page_names
from normbench.report.style import COLUMN, WIDTH, text_width

ENTRY = 0.18  # inches; a line of a legend
HANDLE = 0.55  # of its line and the space after the text
LINE = 0.135  # a line of text
T = TypeVar("T")


class Sheet:
    """`count` panels of one size in rows of `columns`, and room for what surrounds each.

    left, right, head, foot: inches around each panel. top: above all of them, for a legend. A single panel is as wide
    as one column of a paper.
    """

    def __init__(
        self, count: int, columns: int, height: float, *, left: float, head: float, foot: float, right: float = 0.12,
        top: float = 0.0,
    ):  # fmt: skip
        columns = min(columns, count)
        self.width = sheet_width(count, columns)
        rows = math.ceil(count / columns)
        cell = self.width / columns
        self.panel, self.left, self.head = cell - left - right, left, head
        self.height = top + rows * (head + height + foot)
        self.figure = Figure(figsize=(self.width, self.height))
        self.axes: list[Axes] = []
        for i in range(count):
            row, column = divmod(i, columns)
            bottom = self.height - top - row * (head + height + foot) - head - height
            box = (cell * column + left) / self.width, bottom / self.height, self.panel / self.width
            self.axes.append(self.figure.add_axes((*box, height / self.height)))
        self.last = {self.axes[i] for i in range(count) if i + columns >= count}  # nothing below them

    def heading(self, axis: Axes, text: str) -> None:
        """In bold, at the top of the room above the panel, as wide as its cell."""
        size = fitted(text, self.panel + self.left - 0.05, "bold")
        by = (-self.left * 72 + 2, self.head * 72 - 2)
        note(axis, text, (0, 1), by, va="top", ha="left", weight="bold", fontsize=size)


def columns(count: int) -> int:
    """Of small panels: at most three, none left alone in a row of four."""
    return 2 if count == 4 else min(count, 3)


def sheet_width(count: int, columns: int) -> float:
    return COLUMN if min(count, columns) == 1 else WIDTH


def note(
    axis: Axes, text: str, at: tuple[float, float], by: tuple[float, float], coords: Any = "axes fraction", **look: Any
) -> None:
    """Write at a place of the axis, moved `by` points; also outside of the panel."""
    axis.annotate(text, at, by, xycoords=coords, textcoords="offset points", annotation_clip=False, **look)


def fitted(text: str, inches: float, weight: str = "normal", size: float = 8.0) -> float:
    """The size in points at which the text, line by line, is at most so wide, with room for a screen's rounding."""
    widest = 1.04 * max((text_width(line, size, weight) for line in text.split("\n")), default=0.0)
    return size if widest <= inches else size * inches / widest


def wrapped(text: str, inches: float, most: int = 2, size: float = 8.0, weight: str = "normal") -> str:
    """The text in as few lines as fit, at most `most`: broken after spaces, or after `_`, `=` and `/` too."""
    lines = [text]
    for breaks, count in ((breaks, count) for breaks in (" ", " _=/") for count in range(2, most + 1)):
        if max(text_width(line, size, weight) for line in lines) <= inches:
            break
        pieces = re.findall(rf"[^{breaks}]*[{breaks}]+|[^{breaks}]+", text)
        longest = next(n for n in range(1, len(text) + 1) if len(_filled(pieces, n)) <= count)
        lines = _filled(pieces, longest)
    return "\n".join(lines)


def _filled(pieces: Sequence[str], letters: int) -> list[str]:
    """Lines of at most so many letters, unless a piece alone is longer."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and len((lines[-1] + piece).rstrip()) > letters:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _merged(blocks: Sequence[Mapping[str, Any]], width: float) -> list[Mapping[str, Any]]:
    """All in one block where one row holds it."""
    whole = {text: look for block in blocks for text, look in block.items()}
    return [whole] if whole and _grid(whole, width)[0] == 1 else [block for block in blocks if block]


def legend_height(blocks: Sequence[Mapping[str, Any]], width: float) -> float:
    return ENTRY * sum(_grid(block, width)[0] for block in _merged(blocks, width)) + 0.06 * any(blocks)


def legend(figure: Figure, blocks: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
    """At the very top, block below block, each read row by row: text -> how its line or mark looks."""
    width, height = figure.get_size_inches()
    top = 1.0
    for block in _merged(blocks, width):
        rows, columns = _grid(block, width)
        handles = [Line2D([], [], **{"label": name, **look}) for name, look in block.items()]
        # matplotlib fills column by column, people read row by row
        handles = [handle for column in range(columns) for handle in handles[column::columns]]
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0, top), ncols=columns, frameon=False,
            handlelength=2.2, columnspacing=1.2, borderaxespad=0.3, borderpad=0, handletextpad=0.5, labelspacing=0.4,
        )  # fmt: skip
        top -= rows * ENTRY / height


def _grid(block: Mapping[str, Any], width: float) -> tuple[int, int]:
    """Rows and columns: as many columns as fit, each as wide as its longest text."""
    texts = [text_width(name) + HANDLE for name in block]
    fits = (n for n in range(len(texts), 1, -1) if sum(max(texts[i::n]) for i in range(n)) <= width - 0.1)
    rows = math.ceil(len(texts) / next(fits, 1))
    return rows, math.ceil(len(texts) / rows)


def pages(key: str, items: Sequence[T], most: int, what: str) -> list[tuple[str, list[T]]]:
    """Name of the figure and its items: as few pages as possible, of sizes as equal as possible."""
    if len(items) > most * MOST_FIGURES:
        raise NotDrawn(
            f"needs at most {most * MOST_FIGURES} {what}, found {len(items)}; give folders with fewer: "
            "normbench report FOLDER/..."
        )
    made = even(items, most)
    return list(zip(page_names(key, len(made)), made, strict=True))
