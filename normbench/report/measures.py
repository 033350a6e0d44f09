"""What a claim measures: a number a seed, from the runs that one side of a question is reported by. Pure."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from normbench.report import probed, search
from normbench.report.state import ACCURACY_MARGIN, LOSS_MARGIN
from normbench.report.study import Study

Seeds = dict[int, float]
Points = dict[Any, dict[int, Mapping[str, Any]]]  # value of `along`, in order -> seed -> row of the runs' table
FOUND = "found"  # test accuracy of what a way of searching finds, see `searched`
IMPORTANCE = "importance"  # of settings, see `shares`


@dataclass(frozen=True)
class Measure:
    """A number a seed, from the runs of one side. words: what is told, with the unit.

    of: the points of one side -> seed -> value. margin: the smallest difference that matters, `relative` to the mean of
    the side that is compared with or as it is. along: runs over the values of a key; grain: how finely they let the
    number be known. tuned: whether the rate that is chosen matters for it.
    """

    words: str
    margin: float
    of: Callable[[Study, Points], Seeds]
    along: bool = False
    relative: bool = False
    grain: Callable[[Points], float] = lambda points: 0.0
    tuned: bool = True


def _last(column: str) -> Callable[[Study, Points], Seeds]:
    """The run's number after its last step."""

    def of(study: Study, points: Points) -> Seeds:
        (runs,) = points.values()
        found = {seed: float(math.nan if row[column] is None else row[column]) for seed, row in runs.items()}
        return {seed: value for seed, value in found.items() if math.isfinite(value)}

    return of


def _gap(study: Study, points: Points) -> Seeds:
    """Training minus validation accuracy, both in evaluation mode, after the last step, in pp; complete runs alone."""
    (runs,) = points.values()
    ends = {s: study.rows_of[str(row["run_id"])].iloc[-1] for s, row in runs.items() if row["state"] == "complete"}
    gaps = {seed: 100 * float(end["train_eval_acc"] - end["val_acc"]) for seed, end in ends.items()}
    return {seed: gap for seed, gap in gaps.items() if math.isfinite(gap)}


def _pace(study: Study, points: Points) -> Seeds:
    (runs,) = points.values()
    done = {seed: row for seed, row in runs.items() if row["state"] == "complete" and row["steps"]}
    return {seed: 1000 * float(row["train_s"]) / float(row["steps"]) for seed, row in done.items()}


def _worked(study: Study, points: Points) -> dict[Any, dict[int, bool]]:
    """Which runs ended better than they began: neither diverged nor at chance."""
    return {
        at: {seed: row["state"] == "complete" and row["run_id"] not in study.untrained for seed, row in runs.items()}
        for at, runs in points.items()
    }


def _everywhere(points: Mapping[Any, Mapping[int, Any]]) -> list[int]:
    """The seeds that have a run at every value."""
    return sorted(set.intersection(*(set(runs) for runs in points.values()))) if points else []


def _share(study: Study, points: Points) -> Seeds:
    worked = _worked(study, points)
    return {seed: 100 * sum(runs[seed] for runs in worked.values()) / len(worked) for seed in _everywhere(worked)}


def _largest(study: Study, points: Points) -> Seeds:
    """log10 of the largest value of `along` at which the seed's run worked; the smallest tried / 10 where none did."""
    worked, found = _worked(study, points), {}
    for seed in _everywhere(worked):
        good = [at for at, runs in worked.items() if runs[seed]]
        found[seed] = math.log10(max(good)) if good else math.log10(min(worked)) - 1
    return found


def _usable(study: Study, points: Points) -> Seeds:
    table = pd.DataFrame(
        [{"lr": at, "seed": seed, "score": row["score"]} for at, runs in points.items() for seed, row in runs.items()]
    )
    found = search.usable_range(table)
    return dict(zip(found["seed"].astype(int), found["decades"].astype(float), strict=True))


def _lost(study: Study, points: Points) -> Seeds:
    """The seed's best test accuracy over the values, minus its mean over all of them, in pp."""
    found = {}
    for seed in _everywhere(points):
        scores = [float(runs[seed]["test_score"]) for runs in points.values()]
        found[seed] = 100 * (max(scores) - math.fsum(scores) / len(scores))
    return found


def _best(study: Study, points: Points) -> Seeds:
    """Of each seed's runs the one with the highest final validation accuracy: its test accuracy."""
    runs = {seed: [at[seed] for at in points.values()] for seed in _everywhere(points)}
    return {seed: float(max(own, key=lambda row: row["score"])["test_score"]) for seed, own in runs.items()}


def _fall(study: Study, points: Points) -> Seeds:
    """Test accuracy at the largest value minus that at the smallest, in pp."""
    ends = [points[at] for at in (max(points), min(points))]
    return {
        seed: 100 * (float(ends[0][seed]["test_score"]) - float(ends[1][seed]["test_score"]))
        for seed in _everywhere(dict(enumerate(ends)))
    }


def _step(points: Points) -> float:
    """Decades between neighbouring values, the widest."""
    at = sorted(math.log10(value) for value in points)
    return max((b - a for a, b in itertools.pairwise(at)), default=0.0)


def _one_of(points: Points) -> float:
    """One value's share of all, in percent."""
    return 100 / max(len(points), 1)


MEASURES = {
    "test_acc": Measure("test_acc", ACCURACY_MARGIN, _last("test_score")),
    "test_loss": Measure("test_loss", LOSS_MARGIN, _last("test_loss")),
    "gap": Measure("gap between training and validation accuracy in pp", 0.5, _gap),
    "pace": Measure("milliseconds a step", 0.05, _pace, relative=True, tuned=False),
    "best_found": Measure("test_acc", ACCURACY_MARGIN, _best, along=True),
    "share_trained": Measure("percent of runs that train, over all values", 5.0, _share, along=True, grain=_one_of),
    "largest": Measure("largest value at which it trains, in powers of ten", 0.25, _largest, along=True, grain=_step),
    "usable_range": Measure("usable range in decades", 0.25, _usable, along=True, grain=_step),
    "accuracy_lost": Measure(
        "accuracy lost against the best value in pp, mean over all values", 0.5, _lost, along=True
    ),
    "fall": Measure("accuracy at the largest value minus that at the smallest in pp", 0.5, _fall, along=True),
    **probed.measures(Measure),
}

WORDS = {name: measure.words for name, measure in MEASURES.items()} | {
    FOUND: "test_acc", IMPORTANCE: "share of the variance of accuracy in percent",
}  # fmt: skip
NAMES = WORDS | {  # as the title of a panel
    "test_acc": "Test accuracy", "test_loss": "Test loss", "best_found": "Test accuracy of the best by validation",
    FOUND: "Test accuracy of what is found",
}  # fmt: skip
