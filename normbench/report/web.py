"""report.html: the content of a report as one file without script, from template.html. Pure."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pandas as pd
from markupsafe import Markup

from normbench.report import latex
from normbench.report.content import Content
from normbench.report.figures import KEYS, Drawn
from normbench.report.page import data_of
from normbench.report.style import WIDTH

if TYPE_CHECKING:
    import jinja2

MOST_BYTES = 1_900_000  # of the page: it must go into a mail
COARSER = "Shown as a picture of points, as its lines alone would make this page too large for mail."
LEFT_OUT = "Left out of this page, as it would make it too large for mail: see"
MOST_ROWS = 12  # of a figure's data in the page
SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"
DROPPED = ("metadata", "style", "title", "desc")  # title and desc are made anew, with ids to refer to
REFERENCE = re.compile(r"url\(#([^)]+)\)")


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the page."""

    name: str
    caption: str
    image: Markup
    links: tuple[tuple[str, str], ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_rows: int
    data: str
    note: str


def html(content: Content, rendered: Mapping[str, Mapping[str, bytes]], formats: Sequence[str]) -> str:
    """The page; `rendered`: of each figure its svg and png. It links what is written in these formats."""
    drawn = content.drawn
    bare = len(_page(content, {d.name: Markup() for d in drawn}, formats).encode())
    return _page(content, _images(drawn, rendered, MOST_BYTES - bare), formats)


def _page(content: Content, images: Mapping[str, Markup], formats: Sequence[str]) -> str:
    return _template().render(
        content=content,
        lead=[_picture(d, images[d.name], formats) for d in content.lead],
        first=[_picture(d, images[d.name], formats) for d in content.first],
        rest=[_picture(d, images[d.name], formats) for d in content.rest],
        kinds=[kind for kind in ("csv", "tex", "md") if kind in formats],
        methods_tex=latex.escaped(content.methods),
        data=content.data if "csv" in formats else {},
    )


@cache
def _template() -> "jinja2.Template":
    import jinja2

    # lines that hold a statement alone leave no blank line behind
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.from_string((files("normbench.report") / "template.html").read_text("utf-8"))


def _picture(drawn: Drawn, image: Markup, formats: Sequence[str]) -> Picture:
    links = [(kind.upper(), f"figures/{drawn.name}.{kind}") for kind in ("pdf", "svg") if kind in formats]
    links += [("CSV", data_of(drawn))] if "csv" in formats else []
    rows = tuple(tuple(_cell(value) for value in row) for row in drawn.data.head(MOST_ROWS).itertuples(index=False))
    header = tuple(map(str, drawn.data))
    note = COARSER if image.startswith("<img") else "" if image else f"{LEFT_OUT} {_elsewhere(drawn, formats)}."
    data = f"figures/{drawn.name}.csv"
    return Picture(drawn.name, drawn.caption, image, tuple(links), header, rows, len(drawn.data), data, note)


def _elsewhere(drawn: Drawn, formats: Sequence[str]) -> str:
    kinds = [kind for kind in ("png", "svg", "pdf") if kind in formats]
    return f"figures/{drawn.name}.{kinds[0]}" if kinds else "the files of --format png"


def _cell(value: Any) -> str:
    if pd.isna(value):  # None, NaN, and the NA of whole numbers
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# --------------------------------------------------------------------------------------------------------------- images


def _images(drawn: Sequence[Drawn], rendered: Mapping[str, Mapping[str, bytes]], most: int) -> dict[str, Markup]:
    """Every figure as SVG; while they have more than `most` letters, the largest as PNG, if that is smaller.

    Where even that is too much, the last ones are left out, a figure's further pages before any first one, and never
    the first of all.
    """
    images = {d.name: inline_svg(d, rendered[d.name]["svg"]) for d in drawn}
    for item in sorted(drawn, key=lambda d: (-len(images[d.name]), d.name)):
        if sum(map(len, images.values())) <= most:
            break
        picture = _inline_png(item, rendered[item.name]["png"])
        if len(picture) < len(images[item.name]):
            images[item.name] = picture
    for item in sorted(reversed(drawn[1:]), key=lambda d: d.name in KEYS):
        if sum(map(len, images.values())) <= most:
            break
        images[item.name] = Markup()
    return images


def inline_svg(drawn: Drawn, svg: bytes) -> Markup:
    """The SVG as HTML takes it: no namespaces, no document type, its ids its own, title and description named."""
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in [c for c in parent if c.tag.rpartition("}")[2] in DROPPED]:
            parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.removeprefix(SVG)
        node.attrib = {
            key.removeprefix(XLINK): _renamed(key, value, drawn.name) for key, value in node.attrib.items()
        }  # fmt: skip
    box = root.attrib["viewBox"]
    share = float(box.split()[2]) / (72 * WIDTH)  # of the page: letters are as large in every figure
    root.attrib.clear()
    root.attrib |= {"viewBox": box, "role": "img", "aria-labelledby": f"{drawn.name}-title {drawn.name}-desc"}
    if share < 0.99:
        root.attrib["style"] = f"max-width: {64 * share:.1f}rem; min-width: {34 * share:.1f}rem"
    texts = {"title": drawn.caption.partition(". ")[0], "desc": drawn.caption}
    for place, (kind, text) in enumerate(texts.items()):
        node = ElementTree.Element(kind, {"id": f"{drawn.name}-{kind}"})
        node.text = text
        root.insert(place, node)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _renamed(key: str, value: str, name: str) -> str:
    """Ids, and what refers to them, with the figure's name in front: in one page they must not collide."""
    if key == "id":
        return f"{name}-{value}"
    if key.removeprefix(XLINK) == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return REFERENCE.sub(rf"url(#{name}-\1)", value)


def _inline_png(drawn: Drawn, png: bytes) -> Markup:
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))  # of the IHDR chunk
    source = base64.b64encode(png).decode()
    return Markup('<img src="data:image/png;base64,{}" width="{}" height="{}" alt="{}">').format(
        source, width, height, drawn.caption
    )
