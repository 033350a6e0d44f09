"""The tables and the methods paragraph in LaTeX: the package booktabs is all they need. Pure."""

import unicodedata

from normbench.report.paper import MISSING, Cell, Table

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "→": r"$\to$", "[": "{[}", "]": "{]}",
}  # fmt: skip
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
    """A table float: booktabs, the caption above, names left, numbers right."""
    spec = "l" * made.heads + "r" * (len(made.header) - made.heads)
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{escaped(made.caption)}}}", rf"\label{{tab:{made.name}}}",
        rf"\begin{{tabular}}{{{spec}}}", r"\toprule", _row([Cell(name) for name in made.header]), r"\midrule",
        *(_row(row) for row in made.rows), r"\bottomrule", r"\end{tabular}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(cells: "tuple[Cell, ...] | list[Cell]") -> str:
    texts = ("--" if cell.text == MISSING else escaped(cell.text) for cell in cells)
    bold = (rf"\textbf{{{text}}}" if cell.bold else text for text, cell in zip(texts, cells, strict=True))
    return " & ".join(bold) + r" \\"
