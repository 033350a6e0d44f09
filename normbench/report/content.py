"""What a report says, in order, built once; report.html, report.md and report.json are renderings of it. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normbench.report import exports, methods, notes, paper
from normbench.report.figures import Drawn
from normbench.report.paper import Cell, Table
from normbench.report.sentence import metric_words
from normbench.report.state import State
from normbench.report.study import LR, Arm, Contrast, Study
from normbench.report.tables import cell_text, natural
from normbench.report.target import UNITS
from normbench.report.verdict import Comparison

MOST_RUNS = 500  # listed in a page; data/runs.csv has all
FIRST = ("curves", "time_to_target")  # figures that come before the main table
SYMBOLS = {
    State.FASTER: "▲", State.BETTER: "▲", State.SLOWER: "▼", State.WORSE: "▼", State.LOWER_BOUND: "≥",
    State.PROBABLY: "◐", State.SAME: "=", State.UNCLEAR: "?", State.REFUSED: "✕",
}  # fmt: skip


@dataclass(frozen=True)
class Card:
    """A contrast: its headline state, its sentence, and every number that it rests on."""

    title: str
    state: State
    sentence: str
    table: Table

    @property
    def symbol(self) -> str:
        return SYMBOLS[self.state]


@dataclass(frozen=True)
class Content:
    """first: figures before the main table; rest: those after it. missing: (figure, why it was not drawn)."""

    title: str
    verdict: str
    cards: tuple[Card, ...]
    counts: str
    first: tuple[Drawn, ...]
    tables: Mapping[str, Table]
    rest: tuple[Drawn, ...]
    missing: tuple[tuple[str, str], ...]
    failures: Table | None
    methods: str
    notes: tuple[str, ...]
    setup: tuple[Table, ...]
    every_run: Table


def content(study: Study, drawn: Sequence[Drawn], missing: Sequence[tuple[str, str]]) -> Content:
    made = {table.name: table for table in paper.tables(study)}
    cards = tuple(_card(study, contrast) for contrast in study.contrasts)
    early = tuple(d for d in drawn if d.name.startswith(FIRST))
    return Content(
        title(study), cards[0].sentence if cards else no_verdict(study), cards,
        notes.counts(study.runs, len(study.arms)), early, made, tuple(d for d in drawn if d not in early),
        tuple(missing), _failures(study), methods.paragraph(study), tuple(notes.all_notes(study)),
        tuple(_setup(study)), _every_run(study),
    )  # fmt: skip


def title(study: Study) -> str:
    if not study.contrasts:
        return "normbench report"
    key = study.contrasts[0].key
    variants = dict.fromkeys(cell_text(contrast.variant.setting[key]) for contrast in study.contrasts)
    base = cell_text(study.contrasts[0].baseline.setting[key])
    names = sorted(variants, key=lambda name: natural([name]))
    data = ", ".join(sorted(set(map(str, study.used["dataset"]))))
    return f"{key}: {', '.join(names)} against {base} on {data}"


def no_verdict(study: Study) -> str:
    """Why there is no headline verdict."""
    if not len(study.used):
        return f"No verdict: {notes.NOTHING}"
    why = study.notes[0] if study.notes else "No two arms differ in one group alone."
    return f"No verdict: {why[:1].lower()}{why[1:]}"


# ------------------------------------------------------------------------------------------------------- verdict cards


def contrast_title(contrast: Contrast) -> str:
    """As in "norm=bn against norm=none, optimizer=adam"; what else the variants differ in is named."""
    first = contrast.rows[0]
    place = ", ".join(f"{key}={cell_text(value)}" for key, value in contrast.where.items() if value != "")
    return f"{first.variant} against {first.baseline}" + (f", {place}" if place else "")


def _card(study: Study, contrast: Contrast) -> Card:
    head = contrast.rows[0]
    rows = [_card_row(choice, row, contrast) for choice, row in exports.judged(contrast)]
    header = ("Question", "Learning rates", "Effect [95% CI]", "p", "Ahead in", "Verdict")
    name = contrast_title(contrast)
    caption = f"The numbers of {name}. Ratios: baseline to variant, above 1 where the variant is the faster. Differences: variant minus baseline. p: adjusted for the number of comparisons (Holm)."
    table = Table("verdict", name, caption, header, tuple(rows), 1, exports.EMPTY)
    return Card(name, head.state, head.sentence, table)


def _card_row(choice: str, row: Comparison, contrast: Contrast) -> tuple[Cell, ...]:
    ways = {exports.OWN: "each arm's own best", exports.SAME: "the baseline's best"}
    p = paper.MISSING if math.isnan(row.p_holm) else f"{row.p_holm:.2g}"
    wins = f"{row.wins}/{row.n_pairs} seeds" if row.paired and row.n_pairs else paper.MISSING
    state = f"{SYMBOLS[row.state]} {row.state}"
    return tuple(map(Cell, (question(row, contrast), ways[choice], paper.effect_text(row), p, wins, state)))


def question(row: Comparison, contrast: Contrast) -> str:
    """The metric of a row in words: "steps to 85%", "test accuracy"."""
    if contrast.target is not None and row.effect_kind == "ratio":
        goal = f"_to_{contrast.target:g}"
        unit = next(words for name, words in UNITS.items() if row.metric == f"{name.removesuffix('s')}s{goal}")
        return f"{unit} to {100 * contrast.target:g}%"
    return metric_words(row.metric)


# ------------------------------------------------------------------------------------------------------ runs and setup


def _table(name: str, heading: str, caption: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    cells = tuple(tuple(Cell(_plain(value)) for value in row) for row in rows)
    return Table(name, heading, caption, tuple(header), cells, 1, exports.EMPTY)


def _plain(value: object) -> str:
    return paper.MISSING if value is None or value != value or value == "" else cell_text(value)


def _failures(study: Study) -> Table | None:
    runs = study.runs
    rest = runs[runs["state"].ne("complete") | ~runs["used"].astype(bool)]
    if not len(rest):
        return None
    caption = (
        "Every run that is not complete. Diverged runs are results: they count as guessing in the means, and are drawn "
        "as far as they are finite. Nothing of the others is used." + _cut(len(rest))
    )
    columns = ["run_id", "state", "reason", "folder"]
    rows = rest[columns].head(MOST_RUNS).to_numpy().tolist()
    return _table("failures", "Runs that are not complete", caption, ("Run", "State", "Reason", "Folder"), rows)


def _cut(found: int) -> str:
    return f" The first {MOST_RUNS} of {found:,} are listed; data/runs.csv has all." if found > MOST_RUNS else ""


def _every_run(study: Study) -> Table:
    used = {run_id for arm in study.arms for run_id in arm.reported.values()}
    keys = [k for k in ("dataset", "model", "norm", "optimizer", "clip", "batch_size", "lr") if study.runs[k].nunique() > 1]
    keys = [k for k in keys if k not in ("norm",)]
    columns = ["run_id", *(["norm"]), *keys, "seed", "state", "steps", "val_acc", "test_acc", "train_s"]
    rows = []
    for run in study.runs.head(MOST_RUNS).to_dict("records"):
        cells = [run[c] for c in columns]
        for i, name in enumerate(columns):
            if name in ("val_acc", "test_acc") and cells[i] is not None:
                cells[i] = f"{100 * float(cells[i]):.2f}"
            if name == "train_s" and cells[i] is not None:
                cells[i] = f"{float(cells[i]):.1f}"
        rows.append([*cells, "yes" if run["run_id"] in used and run["used"] else "no"])
    names = {"run_id": "Run", "val_acc": "Validation accuracy, %", "test_acc": "Test accuracy, %",
             "train_s": "Seconds of training", "lr": "Learning rate"}  # fmt: skip
    header = [*(names.get(c, c.replace("_", " ").capitalize()) for c in columns), "Reported"]
    caption = f"Every run found, at its last evaluation; reported: a verdict uses it.{_cut(len(study.runs))}"
    return _table("runs", "Every run", caption, header, rows)


def _setup(study: Study) -> list[Table]:
    """What all runs share, what each arm changes against its baseline, where the runs were made."""
    used = study.used
    if not len(used):
        return []
    keys = sorted(name for name in map(str, used) if name.startswith("cfg.") and name != "cfg.seed")
    same = [(k[4:], used[k].iloc[0]) for k in keys if used[k].notna().all() and used[k].map(str).nunique() == 1]
    tables = [_table("shared", "Settings that all runs share", "Settings that all used runs share.", ("Key", "Value"), same)]
    changes = [(contrast_title(c), _changed(c)) for c in study.contrasts]
    if changes:
        tables.append(_table("changes", "What differs from the baseline", "What each variant changes against its baseline, beside the learning rate.", ("Comparison", "Settings"), changes))
    made = [(words, _values(study, key)) for key, words in MADE.items()]
    tables.append(_table("made", "Where the runs were made", "Versions, devices and data of the used runs.", ("What", "Value"), made))
    return tables


MADE = {
    "normbench_version": "normbench", "torch_version": "torch", "device": "device", "threads": "threads",
    "git_commit": "git commit", "results_version": "results version", "data_fingerprint": "data fingerprint",
}  # fmt: skip


def _values(study: Study, key: str) -> str:
    known = {str(value) for value in study.used[key] if value is not None and value == value}
    return ", ".join(sorted(known, key=lambda value: natural([value]))) or "unknown"


def _changed(contrast: Contrast) -> str:
    a, b = (_config(arm) for arm in (contrast.baseline, contrast.variant))
    keys = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k) and k not in (LR, "seed"))
    return ", ".join(f"{k}: {_plain(a.get(k))} → {_plain(b.get(k))}" for k in keys)


def _config(arm: Arm) -> dict[str, object]:
    """The config keys that all runs of an arm have with one value."""
    names = [str(name) for name in arm.runs if str(name).startswith("cfg.")]
    return {k[4:]: arm.runs[k].iloc[0] for k in names if arm.runs[k].notna().all() and arm.runs[k].map(str).nunique() == 1}
