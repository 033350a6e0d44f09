"""Time to target: when a run reaches an accuracy, and how two arms compare when some runs never do. Pure.

A target is crossed at the first of SUSTAIN consecutive evaluations at or above it, on the raw accuracy: the first alone
would reward noise, an interpolation would invent a measurement. The row at step 0 is an evaluation. A run whose last
evaluation alone is at the target has not reached it: nothing has confirmed it, as everywhere else (its time would be
the budget either way). A run that diverges before it crosses never reaches the target; it is not censored at the crash.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
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


def crossing(
    rows: pd.DataFrame, target: float, budget_steps: int, *, metric: str = "val_acc", sustain: int = SUSTAIN
) -> Crossing:
    """When one run, given by its rows of metrics.csv, reached `target`; `budget_steps` is what it was to train for."""
    if not metric.endswith("_acc") or not 0 < target <= 1:
        raise ValueError(f"a target is an accuracy in (0, 1], given {target!r} of {metric}; for 85 % type 0.85")
    if sustain < 1:
        raise ValueError(f"sustain must be at least 1 evaluation, given {sustain}")
    rows = rows.sort_values("step")
    step, value = rows["step"].to_numpy(float), rows[metric].to_numpy(float)
    if not len(step) or len(np.unique(step)) < len(step):
        raise ValueError(f"a run needs one row an evaluation, given steps {step.tolist()}")
    last = rows.iloc[-1]
    pace = budget_steps / float(last["step"]) if last["step"] > 0 else math.nan
    at_budget = {"examples": float(last["examples"]) * pace, "train_s": float(last["train_s"]) * pace}
    batch = float(last["examples"]) / float(last["step"]) if last["step"] > 0 else math.nan
    known = {"budget_steps": budget_steps, "budget_examples": at_budget["examples"], "batch_size": batch}
    known |= {"metric": metric, "sustain": sustain}
    above = value >= target  # False for NaN
    start = next((i for i in range(len(above) - sustain + 1) if above[i : i + sustain].all()), None)
    if start is None:
        return Crossing(target, False, float(budget_steps), **at_budget, gap=0.0, **known)
    row = rows.iloc[start]
    gap = (step[start] - step[start - 1]) / step[start] if start else 0.0
    return Crossing(target, True, **{unit: float(row[unit]) for unit in UNITS}, gap=float(gap), **known)


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
    paired: bool = True, reselected: int = 0,
) -> Effect:  # fmt: skip
    """How many times sooner the variant b reaches the target than the baseline a: ratio a / b, or why there is none.

    Nobody censored: geometric mean of the per-seed ratios. Only the slower arm censored: the same with its budget in
    place of what it never reached, a bound (`bound`); the interval's other end is infinite or 0. Else refused. All of
    it only with equal budgets. The SD of log-ratios is floored at half of what one evaluation is worth.
    `reselected`: as for `stats.difference`.
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
    found = stats.ratio(times_a, times_b, paired=paired, floor=floor, reselected=reselected)
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


def automatic_target(
    baseline: Iterable[pd.DataFrame], *, metric: str = "val_acc", sustain: int = SUSTAIN
) -> float | None:
    """The largest round accuracy that at least half of the baseline's runs reach; None where there is none.

    Only targets above every run's accuracy at step 0. It is chosen after the fact (`Flag.POST_HOC_TARGET`).
    """
    runs = [run.sort_values("step") for run in baseline]
    if not runs:
        return None
    first = max(float(run[metric].iloc[0]) for run in runs)
    best = sorted((_sustained_best(run, metric, sustain) for run in runs), reverse=True)
    half = best[(len(best) + 1) // 2 - 1]  # at least this high in at least half of the runs
    return max((t for t in round_targets() if first < t <= half), default=None)


def target_grid(
    runs: Sequence[pd.DataFrame], step: float = 0.01, *, metric: str = "val_acc", sustain: int = SUSTAIN
) -> list[float]:
    """The multiples of `step` above every run's accuracy at step 0 that at least one run reaches."""
    first = max(float(run.sort_values("step")[metric].iloc[0]) for run in runs)
    best = max(_sustained_best(run, metric, sustain) for run in runs)
    targets = (round(k * step, 10) for k in range(1, int(1 / step) + 1))
    return [t for t in targets if first < t <= best]


def _sustained_best(rows: pd.DataFrame, metric: str, sustain: int) -> float:
    """The highest target that the run reaches; -inf where it has too few evaluations."""
    value = rows.sort_values("step")[metric].fillna(-math.inf).to_numpy(float)
    return max((float(value[i : i + sustain].min()) for i in range(len(value) - sustain + 1)), default=-math.inf)


def speedup(
    a: Mapping[int, pd.DataFrame], b: Mapping[int, pd.DataFrame], targets: Iterable[float], budgets: tuple[int, int],
    *, unit: str = "step", metric: str = "val_acc", sustain: int = SUSTAIN,
) -> pd.DataFrame:  # fmt: skip
    """The ratio as a function of the target, from the rows of each seed's run; `budgets`: the steps of a and of b.

    One row a target. bound: "", "low" or "high" as in Effect; reached_a, reached_b: of the n_pairs.
    """
    found = []
    for target in targets:
        arm_a, arm_b = (
            {s: crossing(rows, target, budget, metric=metric, sustain=sustain) for s, rows in arm.items()}
            for arm, budget in zip((a, b), budgets, strict=True)
        )
        e = compare(arm_a, arm_b, unit)
        i, n = e.interval, e.interval.n
        row = {"target": target, "ratio": i.estimate, "ci_low": i.low, "ci_high": i.high, "bound": e.bound}
        reached = {"reached_a": n - e.censored_a, "reached_b": n - e.censored_b}
        found.append({**row, "n_pairs": n, **reached, "refused": e.refused})
    columns = ["target", "ratio", "ci_low", "ci_high", "bound", "n_pairs", "reached_a", "reached_b", "refused"]
    return pd.DataFrame(found, columns=columns)
