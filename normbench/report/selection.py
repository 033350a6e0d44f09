"""Choosing a setting per arm without leakage, and what the search itself says. Pure.

An arm's runs are a table with one row a run: the tuned settings (`lr`, ...), `seed` and `score`, higher is better, from
the *final* step on validation data; the best evaluation of a run is never taken. A diverged run has been scored
(`scored_accuracy`, `scored_loss`); a run that is missing (failed, interrupted) has no row, or NaN.

With tune and confirm seeds, an interval is about the settings that were chosen. That tuning might have chosen others
is not in it: where few tune seeds cannot tell the settings apart, methods may seem to differ that do not
(tests/test_coverage.py). Leaving one seed out has that in it, at the price of a wider interval.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

Setting = tuple  # values of the tuned settings, in the order of `tune`


def scored_accuracy(value: float, diverged: bool, n_classes: int) -> float:
    """A diverged run counts as guessing: 1 / classes."""
    return 1 / n_classes if diverged else float(value)


def scored_loss(last: float, initial: float) -> float:
    """min(last, initial): no run counts as worse than untrained (Wortsman et al. 2023); NaN and inf as `initial`."""
    return min(float(last), float(initial)) if math.isfinite(last) else float(initial)


@dataclass(frozen=True)
class Edge:
    """A chosen value at the end of what was tried: `wider` is what to type, as `lr=0.3,1`."""

    setting: str
    value: float
    wider: str


@dataclass(frozen=True)
class Selection:
    """What was chosen for each seed that is reported.

    how: "one setting" (nothing to choose), "tune/confirm" (chosen on other seeds), "leave-one-seed-out" (for each
    seed on all the others) or "same seeds" (chosen and reported on the same ones: optimistic).
    chosen: seed to report -> setting. best: the one that all tune seeds together choose. counts: how often each was
    chosen. n_settings were tried, n_finished of them have a score for every tune seed and took part.
    metric: what was maximized; it must not come from test data.
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

    def values(self, runs: pd.DataFrame, column: str) -> dict[int, float]:
        """Seed -> `column` of the run that was chosen for it; seeds whose run is missing are left out."""
        return _picked(runs, self.tune, self.chosen, column)

    def at(self, setting: Setting, runs: pd.DataFrame, column: str) -> dict[int, float]:
        """The same seeds, all at one setting: for the comparison at the baseline's best lr."""
        return _picked(runs, self.tune, dict.fromkeys(self.chosen, setting), column)


def reselected(a: Selection, b: Selection) -> bool:
    """Whether an arm's seeds are reported at several settings, each chosen by the others: see stats.difference."""
    return any(s.how == "leave-one-seed-out" and len(s.counts) > 1 for s in (a, b))


def choose(
    runs: pd.DataFrame, metric: str, *, tune: Sequence[str] = ("lr",),
    tune_seeds: Iterable[int] | None = None, confirm_seeds: Iterable[int] | None = None,
) -> Selection:  # fmt: skip
    """Per arm: the setting with the highest mean score over the tune seeds; of equal ones the smallest (lr first).

    With `tune_seeds` and `confirm_seeds` the latter are reported; without them every seed is, each at the setting
    that the others choose. Settings that lack a score for some tune seed do not take part.
    """
    if (tune_seeds is None) != (confirm_seeds is None):
        raise ValueError("tune_seeds and confirm_seeds go together: give both, or neither for leave-one-seed-out")
    scores = _scores(runs, tune)
    seeds = sorted({s for row in scores.values() for s in row} if tune_seeds is None else set(tune_seeds))
    report = seeds if confirm_seeds is None else sorted(set(confirm_seeds))
    full = {setting: row for setting, row in scores.items() if all(s in row for s in seeds)}
    if not full or not seeds or not report:
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
    edges = _edges(list(scores), tune, list(counts))
    return Selection(metric, tuple(tune), how, chosen, best, counts, len(scores), len(full), edges)


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


def _edges(tried: list[Setting], tune: Sequence[str], chosen: list[Setting]) -> tuple[Edge, ...]:
    """Chosen numbers that are the smallest or largest tried, with two more steps of the grid's own ratio.

    Not of a random search over several settings, where every value is tried once: one of them often is an extreme.
    """
    edges = []
    for i, name in enumerate(tune):
        values = sorted({s[i] for s in tried if isinstance(s[i], int | float) and not isinstance(s[i], bool)})
        if len(values) < 2 or (len(tune) > 1 and len(values) == len(tried)):
            continue
        for end, beside in ((values[-1], values[-2]), (values[0], values[1])):
            if any(s[i] == end for s in chosen):
                edges.append(Edge(name, end, f"{name}={','.join(map(_typed, _beyond(end, beside)))}"))
    return tuple(edges)


def _beyond(end: float, beside: float) -> list[float]:
    """Two values beyond the end: by the last ratio where all are above 0, else by the last difference."""
    if min(end, beside) > 0:
        return sorted(end * (end / beside) ** k for k in (1, 2))
    return sorted(end + (end - beside) * k for k in (1, 2))


def _typed(value: float) -> str:
    return f"{value:.3g}"
