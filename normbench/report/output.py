"""From a study to the files of its report, by their paths inside the report's folder. Pure."""

from collections.abc import Sequence

from normbench.report import exports, latex, machine, page, web
from normbench.report.content import Content, content
from normbench.report.drawing import Drawing
from normbench.report.figures import KEYS
from normbench.report.study import Study
from normbench.report.tables import as_csv

TABLES = ("main", "target", "cost", "protocol", "methods", "summary")  # summary: of reports of earlier versions
DATA = ("runs", "metrics", "summary", "time_to_target", "comparisons", "layers")
OURS = (  # what a report may have written: a pattern of paths
    r"report\.(html|md|json)"
    rf"|data/({'|'.join(DATA)})\.csv"
    rf"|tables/({'|'.join(TABLES)})\.(csv|md|tex)"
    rf"|figures/({'|'.join(KEYS)})(_\d+)?\.(svg|pdf|png|csv)"
)


def files(study: Study, formats: Sequence[str], keys: Sequence[str]) -> dict[str, bytes]:
    """Every file of the report in these formats, with these figures."""
    drawing = Drawing(study, keys)
    found = {f"data/{name}.csv": as_csv(table) for name, table in exports.all_tables(study).items()}
    found["data/metrics.csv"] = study.metrics_csv
    figures = drawing.figures()
    made = content(study, figures.drawn, figures.missing)
    found |= {f"figures/{name}.{kind}": data for name, own in figures.files.items() for kind, data in own.items()}
    found |= {f"figures/{item.name}.csv": as_csv(item.data) for item in figures.drawn if len(item.data)}
    found |= _tables(made)
    found |= {f"report.{kind}": data for kind, data in _pages(study, made, figures.files, formats, keys).items()}
    return {name: data for name, data in sorted(found.items()) if name.rpartition(".")[2] in formats}


def _tables(made: Content) -> dict[str, bytes]:
    found = {}
    for name, table in made.tables.items():
        found[f"tables/{name}.csv"] = as_csv(table.values)
        found[f"tables/{name}.md"] = page.table(table).encode()
        found[f"tables/{name}.tex"] = latex.table(table).encode()
    if made.methods:
        found["tables/methods.tex"] = latex.paragraph(made.methods).encode()
    return found


def _pages(
    study: Study, made: Content, rendered: dict[str, dict[str, bytes]], formats: Sequence[str], keys: Sequence[str]
) -> dict[str, bytes]:
    """Only those asked for: a large page takes its time."""
    makers = {
        "html": lambda: web.html(made, rendered, formats).encode(),
        "md": lambda: page.page(made, formats).encode(),
        "json": lambda: machine.report_json(study, made, formats, keys),
    }
    return {kind: make() for kind, make in makers.items() if kind in formats}
