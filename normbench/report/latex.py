"""The tables and the methods paragraph in LaTeX: the package booktabs is all they need. Pure."""

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

from normbench.report.paper import MISSING, Cell, Table

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "→": r"$\to$", "[": "{[}", "]": "{]}",
}  # fmt: skip
INTERVAL = re.compile(r"(?:(.+?) )?(\[[^\[\]]*, [^\[\]]*\])")  # as in "2.04x [1.95x, 2.12x]"
LONG = 16  # letters from which on a cell is a paragraph, if no word of it is longer
PLAIN = {"'": "'", '"': "''", "`": "`"}  # the three signs of quotation need no package in this form


def escaped(text: str) -> str:
    """Text that LaTeX sets as it is; what pdflatex has no letter for is named by its number, as in [U+4E2D]."""
    return "".join(_sign(sign) for sign in " ".join(text.split()))


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
    """A table float: booktabs, the caption above, names left, numbers right; intervals below what they belong to."""
    spec = "l" * made.heads + "r" * (len(made.header) - made.heads)
    header = [_stacked("b", _lines(name)) for name in made.header]
    lines = [
        r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{2.5pt}",
        rf"\caption{{{escaped(made.caption)}}}", rf"\label{{tab:{made.name}}}", rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule", _row(header), r"\midrule", *(_row(map(_cell, row)) for row in made.rows), r"\bottomrule",
        r"\end{tabular}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    if cell.text == MISSING:
        return "--"
    interval = INTERVAL.fullmatch(cell.text)
    if not interval:
        text = rf"\textbf{{{escaped(cell.text)}}}" if cell.bold else escaped(cell.text)
        breaks = len(cell.text) > LONG >= max(map(len, re.split(r"[\s-]", cell.text)))
        return rf"\parbox[t]{{6em}}{{\raggedright {text}}}" if breaks else text
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
