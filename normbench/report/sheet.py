"""A figure laid out in inches: where panels, text, legends and blocks of a figure lie."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from normbench.report.figures import NotDrawn
from normbench.report.style import WIDTH, text_width

TALLEST = 8.4  # inches: with its caption a figure still fits on a page
MOST_FIGURES = 10
ENTRY = 0.18  # a line of a legend
HANDLE = 0.5  # what a legend's sample and the space around it take, beside the text
LINE = 0.14  # a line of 8 pt text
GAP, BELOW = 0.25, 0.1  # between blocks, side by side and one below the other


class Sheet:
    """A figure of the two-column width; places are inches from its upper left corner."""

    def __init__(self, height: float):
        self.height = height
        self.figure = Figure(figsize=(WIDTH, height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = (self.height - top - height) / self.height
        return self.figure.add_axes((left / WIDTH, bottom, width / WIDTH, height / self.height))

    def text(self, left: float, top: float, text: str, **look: Any) -> None:
        self.figure.text(left / WIDTH, 1 - top / self.height, text, **{"va": "top", "ha": "left", **look})

    def legend(self, left: float, top: float, samples: Mapping[str, Mapping[str, Any]]) -> None:
        """Samples by name, read row by row; `legend_height` says how much room they take."""
        columns = _columns(samples, WIDTH - left)
        handles = [Line2D([], [], label=name, **look) for name, look in samples.items()]
        handles = [handle for column in range(columns) for handle in handles[column::columns]]  # filled by column
        self.figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(left / WIDTH, 1 - top / self.height), ncols=columns,
            frameon=False, handlelength=2.6, columnspacing=1.4, borderaxespad=0.3, borderpad=0, handletextpad=0.5,
            labelspacing=0.4,
        )  # fmt: skip


def _columns(names: Sequence[str] | Mapping[str, Any], width: float) -> int:
    fit = max(1, int(width / (max(map(text_width, names)) + HANDLE + 0.15)))
    lines = -(-len(names) // fit)
    return -(-len(names) // lines)


def legend_height(names: Sequence[str] | Mapping[str, Any], left: float) -> float:
    return ENTRY * -(-len(names) // _columns(names, WIDTH - left)) if names else 0.0


def wrapped(text: str, width: float, size: float = 8, weight: str = "normal") -> list[str]:
    """The text in lines of at most `width` inches, broken at spaces, in a longer word after _, = or ,."""

    def fits(line: str) -> bool:
        return text_width(line.rstrip(), size, weight) <= width

    lines: list[str] = []
    for word in text.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for piece in [word] if fits(word) else re.split(r"(?<=[_=,])(?=.)", word):
            if not fits(lines[-1] + piece):
                lines.append("")
            lines[-1] += piece
        while not fits(lines[-1]) and len(lines[-1]) > 1:
            most = max([1, *(n for n in range(1, len(lines[-1])) if fits(lines[-1][:n]))])
            lines[-1:] = [lines[-1][:most], lines[-1][most:]]
    return [line for line in lines if line]


# ------------------------------------------------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class Block:
    """A part of a figure that is never torn: its size, and what draws it with its corner at (left, top)."""

    width: float
    height: float
    draw: Callable[[Sheet, float, float], None]
    title: str = ""


def flow(blocks: Sequence[Block]) -> list[tuple[Sheet, list[Block]]]:
    """Place blocks in as many columns as fit, row by row, on as many figures as it takes; and draw them."""
    pitch = max(block.width for block in blocks) + GAP
    columns = max(1, int((WIDTH + GAP) / pitch))
    pages: list[list[tuple[Block, float, float]]] = [[]]
    top = 0.0
    for i in range(0, len(blocks), columns):
        line = blocks[i : i + columns]
        height = max(block.height for block in line)
        if top and top + height > TALLEST:
            pages.append([])
            top = 0.0
        pages[-1] += [(block, pitch * number, top) for number, block in enumerate(line)]
        top += height + BELOW
    if len(pages) > MOST_FIGURES:
        raise NotDrawn(
            f"needs at most {MOST_FIGURES} pages for what varies, found {len(pages)}; give folders with fewer settings"
        )
    found = []
    for page in pages:
        sheet = Sheet(max(top + block.height for block, _, top in page) + 0.04)
        for block, left, top in page:
            block.draw(sheet, left, top)
        found.append((sheet, [block for block, *_ in page]))
    return found


def page_names(key: str, count: int) -> list[str]:
    """`key`, `key_2`, `key_3`, ..."""
    return [key, *(f"{key}_{number}" for number in range(2, count + 1))]
