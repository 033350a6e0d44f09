"""What a report says, in order, built once; report.html, report.md and report.json are renderings of it. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from normbench.claim import TIMES, Claim
from normbench.report import exports, main_table, methods, notes, paper, published, side_tables
from normbench.report.answers import TESTED, Answer, answers, overall, with_reason
from normbench.report.figures import Drawn
from normbench.report.measures import WORDS
from normbench.report.paper import Cell, Table
from normbench.report.selection import noun
from normbench.report.sentence import metric_words
from normbench.report.state import State
from normbench.report.study import Contrast, Study
from normbench.report.tables import cell_text, natural
from normbench.report.target import UNITS
from normbench.report.verdict import Comparison

MOST_CARDS = 6  # shown open; where there are more, the first is, and a table has them all in a line each
EVIDENCE = (
    "geometric mean of per-seed ratios,", "ratio of geometric means,", "mean of per-seed differences",
    "difference of means",
)  # fmt: skip
MOST_RUNS = 500  # listed in a page; data/runs.csv has all
DATA = {  # what is in data/
    "runs": "every run found", "metrics": "every evaluation", "summary": "means and spreads of every setting",
    "time_to_target": "when each run reached the target", "comparisons": "every verdict with its numbers",
    "layers": "what probes measured in the layers",
}  # fmt: skip
FIRST = ("curves", "time_to_target")  # figures that come before the main table
ANSWERS = "answers"  # the figure that leads the report of a claim which names none
SYMBOLS = {
    State.FASTER: "▲", State.BETTER: "▲", State.SLOWER: "▼", State.WORSE: "▼", State.LOWER_BOUND: "≥",
    State.PROBABLY: "◐", State.SAME: "=", State.UNCLEAR: "?", State.REFUSED: "✕",
}  # fmt: skip


@dataclass(frozen=True)
class Card:
    """A contrast: its headline state, its sentence, every number that it rests on, and all that in a line."""

    title: str
    state: State
    sentence: str
    table: Table

    line: tuple[str, ...]

    @property
    def symbol(self) -> str:
        return SYMBOLS[self.state]

    @property
    def claim(self) -> str:
        """The sentence up to the numbers that it rests on; all of it where it claims nothing."""
        return min((self.sentence.partition(f" ({words} ")[0] for words in EVIDENCE), key=len)

    @property
    def rest(self) -> str:
        return self.sentence.removeprefix(self.claim).lstrip()


@dataclass(frozen=True)
class Tested:
    """A claim with what the runs say of it (answers.py), in all and for each question.

    published: of budget=paper, what came of the comparison with the paper.
    """

    claim: Claim
    verdict: str
    answers: tuple[Answer, ...]
    table: Table
    published: "published.Published | None" = None

    @property
    def symbol(self) -> str:
        return TESTED[self.verdict]

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(answer.row.sentence for answer in self.answers)


@dataclass(frozen=True)
class Content:
    """What a report says. tested: the claim that it leads with, if the runs were made for one; lead: the figure that
    answers it.

    overview: all verdicts, where they are too many to read one by one. first: figures before the main table; rest:
    those after it. missing: (figure, why it was not drawn). probed: whether there is data/layers.csv.
    """

    title: str
    verdict: str
    cards: tuple[Card, ...]
    overview: Table | None
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
    tested: "Tested | None" = None
    lead: tuple[Drawn, ...] = ()
    probed: bool = False

    @property
    def data(self) -> dict[str, str]:
        """The files of data/, without `.csv`, and what is in each."""
        return {name: text for name, text in DATA.items() if name != "layers" or self.probed}

    @property
    def drawn(self) -> tuple[Drawn, ...]:
        """Every figure, in the order of the page."""
        return (*self.lead, *self.first, *self.rest)

    @property
    def open_cards(self) -> tuple[Card, ...]:
        return self.cards[:1] if self.overview else self.cards

    @property
    def folded_cards(self) -> tuple[Card, ...]:
        return self.cards[1:] if self.overview else ()


def content(study: Study, drawn: Sequence[Drawn], missing: Sequence[tuple[str, str]]) -> Content:
    builders = (main_table.main, side_tables.to_target, side_tables.cost, side_tables.protocol)
    made = {table.name: table for table in (build(study) for build in builders) if table.rows}
    cards = tuple(_card(study, contrast) for contrast in study.contrasts)
    tested = _tested(study)
    lead = tuple(d for d in drawn if tested and d.name == (tested.claim.figure or ANSWERS))
    others = [d for d in drawn if d not in lead]
    early = tuple(d for d in others if d.name.startswith(FIRST))
    heading = tested.claim.claim if tested else title(study)
    return Content(
        heading, cards[0].sentence if cards else no_verdict(study), cards, _overview(cards),
        notes.counts(study.runs, len(study.arms)), early, made,
        tuple(d for d in others if d not in early), tuple(missing), _failures(study), methods.paragraph(study),
        tuple(notes.all_notes(study)), tuple(_setup(study)), _every_run(study), tested, lead,
        len(study.layers) > 0,
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


# --------------------------------------------------------------------------------------------------------------- claim


def _tested(study: Study) -> Tested | None:
    claim = study.options.claim
    if claim is None:
        return None
    found = tuple(answers(study, claim))
    rows = [
        (f"{a.row.variant} against {a.row.baseline}" + (f", {a.where}" if a.where else ""), asked(a),
         a.effect, f"{SYMBOLS[a.row.state]} {a.row.state}", with_reason(a.verdict, a.why))
        for a in found
    ]  # fmt: skip
    caption = (
        "Supported: the 95% interval lies wholly on the claimed side of no effect; of the same, wholly within the "
        "margin below which nothing matters. Contradicted: it lies on the other side, or within the margin where a "
        "difference is claimed. The claim is supported where all are."
    )
    if any(a.question.measure in TIMES for a in found):
        caption += " A target about which nobody can tell says nothing, as long as another one tells something."
    header = ("Comparison", "Question", "Effect [95% CI]", "State", "Claim")
    table = _table("claim", "What was asked", caption, header, rows)
    came = overall(found)
    met = published.judged(study, claim, came)
    return Tested(claim, published.VERDICTS[met.state] if met and not found else came, found, table, met)


def asked(answer: Answer) -> str:
    """The question in words: "test accuracy, claimed to be higher"."""
    q = answer.question
    goal = float(answer.row.metric.rpartition("_")[2]) if q.measure in UNITS else 1.0
    name = WORDS.get(q.measure) or f"{UNITS[q.measure]} to {f'{100 * goal:g}%' if goal < 1 else 'the target'}"
    expected = {"same": "the same", "lower": "lower", "higher": "higher"}[q.expect]
    return f"{metric_words(name)}, {f'along {q.along}, ' if q.along else ''}claimed to be {expected}"


# ------------------------------------------------------------------------------------------------------- verdict cards


def contrast_title(contrast: Contrast) -> str:
    """As in "norm=bn against norm=none, optimizer=adam"; what else the variants differ in is named."""
    first = contrast.rows[0]
    place = ", ".join(f"{key}={cell_text(value)}" for key, value in contrast.where.items() if value != "")
    return f"{first.variant} against {first.baseline}" + (f", {place}" if place else "")


def _card(study: Study, contrast: Contrast) -> Card:
    head = contrast.rows[0]
    rows = [_card_row(choice, row, contrast) for choice, row in exports.judged(contrast)]
    header = ("Question", noun(study.options.tuned).capitalize(), "Effect [95% CI]", "p", "Ahead in", "Verdict")
    name = contrast_title(contrast)
    caption = (
        f"The numbers of {name}. Ratios: baseline to variant, above 1 where the variant is the faster. Differences: "
        "variant minus baseline. p: adjusted for the number of comparisons (Holm)."
    )
    if contrast is not study.contrasts[0]:  # said once
        caption = f"The numbers of {name}."
    table = Table("verdict", name, caption, header, tuple(rows), 1, exports.EMPTY)
    return Card(name, head.state, head.sentence, table, _line(contrast))


def _line(contrast: Contrast) -> tuple[str, ...]:
    """The headline and its state, then those of the test accuracy, if that is not the headline itself."""
    own = [row for choice, row in exports.judged(contrast) if choice == exports.OWN]
    told = [own[0], *(row for row in own[1:] if row.metric == "test_acc")]
    cells = [(f"{question(r, contrast)}: {paper.effect_text(r)}", f"{SYMBOLS[r.state]} {r.state}") for r in told]
    return (*cells[0], *(cells[1] if len(cells) > 1 else ("", "")))


def _overview(cards: Sequence[Card]) -> Table | None:
    if len(cards) <= MOST_CARDS:
        return None
    rows = [(card.title, *card.line) for card in cards]
    caption = "Every comparison in a line; each is told in full below, and in data/comparisons.csv."
    header = ("Comparison", "Headline [95% CI]", "Verdict", "And", "Its verdict")
    return _table("verdicts", "All verdicts", caption, header, rows)


def _card_row(choice: str, row: Comparison, contrast: Contrast) -> tuple[Cell, ...]:
    ways = {exports.OWN: "each arm's own best", exports.SAME: "the baseline's best"}
    selections = contrast.baseline.selection, contrast.variant.selection
    if all(s and s.how == "one setting" for s in selections):
        ways[exports.OWN] = "one each, not tuned"
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


def _plain(value: Any) -> str:
    return paper.MISSING if pd.isna(value) or value == "" else cell_text(value)


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
    reported = {run_id for arm in study.arms for run_id in arm.reported.values()}
    varied = [k for k in ("dataset", "model", "optimizer", "clip", "batch_size", "lr") if study.runs[k].nunique() > 1]
    columns = ["run_id", "norm", *varied, "seed", "state", "steps", "val_acc", "test_acc", "train_s"]
    rows = []
    for run in study.runs.head(MOST_RUNS).to_dict("records"):
        told = run["used"] and run["run_id"] in reported
        rows.append([*(_measured(run[name], name) for name in columns), "yes" if told else "no"])
    names = {"run_id": "Run", "val_acc": "Validation accuracy, %", "test_acc": "Test accuracy, %",
             "train_s": "Seconds of training", "lr": "Learning rate"}  # fmt: skip
    header = [*(names.get(name, name.replace("_", " ").capitalize()) for name in columns), "Reported"]
    caption = f"Every run found, at its last evaluation; reported: a verdict or a mean uses it.{_cut(len(study.runs))}"
    return _table("runs", "Every run", caption, header, rows)


def _measured(value: object, name: str) -> object:
    if not isinstance(value, float) or value != value:
        return value
    return f"{100 * value:.2f}" if name.endswith("_acc") else f"{value:.1f}" if name == "train_s" else value


def _setup(study: Study) -> list[Table]:
    """What all runs share, what each arm changes against its baseline, where the runs were made."""
    if not len(study.used):
        return []
    shared: dict[str, list[str]] = {}
    for key, value in sorted(_config(study.used).items()):
        group, _, name = key.partition(".")
        shared.setdefault(group, []).append(f"{name}={_plain(value)}" if name else _plain(value))
    rows = [(group, ", ".join(values)) for group, values in shared.items()]
    caption = "Settings that all used runs share."
    tables = [_table("shared", "Settings that all runs share", caption, ("Group", "Settings"), rows)]
    tuned = study.options.tuned
    changes = [(contrast_title(contrast), _changed(contrast, tuned)) for contrast in study.contrasts]
    if changes:
        caption = f"What each variant changes against its baseline, beside the {noun(tuned)} it was tuned to."
        header = ("Comparison", "Settings")
        tables.append(_table("changes", "What differs from the baseline", caption, header, changes))
    made = [(words, _values(study, key)) for key, words in MADE.items()]
    caption = "Versions, devices and data of the used runs."
    return [*tables, _table("made", "Where the runs were made", caption, ("What", "Value"), made)]


MADE = {
    "normbench_version": "normbench", "torch_version": "torch", "device": "device", "threads": "threads",
    "git_commit": "git commit", "results_version": "results version", "data_fingerprint": "data fingerprint",
}  # fmt: skip


def _values(study: Study, key: str) -> str:
    known = {str(value) for value in study.used[key] if value is not None and value == value}
    return ", ".join(sorted(known, key=lambda value: natural([value]))) or "unknown"


def _changed(contrast: Contrast, tuned: Sequence[str]) -> str:
    a, b = (_config(arm.runs) for arm in (contrast.baseline, contrast.variant))
    keys = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k) and k not in tuned)
    return ", ".join(f"{k}: {_plain(a.get(k))} → {_plain(b.get(k))}" for k in keys)


def _config(runs: pd.DataFrame) -> dict[str, object]:
    """The config keys that all these runs have with one value; a class that comes with its name goes by that."""
    found = {}
    for name in map(str, runs):
        if name.startswith("cfg.") and name != "cfg.seed":
            values = runs[name].unique()
            if len(set(map(str, values))) == 1 and not pd.isna(values[0]):
                found[name[4:]] = values[0]
    ours = ("normbench.", "torch.")
    return {k: v for k, v in found.items() if not (k.endswith("._target_") and str(v).startswith(ours))}
