"""What a comparison takes, from a few timed steps of every arm, and what fits into a time."""

import heapq
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normbench.compare import search, telling
from normbench.compare.arms import Contender
from normbench.config import ConfigError, RunConfig
from normbench.plan import Plan
from normbench.sweep import pool
from normbench.words import duration

SHARE = 0.85  # of the time that is planned for
REPORT_WORK_S = 4.0  # of a report with its figures, on a core that does nothing else (found: 2 to 3); and for each run
RUN_WORK_S = 0.01
SAFETY = 1.5  # on what is kept for the report: others may come to this machine meanwhile
SAVING_S = 0.05  # of a run: its files
FEW = 8
# from the least that gives an interval to what few have time for: trials, tune_seeds, seeds. Seeds first: without them
# there is no verdict; then trials; a second tune seed as soon as there are 8, so that luck alone chooses less often
LADDER = (
    (2, 1, 3), (4, 1, 3), (4, 1, 4), (6, 1, 5), (8, 1, 5), (8, 2, 5), (12, 2, 5), (12, 2, 6), (16, 2, 6), (16, 2, 8),
    (16, 3, 10), (24, 3, 12), (32, 3, 16), (32, 4, 24),
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of one run of an arm: seconds that grow with its epochs, and those that do not."""

    an_epoch: float
    fixed: float

    def seconds(self, epochs: float) -> float:
        return self.fixed + epochs * self.an_epoch


@dataclass(frozen=True)
class Measured:
    """each: of the arms. start_s: until a process trains. slow: seconds on the clock for one of work, as the machine is
    now. together: runs are trained as stacks, which the processes share evenly.
    """

    each: tuple[Cost, ...]
    start_s: float = 4.0
    slow: float = 1.0
    together: bool = False


# ------------------------------------------------------------------------------------------------------------ measuring

_begun: list[int] = []  # this process has measured before


def measure(config: RunConfig, asked: float) -> tuple[Cost, float, float]:
    """In a process of its own: the cost of a run, seconds until the process could train (0 if it did before), `slow`.

    Everything is done twice: the first time the data are read, and torch makes itself ready.
    asked: when, by time.time.
    """
    began, first = time.time(), _tried(config)
    waited = 0.0 if os.getpid() in _begun else began - asked
    work = time.process_time()
    again = _tried(config)
    work = time.process_time() - work
    start_s = 0.0 if os.getpid() in _begun else waited + max(0.0, first[1] - again[1])
    _begun[:] = [os.getpid()]
    return again[0], start_s, max(1.0, again[1] / work) if work else 1.0


def _tried(config: RunConfig) -> tuple[Cost, float]:
    """The cost, and how long it took to find out."""
    started = time.perf_counter()
    from normbench import build
    from normbench.sweep import estimate

    begun = time.perf_counter()
    build.build(config)
    built_s = time.perf_counter() - begun
    cost = Cost(estimate.measure(config).seconds / config.epochs, built_s + SAVING_S)
    return cost, time.perf_counter() - started


def costs(contenders: Sequence[Contender], workers: int) -> Measured:
    """Measured with as many processes at work as there will be."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    configs, now = [contender.config for contender in contenders for _ in range(workers)], time.time()
    found: Any = Parallel(n_jobs=workers, backend="loky")(delayed(measure)(config, now) for config in configs)
    if workers > 1:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)  # they would hold their memory
    each = [[cost for cost, _, _ in found[i * workers : (i + 1) * workers]] for i in range(len(contenders))]
    means = [Cost(sum(c.an_epoch for c in some) / workers, sum(c.fixed for c in some) / workers) for some in each]
    slow = sum(slow for _, _, slow in found) / len(found)
    together = all(config.engine == "stack" for config in configs)
    return Measured(tuple(means), max(start_s for _, start_s, _ in found), slow, together)


# ----------------------------------------------------------------------------------------------------------- predicting


def seconds(plan: Plan, measured: Measured, epochs: int, at_baselines: Sequence[bool], workers: int) -> float:
    """About how long all the training of a comparison takes.

    Args:
        at_baselines: whether an arm is trained at its baseline's rate, too.
    """
    phases = _phases(plan, measured.each, epochs, at_baselines)
    share = (lambda runs: sum(runs) / workers) if measured.together else (lambda runs: _packed(runs, workers))
    return measured.start_s + sum(map(share, phases))


def _phases(plan: Plan, each: Sequence[Cost], epochs: int, at_baselines: Sequence[bool]) -> Iterator[list[float]]:
    """The seconds of every run, phase by phase: one begins when the one before has ended."""
    looks = search.halvings(epochs, plan.halving)
    for count in search.per_round(plan.trials, plan.zoom) if plan.tuned else []:
        for begin, end, alive in zip([0, *looks], looks, search.kept(count, plan.halving, len(looks)), strict=False):
            yield [cost.seconds(end - begin) for cost in each for _ in range(alive * len(plan.tune_seeds))]
    yield [
        cost.seconds(epochs) for cost, too in zip(each, at_baselines, strict=True)
        for _ in range(len(plan.seeds) * (1 + too))
    ]  # fmt: skip


def _packed(runs: Sequence[float], workers: int) -> float:
    """When the last has ended, the longest begun first."""
    ends = [0.0] * workers
    for run_s in sorted(runs, reverse=True):
        heapq.heapreplace(ends, ends[0] + run_s)
    return max(ends)


def report_s(runs: int, slow: float) -> float:
    """What is kept at the end: until all processes have stopped, and for the report."""
    return pool.GRACE_S + 1.0 + SAFETY * reporting_s(runs, slow)


def reporting_s(runs: int, slow: float) -> float:
    """About how long a report of so many runs takes."""
    return slow * (REPORT_WORK_S + RUN_WORK_S * runs)


def slowness(work_s: float = 0.2) -> float:
    """Seconds on the clock for one of work, now: above 1 if others use the cores."""
    started, began = time.perf_counter(), time.process_time()
    while (work := time.process_time() - began) < work_s:
        sum(range(1000))
    return max(1.0, (time.perf_counter() - started) / work)


def fitting(
    plan: Plan, measured: Measured, epochs: int, at_baselines: Sequence[bool], workers: int, budget_s: float,
    given: frozenset[str], spent_s: float = 0.0,
) -> tuple[Plan, int]:  # fmt: skip
    """The best-supported plan within the time, and its epochs; what is `given` stays. spent_s: of the time, so far.

    Raises:
        ConfigError: not even the least fits.
    """
    shortest = epochs if "epochs" in given else 1
    for length in dict.fromkeys([epochs, *(max(shortest, epochs // k) for k in (2, 4, 1000))]):
        for step in reversed(LADDER):
            made = _at(plan, step, given)
            time_s = SHARE * (budget_s - spent_s - report_s(_runs(made, at_baselines), measured.slow))
            if seconds(made, measured, length, at_baselines, workers) <= time_s:
                return made, length
    made = _at(plan, LADDER[0], given)
    least = seconds(made, measured, shortest, at_baselines, workers) / SHARE
    least += spent_s + report_s(_runs(made, at_baselines), measured.slow)
    raise ConfigError(
        f"budget: the least that gives a verdict takes about {duration(least)}; type budget={_typed(least)}, "
        "or fewer arms"
    )


def _runs(plan: Plan, at_baselines: Sequence[bool]) -> int:
    return telling.runs_of(plan, len(at_baselines), sum(at_baselines))


def _typed(seconds_: float) -> str:
    return f"{seconds_ // 60 + 1:.0f}min"


def _at(plan: Plan, step: tuple[int, int, int], given: frozenset[str]) -> Plan:
    trials, tune_seeds, seeds = step
    changes: dict[str, Any] = {}
    if "trials" not in given and plan.tuned:
        # so few are better spent in one round: docs/fair-comparison.md
        changes["zoom"] = 0 if trials < FEW and "zoom" not in given else plan.zoom
        changes["trials"] = max(trials, changes["zoom"] + 1)
    if "tune_seeds" not in given and plan.tuned:
        changes["tune_seeds"] = plan.tune_seeds[:1] and tuple(plan.tune_seeds[0] + i for i in range(tune_seeds))
    if "seeds" not in given:
        changes["seeds"] = tuple(plan.seeds[0] + i for i in range(seeds))
    return replace(plan, **changes)
