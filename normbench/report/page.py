"""report.md: the content of a report as Markdown, for where files are read as they are. Pure."""

from collections.abc import Sequence

from normbench.report.content import Card, Content
from normbench.report.figures import Drawn
from normbench.report.paper import Table
from normbench.report.tables import escaped, markdown


def page(content: Content, formats: Sequence[str]) -> str:
    """The report as Markdown; it links what is written in these formats."""
    parts = [f"# {escaped(content.title)}"]
    if content.tested:
        parts += _claim(content, formats)
    if not content.cards:
        parts.append(f"**{escaped(content.verdict)}**")
    for card in content.open_cards:
        parts += [*_card(card), table(card.table), escaped(card.table.caption)]
    if content.overview:
        parts += _section(content.overview, ())
    parts += [part for card in content.folded_cards for part in _card(card)]
    parts.append(escaped(content.counts))
    parts += [part for drawn in content.first for part in _figure(drawn, formats)]
    parts += _paper(content, ("main", "target"), formats)
    parts += ["## More figures"] if content.rest else []
    parts += [part for drawn in content.rest for part in _figure(drawn, formats)]
    parts += _paper(content, ("cost", "protocol"), formats)
    if content.failures:
        parts += _section(content.failures, ())
    if content.methods:
        parts += ["## Methods", escaped(content.methods)]
    parts += _listed("Notes", content.notes)
    parts += _listed("Figures that were not drawn", [f"{name}: {reason}" for name, reason in content.missing])
    for setup in content.setup:
        parts += _section(setup, ())
    head, *rest = _section(content.every_run, ())
    parts += [head, "<details><summary>Show the runs</summary>", *rest, "</details>"]
    if "csv" in formats:
        links = [f"- [data/{name}.csv](data/{name}.csv): {text}" for name, text in content.data.items()]
        parts += ["## Data", "\n".join(links)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _paper(content: Content, names: Sequence[str], formats: Sequence[str]) -> list[str]:
    tables = [content.tables[name] for name in names if name in content.tables]
    return [part for made in tables for part in _section(made, formats)]


def table(made: Table) -> str:
    """A Markdown table; what is bold in print is bold here."""
    columns = {name: [row[i].text for row in made.rows] for i, name in enumerate(made.header)}
    bold = {(i, j) for i, row in enumerate(made.rows) for j, cell in enumerate(row) if cell.bold}
    return markdown(columns, bold)


def _claim(content: Content, formats: Sequence[str]) -> list[str]:
    tested = content.tested
    assert tested
    claim = tested.claim
    said = [f"{escaped(claim.source[:1].upper() + claim.source[1:])}: {escaped(claim.words)}"] if claim.words else []
    said += [f"**{tested.symbol} {tested.verdict.capitalize()}** (budget {claim.budget}; {escaped(claim.source)})"]
    if tested.published and claim.paper:
        said.append(f"**{tested.published.state}**: {escaped(tested.published.words)}. {escaped(claim.paper.says)}.")
    said += [part for drawn in content.lead for part in _figure(drawn, formats)]
    said += [f"The document's own numbers: {escaped(claim.number)}"] if claim.number else []
    said += [escaped(claim.remark)] if claim.remark else []
    asked = [table(tested.table), escaped(tested.table.caption)] if tested.table.rows else []
    return [*said, *asked, *map(escaped, tested.sentences)]


def _card(card: Card) -> list[str]:
    text = f"**{escaped(card.claim)}** {escaped(card.rest)}".rstrip()
    return [f"## {card.symbol} {card.state}: {escaped(card.title)}", text]


def _section(made: Table, formats: Sequence[str]) -> list[str]:
    kinds = [kind for kind in ("csv", "tex") if kind in formats]
    links = ", ".join(f"[{kind}](tables/{made.name}.{kind})" for kind in kinds)
    return [f"## {made.title}", table(made), escaped(made.caption) + (f" ({links})" if links else "")]


def _figure(drawn: Drawn, formats: Sequence[str]) -> list[str]:
    text = escaped(drawn.caption)
    kinds = [kind for kind in ("pdf", "svg") if kind in formats]
    links = [f"[{kind.upper()}](figures/{drawn.name}.{kind})" for kind in kinds]
    if "csv" in formats:
        links.append(f"[data]({data_of(drawn)})")
    return [
        f"![{text.split('. ')[0]}](figures/{drawn.name}.png)",
        text + (f" ({', '.join(links)})" if links else ""),
    ]


def data_of(drawn: Drawn) -> str:
    """Where the numbers of a figure are: in a file of its own, or where it has none in metrics.csv."""
    return f"figures/{drawn.name}.csv" if len(drawn.data) else "data/metrics.csv"


def _listed(heading: str, items: Sequence[str]) -> list[str]:
    return [f"## {heading}", "\n".join(f"- {escaped(item)}" for item in items)] if items else []
