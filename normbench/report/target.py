"""Time to target: when a run reaches an accuracy, and how two arms compare when some runs never do. Pure.

A target is crossed at the first of SUSTAIN consecutive evaluations at or above it, on the raw accuracy: the first alone
would reward noise, an interpolation would invent a measurement. The row at step 0 is an evaluation. A run whose last
evaluation alone is at the target has not reached it: nothing has confirmed it, as everywhere else (its time would be
the budget either way). A run that diverges before it crosses never reaches the target; it is not censored at the crash.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from normbench.report import stats
from normbench.report.planning import FEWEST
from normbench.report.stats import Effect, Interval

SUSTAIN = 2
COARSE = 0.1  # evaluation interval / time to target from which on the evaluations are too coarse
UNITS = {"step": "steps", "examples": "training examples", "train_s": "seconds of training"}
SAME_BUDGET = 0.02  # in examples, where batch sizes differ: an epoch's last partial batch is dropped
COLUMNS = (
    "run_id", "target", "metric", "sustain", "reached", "step", "examples", "train_s", "budget_steps",
)  # fmt: skip


@dataclass(frozen=True)
class Crossing:
    """When a run reached the target: `step`, `examples`, `train_s`; at its budget where it never did.

    A run that ended before its budget (diverged) has its examples and seconds at the budget at its own pace, NaN
    where it never made a step. gap: (time - time of the evaluation before) / time, what a crossing is known to; 0
    where never reached. batch_size: examples a step; NaN where it never made a step.
    """

    target: float
    reached: bool
    step: float
    examples: float
    train_s: float
    gap: float
    budget_steps: int
    budget_examples: float
    batch_size: float
    metric: str = "val_acc"
    sustain: int = SUSTAIN


@dataclass(frozen=True, eq=False)
class Track:
    """One run's way, in order of steps, as arrays: made once, it answers for every target at once.

    value: the metric. best: the highest target that it reached by each evaluation from which `sustain` follow.
    """

    metric: str
    sustain: int
    step: np.ndarray
    examples: np.ndarray
    train_s: np.ndarray
    value: np.ndarray
    best: np.ndarray

    @staticmethod
    def of(rows: "pd.DataFrame | Track", metric: str = "val_acc", sustain: int = SUSTAIN) -> "Track":
        """From a run's rows of metrics.csv; of a Track: itself."""
        if isinstance(rows, Track):
            return rows
        (track,) = Track._each(rows[[*UNITS, metric]].to_numpy(float), np.zeros(len(rows), int), metric, sustain)
        return track

    @staticmethod
    def of_each(metrics: pd.DataFrame) -> dict[str, "Track"]:
        """run_id -> its track of the validation accuracy, from the rows of many runs."""
        if not len(metrics):
            return {}
        run, ids = pd.factorize(metrics["run_id"])
        tracks = Track._each(metrics[[*UNITS, "val_acc"]].to_numpy(float), run, "val_acc", SUSTAIN)
        return dict(zip(map(str, ids), tracks, strict=True))

    @staticmethod
    def _each(table: np.ndarray, run: np.ndarray, metric: str, sustain: int) -> Iterator["Track"]:
        """The tracks of the runs 0, 1, ... of these rows: UNITS and the metric."""
        if sustain < 1:
            raise ValueError(f"sustain must be at least 1 evaluation, given {sustain}")
        order = np.lexsort((table[:, 0], run))
        step, examples, train_s, value = np.ascontiguousarray(table[order].T)
        run = run[order]
        twice = (np.diff(run) == 0) & (np.diff(step) == 0)
        if not len(run) or twice.any():
            given = step[run == run[1:][twice][0]] if len(run) else step
            raise ValueError(f"a run needs one row an evaluation, given steps {given.tolist()}")
        known = np.where(np.isnan(value), -math.inf, value)  # what was not measured was not reached
        count = max(len(known) - sustain + 1, 0)
        lowest = np.min([known[i : i + count] for i in range(sustain)], axis=0)
        ends = np.cumsum(np.bincount(run)).tolist()
        for start, end in itertools.pairwise([0, *ends]):
            own = slice(start, end)
            best = np.maximum.accumulate(lowest[start : max(end - sustain + 1, start)])
            yield Track(metric, sustain, step[own], examples[own], train_s[own], value[own], best)

    @property
    def highest(self) -> float:
        """The highest target that the run reaches; -inf where it has too few evaluations."""
        return float(self.best[-1]) if len(self.best) else -math.inf

    def crossing(self, target: float, budget_steps: int) -> Crossing:
        """When it reached `target`; `budget_steps` is what it was to train for."""
        if not self.metric.endswith("_acc") or not 0 < target <= 1:
            raise ValueError(
                f"a target is an accuracy in (0, 1], given {target!r} of {self.metric}; for 85 % type 0.85"
            )
        steps, examples, seconds = (float(values[-1]) for values in (self.step, self.examples, self.train_s))
        pace = budget_steps / steps if steps > 0 else math.nan
        known = {"budget_steps": budget_steps, "budget_examples": examples * pace}
        known |= {"batch_size": examples / steps if steps > 0 else math.nan}
        known |= {"metric": self.metric, "sustain": self.sustain}
        i = int(np.searchsorted(self.best, target))  # the first at or above it
        if i == len(self.best):
            return Crossing(target, False, float(budget_steps), examples * pace, seconds * pace, gap=0.0, **known)
        at = {unit: float(getattr(self, unit)[i]) for unit in UNITS}
        gap = float((self.step[i] - self.step[i - 1]) / self.step[i]) if i else 0.0
        return Crossing(target, True, **at, gap=gap, **known)


def crossing(
    rows: pd.DataFrame, target: float, budget_steps: int, *, metric: str = "val_acc", sustain: int = SUSTAIN
) -> Crossing:
    """When one run, given by its rows of metrics.csv, reached `target`; `budget_steps` is what it was to train for."""
    return Track.of(rows, metric, sustain).crossing(target, budget_steps)


def table(crossings: Mapping[str, Crossing]) -> pd.DataFrame:
    """time_to_target.csv, one row a run_id; the times are empty where the target was not reached."""
    rows = []
    for run_id, c in sorted(crossings.items()):
        times = {unit: getattr(c, unit) if c.reached else None for unit in UNITS}
        shared = {"target": c.target, "metric": c.metric, "sustain": c.sustain, "reached": c.reached}
        rows.append({"run_id": run_id, **shared, **times, "budget_steps": c.budget_steps})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"step": "Int64", "examples": "Int64", "train_s": float})


# ------------------------------------------------------------------------------------------------------------ two arms


def compare(
    a: Mapping[int, Crossing], b: Mapping[int, Crossing], unit: str = "step", *,
    paired: bool = True, reselected: int = 0, exact: bool = True,
) -> Effect:  # fmt: skip
    """How many times sooner the variant b reaches the target than the baseline a: ratio a / b, or why there is none.

    Nobody censored: geometric mean of the per-seed ratios. Only the slower arm censored: the same with its budget in
    place of what it never reached, a bound (`bound`); the interval's other end is infinite or 0. Else refused. All of
    it only with equal budgets. The SD of log-ratios is floored at half of what one evaluation is worth.
    `reselected`, `exact`: as for `stats.ratio`.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, given {unit!r}")
    if paired:
        shared = a.keys() & b.keys()
        n_a, n_b, left_out = len(a), len(b), len(a.keys() ^ b.keys())
        a, b = ({s: arm[s] for s in sorted(shared)} for arm in (a, b))
    else:
        n_a, n_b, left_out = len(a), len(b), 0
    missed = [sum(not c.reached for c in arm.values()) for arm in (a, b)]
    blank = Effect(
        "ratio", Interval(math.nan, math.nan, math.nan, min(len(a), len(b)), "none"), paired, n_a, n_b,
        wins=sum(_ahead(b[s], a[s], unit) for s in a.keys() & b.keys()) if paired else 0,
        left_out=left_out, censored_a=missed[0], censored_b=missed[1], resolution=resolution(a, b),
    )  # fmt: skip
    reason = _reason(a, b, unit)
    if reason:
        return replace(blank, refused=reason)
    times_a, times_b = ({s: getattr(c, unit) for s, c in arm.items()} for arm in (a, b))
    floor = stats.FLOOR_STEPS * math.hypot(*(_gap(arm) for arm in (a, b)))
    found = stats.ratio(times_a, times_b, paired=paired, floor=floor, reselected=reselected, exact=exact)
    known = {"n_a": n_a, "n_b": n_b, "left_out": left_out, "wins": blank.wins, "resolution": blank.resolution}
    found = replace(found, **known, censored_a=missed[0], censored_b=missed[1])
    if missed == [0, 0]:
        return found
    i = found.interval
    if missed[1] == 0 and i.estimate > 1:
        return replace(found, bound="low", interval=replace(i, high=math.inf if i.n >= FEWEST else math.nan))
    if missed[0] == 0 and i.estimate < 1:
        return replace(found, bound="high", interval=replace(i, low=0.0 if i.n >= FEWEST else math.nan))
    return replace(blank, refused=_both(a, b, unit))


def resolution(a: Mapping[int, Crossing], b: Mapping[int, Crossing]) -> float:
    """The coarser arm's median evaluation interval / time to target: from COARSE on, evaluations are too coarse.

    With evaluations at equal intervals, that interval over the fastest arm's median time.
    """
    return max(_gap(a), _gap(b))


def _gap(arm: Mapping[int, Crossing]) -> float:
    gaps = [c.gap for c in arm.values() if c.reached]
    return float(np.median(gaps)) if gaps else 0.0


def _ahead(first: Crossing, second: Crossing, unit: str) -> bool:
    """Whether the first reached the target sooner, or reached it where the second did not."""
    if first.reached and second.reached:
        return getattr(first, unit) < getattr(second, unit)
    return first.reached and not second.reached


def _reason(a: Mapping[int, Crossing], b: Mapping[int, Crossing], unit: str) -> str:
    """Why these times cannot be compared at all; "" where they can."""
    every = [*a.values(), *b.values()]
    if not a or not b:
        return "the arms have no runs of the same seeds"
    if len({c.target for c in every}) > 1:
        raise ValueError(f"crossings of one target each, given targets {sorted({c.target for c in every})}")
    sizes = sorted({round(c.batch_size) for c in every if not math.isnan(c.batch_size)})
    if unit == "step" and len(sizes) > 1:
        return f"steps of different batch sizes ({', '.join(map(str, sizes))}) are not comparable; compare examples"
    if len(sizes) > 1:
        of, slack = "examples", SAME_BUDGET
        budgets = [c.budget_examples for c in every if not math.isnan(c.budget_examples)]
    else:
        of, slack, budgets = "steps", 0.0, [float(c.budget_steps) for c in every]
    if max(budgets) > min(budgets) * (1 + slack):
        return f"the budgets differ ({min(budgets):,.0f} to {max(budgets):,.0f} {of})"
    if not any(c.reached for c in every):
        return f"no run reached {every[0].target:g} (0/{len(a)} and 0/{len(b)})"
    if any(c.reached and c.step == 0 for c in every):
        return f"{every[0].target:g} is reached before the first step; set a higher target"
    if any(not getattr(c, unit) > 0 for c in every):
        return f"a run that never made a step has no time in {unit} at its budget"
    return ""


def _both(a: Mapping[int, Crossing], b: Mapping[int, Crossing], unit: str) -> str:
    """What can be said where the faster arm, or both, missed the target in some runs."""
    parts = []
    for name, arm in (("the baseline", a), ("the variant", b)):
        times = [getattr(c, unit) if c.reached else math.inf for c in arm.values()]
        middle = stats.median(times).estimate
        said = f"median {middle:g} {UNITS[unit]}" if math.isfinite(middle) else "median not reached"
        parts.append(f"{sum(map(math.isfinite, times))}/{len(arm)} runs of {name} ({said})")
    shared = a.keys() & b.keys()
    ahead = [sum(_ahead(x[s], y[s], unit) for s in shared) for x, y in ((a, b), (b, a))]
    pairs = f"; ahead in {ahead[0]} and {ahead[1]} of {len(shared)} pairs" if shared else ""
    return f"the target was reached by {parts[0]} and {parts[1]}{pairs}: no ratio can be given"


# -------------------------------------------------------------------------------------------------------- many targets


def round_targets() -> tuple[float, ...]:
    """The round accuracies, ascending: multiples of .05 to .9, of .01 to .99, of .001 above."""
    coarse, fine, finest = range(50, 900, 50), range(900, 990, 10), range(990, 1000)
    return tuple(k / 1000 for k in (*coarse, *fine, *finest))


def automatic_target(baseline: Iterable[pd.DataFrame | Track]) -> float | None:
    """The largest round accuracy that at least half of the baseline's runs reach; None where there is none.

    Only targets above every run's accuracy at step 0. It is chosen after the fact (`Flag.POST_HOC_TARGET`).
    """
    runs = [Track.of(rows) for rows in baseline]
    if not runs:
        return None
    first = max(float(run.value[0]) for run in runs)
    best = sorted((run.highest for run in runs), reverse=True)
    half = best[(len(best) + 1) // 2 - 1]  # at least this high in at least half of the runs
    return max((t for t in round_targets() if first < t <= half), default=None)


def target_grid(runs: Sequence[pd.DataFrame | Track], step: float = 0.01) -> list[float]:
    """The multiples of `step` above every run's accuracy at step 0 that at least one run reaches."""
    tracks = [Track.of(rows) for rows in runs]
    first, best = max(float(run.value[0]) for run in tracks), max(run.highest for run in tracks)
    targets = (round(k * step, 10) for k in range(1, int(1 / step) + 1))
    return [t for t in targets if first < t <= best]


def speedup(
    a: Mapping[int, pd.DataFrame | Track], b: Mapping[int, pd.DataFrame | Track], targets: Iterable[float],
    budgets: tuple[int, int], *, unit: str = "step",
) -> pd.DataFrame:  # fmt: skip
    """The ratio as a function of the target, from the rows of each seed's run; `budgets`: the steps of a and of b.

    One row a target. bound: "", "low" or "high" as in Effect; reached_a, reached_b: of the n_pairs.
    """
    tracks = [{seed: Track.of(rows) for seed, rows in arm.items()} for arm in (a, b)]
    found = []
    for target in targets:
        arm_a, arm_b = (
            {seed: track.crossing(target, budget) for seed, track in arm.items()}
            for arm, budget in zip(tracks, budgets, strict=True)
        )
        e = compare(arm_a, arm_b, unit, exact=False)
        i, n = e.interval, e.interval.n
        row = {"target": target, "ratio": i.estimate, "ci_low": i.low, "ci_high": i.high, "bound": e.bound}
        reached = {"reached_a": n - e.censored_a, "reached_b": n - e.censored_b}
        found.append({**row, "n_pairs": n, **reached, "refused": e.refused})
    columns = ["target", "ratio", "ci_low", "ci_high", "bound", "n_pairs", "reached_a", "reached_b", "refused"]
    return pd.DataFrame(found, columns=columns)
