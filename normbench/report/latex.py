"""The tables and the methods paragraph in LaTeX: the package booktabs is all they need. Pure."""

import itertools
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace

from normbench.report.paper import MISSING, Cell, Table

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "→": r"$\to$", "[": "{[}", "]": "{]}",
}  # fmt: skip
INTERVAL = re.compile(r"(?:(.+?) )?(\[[^\[\]]*, [^\[\]]*\])")  # as in "2.04x [1.95x, 2.12x]"
CI = "95% CI"  # the header of a column of intervals
SHORT = 8  # letters up to which a cell takes little room
LONG = 16  # letters from which on a cell is a paragraph, if no word of it is longer
PLAIN = {"'": "'", '"': "''", "`": "`"}  # the three signs of quotation need no package in this form


def escaped(text: str) -> str:
    """Text that LaTeX sets as it is; what pdflatex has no letter for is named by its number, as in [U+4E2D]."""
    return "".join(_sign(sign) for sign in " ".join(text.split()))


def paragraph(text: str) -> str:
    """Text that may be broken after an underscore, too: long names would stick out of a column."""
    return escaped(text).replace(r"\_", r"\_\allowbreak{}") + "\n"


def _sign(sign: str) -> str:
    if sign in PLAIN:
        return "{" + PLAIN[sign] + "}"
    if sign in SIGNS:
        return SIGNS[sign]
    if ord(sign) < 128 and sign.isprintable():
        return sign
    latin = 0xC0 <= ord(sign) < 0x180 and unicodedata.category(sign).startswith("L")
    return sign if latin else f"{{[}}U+{ord(sign):04X}{{]}}"


def table(made: Table) -> str:
    """A table float: booktabs, the caption above, names left, numbers right; intervals below what they belong to.

    To be as narrow as a column of text, it has no column of what all rows share, which the caption says, and arms that
    have all but one of their settings in common stand below these.
    """
    made = _alike(_stacked_intervals(made))
    groups, place = _groups(made)
    keys = [name for j, name in enumerate(made.header[: made.heads]) if j != place]
    kept = [j for j in range(len(made.header)) if j >= made.heads or j == place or not groups]
    spec = "".join("l" if j < made.heads else "r" for j in kept)
    lines = [
        r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{2.5pt}",
        rf"\caption{{{escaped(made.caption)}}}", rf"\label{{tab:{made.name}}}", rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule", _row(_stacked("b", _lines(made.header[j])) for j in kept), r"\midrule",
    ]  # fmt: skip
    for setting, rows in groups or [((), made.rows)]:
        said = ", ".join(f"{key}={text}" for key, text in zip(keys, setting, strict=False) if text != MISSING)
        lines += [rf"\multicolumn{{{len(kept)}}}{{l}}{{\itshape {escaped(said)}}} \\"] if setting else []
        lines += [r"\quad " * bool(setting) + _row(_cell(row[j]) for j in kept) for row in rows]
        lines += [r"\addlinespace"] if setting and rows[-1] is not made.rows[-1] else []
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _stacked_intervals(made: Table) -> Table:
    """Without the column of intervals: they are in the one before it."""
    if CI not in made.header:
        return made
    at = made.header.index(CI)

    def joined(row: Sequence[Cell]) -> tuple[Cell, ...]:
        value, interval = row[at - 1 : at + 1]
        both = value if interval.text == MISSING else Cell(f"{value.text} {interval.text}", value.bold)
        return (*row[: at - 1], both, *row[at + 1 :])

    header = (*made.header[: at - 1], f"{made.header[at - 1]} [{CI}]", *made.header[at + 1 :])
    return replace(made, header=header, rows=tuple(map(joined, made.rows)))


def _alike(made: Table) -> Table:
    """Without the columns that have the same in every row: the caption says it."""
    columns = list(zip(*made.rows, strict=True))
    alike = [j for j, cells in enumerate(columns) if j >= made.heads and len(made.rows) > 1 and len(set(cells)) == 1]
    if len(alike) == len(made.header) - made.heads:  # a table of names alone would be none
        alike = [j for j in alike if len(columns[j][0].text) > SHORT]
    told = [f"{made.header[j].lower()}: {text}" for j in alike if (text := columns[j][0].text) != MISSING]
    kept = [j for j in range(len(made.header)) if j not in alike]
    return replace(
        made, caption=made.caption + (f" In all rows: {'; '.join(told)}." if told else ""),
        header=tuple(made.header[j] for j in kept), rows=tuple(tuple(row[j] for j in kept) for row in made.rows),
    )  # fmt: skip


def _groups(made: Table) -> tuple[list[tuple[tuple[str, ...], list[tuple[Cell, ...]]]], int]:
    """Neighbouring rows that differ in one of their names, by the others; and which one that is. None where there are
    not at least two rows a group.
    """
    best: list = []
    place = 0
    for j in range(made.heads if made.heads > 1 else 0):
        names = [tuple(cell.text for i, cell in enumerate(row[: made.heads]) if i != j) for row in made.rows]
        found = [
            (setting, [row for _, row in rows])
            for setting, rows in itertools.groupby(zip(names, made.rows, strict=True), lambda pair: pair[0])
        ]
        if 2 * len(found) <= len(made.rows) and (not best or len(found) < len(best)):
            best, place = found, j
    return best, place


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    if cell.text == MISSING:
        return "--"
    interval = INTERVAL.fullmatch(cell.text)
    if not interval:
        text = rf"\textbf{{{escaped(cell.text)}}}" if cell.bold else escaped(cell.text)
        breaks = len(cell.text) > LONG >= max(map(len, re.split(r"[\s-]", cell.text)))
        return rf"\parbox[t]{{6em}}{{\raggedright {text}\strut}}" if breaks else text
    parts = [escaped(part) for part in interval.groups() if part]
    parts = [rf"\textbf{{{part}}}" if cell.bold else part for part in parts]
    return _stacked("t", [*parts[:-1], rf"\scriptsize {parts[-1]}"])


def _lines(name: str) -> list[str]:
    """A header's words, on lines of no more than a short column is wide."""
    return [escaped(line) for line in textwrap.wrap(name, 11, break_long_words=False)] or [""]


def _stacked(place: str, lines: Sequence[str]) -> str:
    if len(lines) == 1:
        return f"{{{lines[0]}}}"  # a size holds for this cell alone
    return rf"\begin{{tabular}}[{place}]{{@{{}}r@{{}}}}" + r"\\".join(lines) + r"\end{tabular}"
