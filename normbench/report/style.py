"""How figures look: colour = norm, line style = optimizer, and files that are the same bytes for the same data."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
from fontTools.subset import Options  # matplotlib's way to make the fonts of a PDF small
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

WIDTH = 6.75  # inches: the text width of a two-column paper
COLUMN = 3.25  # and one of its columns
FORMATS = ("svg", "png", "pdf")

# (colour, marker): Okabe and Ito's colours, readable with any colour vision, then Tol's. Fixed for ever, so that a
# norm looks the same in every report; the markers carry the same meaning in greyscale. Yellow cannot be seen on white.
NORMS = {
    "none": ("#000000", "o"), "bn": ("#0072B2", "s"), "ln": ("#D55E00", "^"), "gn": ("#009E73", "D"),
    "in": ("#CC79A7", "v"), "rms": ("#E69F00", "P"), "ws": ("#56B4E9", "<"), "wn": ("#56B4E9", ">"),
    "brn": ("#7B4F2B", "p"), "iternorm": ("#882255", "h"), "dyt": ("#999933", "*"), "frn": ("#777777", "d"),
}  # fmt: skip
OTHER_NORMS = (("#332288", "X"), ("#44AA99", "H"), ("#AA4466", "8"), ("#117733", "o"), ("#661100", "s"))
MOST_NAMED = len(OTHER_NORMS)  # lines that are no norms, see line_looks
HOLLOW = ("wn",)  # it shares its colour with ws
PALE = ("#E69F00", "#56B4E9")  # below 3:1 on white: drawn wider, and never used for text

DASHES: dict[str, Any] = {
    "sgd": "-", "momentum": (0, (6, 2)), "adam": (0, (1, 1.5)), "adamw": (0, (6, 2, 1, 2)),
}  # fmt: skip
OTHER_DASHES = (
    (0, (3, 1.2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (9, 3)),
    (0, (2, 2.5)),
    (0, (8, 2, 2, 2)),
    (0, (4, 1, 1, 1)),
)

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 8,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "lines.linewidth": 1.2, "lines.markersize": 3.6, "lines.scale_dashes": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.2, "grid.linewidth": 0.6,
    "text.parse_math": False,  # a $ in a name is a $
    "pdf.fonttype": 42,  # some venues refuse Type 3 fonts
    "svg.fonttype": "none",  # text stays text: searchable, and small
}  # fmt: skip


def norm_looks(norms: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each norm; a norm that is not ours takes, in order of name, one kept for others."""
    norms = sorted(set(norms))
    others = [norm for norm in norms if norm not in NORMS]
    spare = {norm: OTHER_NORMS[i % len(OTHER_NORMS)] for i, norm in enumerate(others)}
    return {norm: NORMS.get(norm) or spare[norm] for norm in norms}


def line_looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of up to MOST_NAMED lines that differ in something else than the norm: colours of no norm."""
    return dict(zip(names, OTHER_NORMS, strict=False))


def optimizer_dashes(optimizers: Iterable[str]) -> dict[str, Any]:
    """The line style of each optimizer; solid where there is only one, since there it would tell nothing."""
    optimizers = sorted(set(optimizers))
    if len(optimizers) == 1:
        return {optimizers[0]: "-"}
    others = [optimizer for optimizer in optimizers if optimizer not in DASHES]
    spare = {optimizer: OTHER_DASHES[i % len(OTHER_DASHES)] for i, optimizer in enumerate(others)}
    return {optimizer: DASHES.get(optimizer) or spare[optimizer] for optimizer in optimizers}


@lru_cache(maxsize=4096)
def text_width(text: str, size: float = 8, weight: str = "normal") -> float:
    """How wide a line of text is at most, in inches; what draws it rounds each letter, by up to 3 % together."""
    font = FontProperties(family=RC["font.family"], size=size, weight=weight)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72 * 1.03


def text_color(color: str) -> str:
    """The colour for text that belongs to a line of this colour: black where that could not be read on white."""
    return "#000000" if color in PALE else color


def mean_look(norm: str, looks: Mapping[str, tuple[str, str]], dash: Any = "-") -> dict[str, Any]:
    """How the line of a mean is drawn, in a panel as in a legend."""
    color, marker = looks[norm]
    hollow = norm in HOLLOW
    look = {"color": color, "linestyle": dash, "marker": marker, "linewidth": 1.8 if color in PALE else 1.2}
    return look | {"markerfacecolor": "white" if hollow else color, "markeredgewidth": 0.9 if hollow else 0}


@contextmanager
def _lean_fonts() -> Iterator[None]:
    """Fonts of a PDF without the tables that lay text out: it is laid out, and to read them takes half of its time."""
    before = Options._drop_tables_default
    Options._drop_tables_default = [*before, "GSUB", "GPOS", "GDEF"]
    try:
        yield
    finally:
        Options._drop_tables_default = before


def rendered(figure: Figure, name: str, caption: str) -> dict[str, bytes]:
    """The figure in every format, each with the caption inside; equal figures give equal bytes."""
    metadata: dict[str, dict[str, str | None]] = {
        "svg": {"Date": None},
        "png": {"Software": None, "Description": caption},
        "pdf": {"CreationDate": None, "Subject": caption},
    }
    files = {}
    # the salt makes the ids inside an SVG: fixed, or they would be random; by name, so that two fit in one page
    with matplotlib.rc_context({**RC, "svg.hashsalt": name}), _lean_fonts():
        for kind in FORMATS:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=200, metadata=metadata[kind])
            files[kind] = buffer.getvalue()
    start = files["svg"].index(b">", files["svg"].index(b"<svg")) + 1
    described = f"\n <title>{escape(name)}</title>\n <desc>{escape(caption)}</desc>".encode()
    files["svg"] = files["svg"][:start] + described + files["svg"][start:]
    return files
