"""Choosing a setting per arm without leakage, and what the search itself says. Pure.

An arm's runs are a table with one row a run: the tuned settings (`optimizer.lr`, ...), `seed` and `score`, higher is
better, from the *final* step on validation data; the best evaluation of a run is never taken. A diverged run has been
scored (`scored_accuracy`, `scored_loss`); a run that is missing (failed, interrupted) has no row, or NaN.

Where the seeds that choose cannot tell the settings apart, two arms may differ by the luck of the choice alone. Then
`reselected` says so, and the interval is made wider (stats.difference): tests/test_coverage.py has what that mends.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from normbench.plan import Range

LR = "optimizer.lr"
HOW = {
    "leave-one-seed-out": "for each seed the best on the other seeds", "tune/confirm": "chosen on other seeds",
    "same seeds": "chosen on the very seeds that are reported, which flatters it", "one setting": "",
}  # fmt: skip
NEAR = 0.05  # of a range: what lies so close to its end
WIDER = 0.25  # of a range: one decade of four
FEW, ENOUGH = 8, 9  # trials below which a wider range alone leaves too much open; what to type, also for a 3 x 3 grid
Setting = tuple  # values of the tuned settings, in the order of `tune`


def scored_accuracy(value: float, diverged: bool, n_classes: int) -> float:
    """A diverged run counts as guessing: 1 / classes."""
    return 1 / n_classes if diverged else float(value)


def scored_loss(last: float, initial: float) -> float:
    """min(last, initial): no run counts as worse than untrained (Wortsman et al. 2023); NaN and inf as `initial`."""
    return min(float(last), float(initial)) if math.isfinite(last) else float(initial)


@dataclass(frozen=True)
class Edge:
    """A chosen value at the end of what was tried: `wider` is what to type, as `optimizer.lr=0.3,1`."""

    setting: str
    value: float
    wider: str


@dataclass(frozen=True)
class Selection:
    """What was chosen for each seed that is reported.

    how: "one setting" (nothing to choose), "tune/confirm" (chosen on other seeds), "leave-one-seed-out" (for each
    seed on all the others) or "same seeds" (chosen and reported on the same ones: optimistic).
    chosen: seed to report -> setting. best: the one that all tune seeds together choose. counts: how often each was
    chosen. n_settings were tried, n_finished of them have a score for every tune seed and took part. n_choosing: seeds
    that each choice rests on. others: what they choose where any one of them is left out.
    metric: what was maximized; it must not come from test data. tried: the settings that were; choosing: the seeds that
    choose. halved: most settings were stopped early, by what the seeds that choose said then.
    """

    metric: str
    tune: tuple[str, ...]
    how: str
    chosen: dict[int, Setting]
    best: Setting
    counts: dict[Setting, int]
    n_settings: int
    n_finished: int
    edges: tuple[Edge, ...] = field(default=())
    n_choosing: int = 0
    others: tuple[Setting, ...] = ()
    tried: tuple[Setting, ...] = ()
    choosing: tuple[int, ...] = ()
    halved: bool = False

    @property
    def unstable(self) -> bool:
        """Whether another setting might as well have been chosen, by what one seed more or less would change.

        A choice by one seed alone is: nothing says how it would have come out with another. Nor is it known of settings
        that were stopped early how they would have ended.
        """
        if self.how == "leave-one-seed-out":
            return len(self.counts) > 1
        sure = self.n_choosing > 1 and set(self.others) == {self.best} and not self.halved
        return self.how == "tune/confirm" and not sure

    def values(self, runs: pd.DataFrame, column: str) -> dict[int, float]:
        """Seed -> `column` of the run that was chosen for it; seeds whose run is missing are left out."""
        return _picked(runs, self.tune, self.chosen, column)

    def at(self, setting: Setting, runs: pd.DataFrame, column: str) -> dict[int, float]:
        """The same seeds, all at one setting: for the comparison at the baseline's best lr."""
        return _picked(runs, self.tune, dict.fromkeys(self.chosen, setting), column)


def noun(tune: Iterable[str]) -> str:
    """What is tuned, in the plural."""
    return "learning rates" if set(tune) <= {LR} else "settings"


def words(tune: Sequence[str], setting: Setting) -> str:
    """A setting in words: "the learning rate 0.1", "optimizer.lr=0.1 optimizer.momentum=0.9"."""
    if set(tune) <= {LR}:
        return f"the learning rate {setting[0]:g}"
    told = [(key, f"{v:g}" if isinstance(v, float) else str(v)) for key, v in zip(tune, setting, strict=True)]
    return " ".join(f"{key}={text}" for key, text in told if text != "")


def reselected(a: Selection, b: Selection) -> int:
    """The number of seeds that chose, where an arm's choice is unstable; else 0. See stats.difference."""
    return min((s.n_choosing for s in (a, b) if s.unstable), default=0)


def choose(
    runs: pd.DataFrame, metric: str, *, tune: Sequence[str] = (LR,), tune_seeds: Iterable[int] | None = None,
    confirm_seeds: Iterable[int] | None = None, ranges: Mapping[str, Range] | None = None,
) -> Selection:  # fmt: skip
    """Per arm: the setting with the highest mean score over the tune seeds; of equal ones the smallest (lr first).

    With `tune_seeds` and `confirm_seeds` the latter are reported; without them every seed is, each at the setting
    that the others choose. Settings that lack a score for some tune seed do not take part; those that no tune seed
    has were not tried. `ranges`: where the settings were searched, for what lies at their ends.
    """
    if (tune_seeds is None) != (confirm_seeds is None):
        raise ValueError("tune_seeds and confirm_seeds go together: give both, or neither for leave-one-seed-out")
    scores = _scores(runs, tune)
    seeds = sorted({s for row in scores.values() for s in row} if tune_seeds is None else set(tune_seeds))
    own = set(map(int, runs["seed"])) if tune_seeds is None else set(seeds)
    tried = {tuple(row) for row in runs.loc[runs["seed"].astype(int).isin(own), list(tune)].itertuples(index=False)}
    scores = {setting: row for setting, row in scores.items() if setting in tried}
    report = seeds if confirm_seeds is None else sorted(set(confirm_seeds))
    full = {setting: row for setting, row in scores.items() if all(s in row for s in seeds)}
    if seeds and not report:
        raise ValueError(f"all runs are of the seeds {seeds}, which choose; train others at the chosen setting")
    if not full or not seeds:
        raise ValueError(f"no setting has a score for every tune seed {seeds}; run the missing ones")
    best = _argmax(full, seeds)
    if len(scores) == 1:
        how, chosen = "one setting", dict.fromkeys(report, best)
    elif confirm_seeds is not None:
        how = "same seeds" if set(report) & set(seeds) else "tune/confirm"
        chosen = dict.fromkeys(report, best)
    elif len(seeds) == 1:
        how, chosen = "same seeds", {seeds[0]: best}
    else:
        how, chosen = "leave-one-seed-out", {s: _argmax(full, [x for x in seeds if x != s]) for s in seeds}
    counts = dict(sorted(Counter(chosen.values()).items(), key=lambda item: (-item[1], _order(item[0]))))
    edges = _edges(list(scores), tune, list(counts), ranges or {})
    out = [_argmax(full, [x for x in seeds if x != s]) for s in seeds] if len(seeds) > 1 else []
    n_choosing = len(seeds) - (how == "leave-one-seed-out")
    return Selection(
        metric, tuple(tune), how, chosen, best, counts, len(scores), len(full), edges, n_choosing,
        tuple(dict.fromkeys(out)), tuple(scores), tuple(seeds),
    )  # fmt: skip


def _scores(runs: pd.DataFrame, tune: Sequence[str]) -> dict[Setting, dict[int, float]]:
    """Setting, from small to large -> seed -> score; what is missing has no entry."""
    found: dict[Setting, dict[int, float]] = {}
    rows = runs[list(tune)].itertuples(index=False, name=None)
    for setting, seed, score in zip(rows, runs["seed"], runs["score"].astype(float), strict=True):
        row = found.setdefault(setting, {})
        if int(seed) in row:
            raise ValueError(f"each setting needs one run a seed; {setting} has several of seed {seed}")
        row[int(seed)] = score
    return {
        setting: {seed: score for seed, score in found[setting].items() if not math.isnan(score)}
        for setting in sorted(found, key=_order)
    }


def _order(setting: Setting) -> tuple:
    return tuple((isinstance(v, str), v) for v in setting)


def _argmax(scores: Mapping[Setting, Mapping[int, float]], seeds: Sequence[int]) -> Setting:
    """The first of the highest means; fsum, so that neither the seeds' order nor rounding breaks a tie."""
    return max(scores, key=lambda setting: math.fsum(scores[setting][s] for s in seeds))


def _picked(runs: pd.DataFrame, tune: Sequence[str], chosen: dict[int, Setting], column: str) -> dict[int, float]:
    rows = zip(
        runs["seed"], runs[list(tune)].itertuples(index=False, name=None), runs[column].astype(float), strict=True
    )
    found = {int(seed): value for seed, setting, value in rows if chosen.get(int(seed)) == setting}
    return {seed: value for seed, value in sorted(found.items()) if not math.isnan(value)}


def _edges(
    tried: list[Setting], tune: Sequence[str], chosen: list[Setting], ranges: Mapping[str, Range]
) -> tuple[Edge, ...]:
    """Chosen numbers that are the smallest or largest tried, with two more steps of the grid's own ratio.

    Of a random search over several settings every value is tried once, and one of them often is an extreme: there the
    ranges must be known (`_at_ends`).
    """
    edges = []
    for i, name in enumerate(tune):
        if name in ranges:
            ends = _at_ends(ranges[name], [s[i] for s in tried], [s[i] for s in chosen])
            edges += [Edge(name, value, wider) for value, wider in ends]
            continue
        values = sorted({s[i] for s in tried if isinstance(s[i], int | float) and not isinstance(s[i], bool)})
        if len(values) < 2 or (len(tune) > 1 and len(values) == len(tried)):
            continue
        for end, beside in ((values[-1], values[-2]), (values[0], values[1])):
            if any(s[i] == end for s in chosen):
                edges.append(Edge(name, end, f"{name}={','.join(map(_typed, _beyond(end, beside)))}"))
    return tuple(edges)


def _at_ends(span: Range, tried: Sequence, chosen: Sequence) -> list[tuple[float, str]]:
    """Chosen values at an end of their range, or of what was tried of it, with what to type: a range WIDER of itself
    longer, and more trials where they were few.

    n trials leave about 1 / n of a range open at its ends, so what lies there counts as an end. Simulated, with 8
    trials over two settings: of bests beyond a range 8 in 10 are told, of bests in its middle half 1 in 20 is, too.
    """
    known = sorted({v for v in tried if isinstance(v, int | float)})
    near = min(max(NEAR, 1 / max(1, len(tried))), WIDER)
    low, high = near, 1 - near
    if len(known) > 1:
        low, high = max(low, span.place(known[0])), min(high, span.place(known[-1]))
    more = f" trials={ENOUGH}" if len(tried) < FEW else ""
    found = []
    for value in sorted({v for v in chosen if isinstance(v, int | float)}):
        place = span.place(value)
        for beyond, below in ((place <= low, True), (place >= high, False)):
            if beyond and (longer := _wider(span, below, isinstance(value, int))):
                found.append((value, f"tune.{longer.key}='{longer.scale}({longer.low:.12g},{longer.high:.12g})'{more}"))
    return found


def _wider(span: Range, below: bool, whole: bool) -> Range | None:
    """A range WIDER of itself longer, its new end in three digits; None where there is nothing beyond that end."""
    end = span.value(-WIDER if below else 1 + WIDER)
    if below and span.scale != "log" and span.low >= 0:
        end = max(0.0, end)  # what may be 0 is not tuned below it
    if not below and span.scale == "linear" and span.high <= 1 <= end and not whole and not span.key.endswith("lr"):
        end = (1 + span.high) / 2  # a share: a momentum, a dropout
    if whole:
        end = float(math.ceil(end) if below else math.floor(end))
    else:
        end = 1 - float(_typed(1 - end)) if span.scale == "one_minus_log" else float(_typed(end))
    if span.low <= end <= span.high:
        return None
    return replace(span, low=end) if below else replace(span, high=end)


def _beyond(end: float, beside: float) -> list[float]:
    """Two values beyond the end: by the last ratio where all are above 0, else by the last difference."""
    if min(end, beside) > 0:
        return sorted(end * (end / beside) ** k for k in (1, 2))
    return sorted(end + (end - beside) * k for k in (1, 2))


def _typed(value: float) -> str:
    return f"{value:.3g}"
