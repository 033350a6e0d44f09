"""T1, the main table: what each arm reached, against its baseline. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from normbench.report import exports, stats, target
from normbench.report.arms import Arm
from normbench.report.paper import (
    MISSING,
    Cell,
    Table,
    by_block,
    by_seed,
    crossed,
    effect_text,
    named,
    names,
    percent,
    rate_text,
    shown_keys,
    times_text,
)  # fmt: skip
from normbench.report.planning import FEWEST
from normbench.report.selection import noun
from normbench.report.stats import Interval
from normbench.report.study import Study
from normbench.report.tables import cell_text, decimals
from normbench.report.target import Crossing
from normbench.report.verdict import Comparison


@dataclass(frozen=True)
class _Told:
    """What a row tells of an arm: its seeds' test accuracies and crossings, its two verdicts, how its runs ended."""

    arm: Arm
    block: Sequence[Arm]
    scores: Mapping[int, float]
    found: Sequence[Crossing]
    difference: Comparison | None
    ratio: Comparison | None
    finished: int
    untrained: int


def main(study: Study) -> Table:
    told = _rows(study)
    goals = {id(arm): goal for arm, goal in exports.targets(study)}
    scores = {id(row.arm): row.scores for row in told}
    spreads = [pd.Series(row.scores, dtype=float).std() for row in told if len(row.scores) > 1]
    digits = max(0, decimals(map(float, spreads)) - 2)  # of percents
    timed = any(row.found for row in told)
    rows = []
    for row in told:
        bold = _bold_accuracy(row.arm, row.block, scores), _bold_time(study, row.arm, row.block, goals)
        times = [
            Cell(times_text(row.found, study.options.x), bold[1]),
            Cell(effect_text(row.ratio) if row.ratio else MISSING),
        ]
        weak = f", {row.untrained} untrained" if row.untrained else ""
        cells = [
            Cell(rate_text(row.arm)),
            Cell(_mean_text(row.scores, len(row.arm.reported), digits), bold[0]),
            Cell(_interval_text(row.arm, row.scores, digits)),
            Cell(effect_text(row.difference) if row.difference else MISSING),
            *(times if timed else []),
            Cell(f"{row.finished}/{len(row.arm.reported)}{weak}"),
        ]
        rows.append((*names(study, row.arm), *cells))
    unit = {"step": "Steps", "examples": "Examples", "train_s": "Seconds"}[study.options.x]
    ways = (f"{unit} to {_goal_text(goals.values())}", "Ratio to the baseline") if timed else ()
    keys = shown_keys(study)
    header = (*keys, "Learning rate", "Test accuracy, %", "95% CI", "Against the baseline", *ways, "Finished")
    values = pd.DataFrame([_values(study, row) for row in told])
    return Table("main", "Results", _caption(study, told, timed), header, tuple(rows), len(keys), values)


def _rows(study: Study) -> list[_Told]:
    bad = study.untrained
    goals = {id(arm): goal for arm, goal in exports.targets(study)}
    rows = []
    for contrasts, block in by_block(study):
        for arm in block:
            if not arm.reported:
                continue
            own = [row for c in contrasts if c.variant is arm for way, row in exports.judged(c) if way == exports.OWN]
            difference = next((row for row in own if row.metric == "test_acc"), None)
            ratio = next((row for row in own if row.effect_kind == "ratio"), None)
            run_ids, scores = set(arm.reported.values()), arm.column("test_score", arm.reported)
            finished = len(run_ids) - arm.diverged(arm.reported)
            found = crossed(study, arm, goals)
            rows.append(_Told(arm, block, scores, found, difference, ratio, finished, len(run_ids & bad)))
    return rows


def _caption(study: Study, told: Sequence[_Told], timed: bool) -> str:
    counts = sorted({len(row.arm.reported) for row in told}) or [0]
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    several = any(row.arm.selection and len(row.arm.selection.counts) > 1 for row in told)
    what = noun(study.options.tuned)[:-1]
    parts = [
        f"Mean ± standard deviation over {n} {'seed' if counts == [1] else 'seeds'}, each arm at its own {what}"
        + (" (in brackets: how often each was chosen)." if several else "."),
        "Test accuracy: measured once, after the last step; a diverged run counts as guessing.",
    ]
    if study.contrasts:
        base = study.contrasts[0]
        parts.append(
            f"Against the baseline {base.key}={cell_text(base.baseline.setting[base.key])}: mean of the differences, "
            "in percentage points, with its 95% confidence interval."
        )
    if timed:
        parts.append("To the target: median [smallest, largest] over the seeds; ratio: how many times sooner.")
    if study.contrasts and counts[0] >= FEWEST:
        parts.append(
            "Bold: the best of the rows that share a baseline, and all that are not distinguishable from it (the 95% "
            "interval of the difference includes none)."
        )
    return " ".join(parts)


def _values(study: Study, row: _Told) -> dict[str, Any]:
    arm, found, unit = row.arm, row.found, study.options.x
    mean = _accuracy(arm, row.scores)
    told: dict[str, Any] = {"lr": rate_text(arm), "n": len(arm.reported), "n_finished": row.finished}
    told |= {"test_acc_mean": mean.estimate, "test_acc_sd": float(pd.Series(row.scores, dtype=float).std())}
    told |= {"test_acc_ci_low": mean.low, "test_acc_ci_high": mean.high}
    for name, effect in (("difference", row.difference), ("ratio", row.ratio)):
        ends = (effect.effect, effect.ci_low, effect.ci_high) if effect else (math.nan,) * 3
        told |= dict(zip((name, f"{name}_ci_low", f"{name}_ci_high"), ends, strict=True))
    told |= {"target": found[0].target if found else math.nan}
    told |= {"n_reached": sum(c.reached for c in found) if found else None}
    times = [getattr(c, unit) if c.reached else math.inf for c in found]
    return named(study, arm) | told | {f"{unit}_to_target_median": median(times) if times else math.nan}


def _accuracy(arm: Arm, scores: Mapping[int, float]) -> Interval:
    if not scores:
        return Interval(math.nan, math.nan, math.nan, 0, "none")
    return stats.accuracy_mean(scores.values(), int(arm.runs["n_test"].iloc[0]))


def _mean_text(scores: Mapping[int, float], n: int, digits: int) -> str:
    if len(scores) < n or not scores:
        return f"{MISSING} (not measured in every run)" if scores else MISSING
    values = 100 * pd.Series(scores)
    return f"{values.mean():.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")


def _interval_text(arm: Arm, scores: Mapping[int, float], digits: int) -> str:
    i = _accuracy(arm, scores)
    return MISSING if math.isnan(i.low) else f"[{100 * i.low:.{digits}f}, {100 * i.high:.{digits}f}]"


def _bold_accuracy(arm: Arm, block: Sequence[Arm], scores: Mapping[int, Mapping[int, float]]) -> bool:
    """Whether the arm is the best of its block, or the interval of its difference from the best includes 0."""
    known = [a for a in block if scores.get(id(a))]
    if len(known) < 2 or arm not in known or min(len(scores[id(a)]) for a in known) < FEWEST:
        return False
    best = max(known, key=lambda a: math.fsum(scores[id(a)].values()) / len(scores[id(a)]))
    if arm is best:
        return True
    a, b, grid = scores[id(best)], scores[id(arm)], 1 / float(arm.runs["n_test"].iloc[0])
    i = stats.difference(a, b, paired=bool(a.keys() & b.keys()), resolution=grid).interval
    return i.low <= 0 <= i.high


def _bold_time(study: Study, arm: Arm, block: Sequence[Arm], goals: Mapping[int, float]) -> bool:
    unit = study.options.x
    seeds = {id(a): by_seed(study, a, goals) for a in block}
    if len(block) < 2 or min(map(len, seeds.values())) < FEWEST or not any(c.reached for c in seeds[id(arm)].values()):
        return False

    def typical(a: Arm) -> float:
        return median(getattr(c, unit) if c.reached else math.inf for c in seeds[id(a)].values())

    best = min(block, key=typical)
    if typical(best) == math.inf or arm is best:
        return arm is best and typical(best) < math.inf
    a, b = seeds[id(best)], seeds[id(arm)]
    found = target.compare(a, b, unit, paired=bool(a.keys() & b.keys()))
    return not found.refused and found.interval.low <= 1 <= found.interval.high


def _goal_text(goals: Any) -> str:
    different = {percent(goal) for goal in goals}
    return different.pop() if len(different) == 1 else "the target"
