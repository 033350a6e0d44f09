"""What a comparison takes, from a few timed steps of every arm, and what fits into a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from normbench.compare import search
from normbench.compare.arms import Contender
from normbench.config import ConfigError, RunConfig
from normbench.plan import Plan
from normbench.words import duration

SHARE = 0.85  # of the time that is planned for: a run takes longer beside others than alone
REPORT_S = 20.0  # kept for the report
START_S = 4.0  # of the processes
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


def measure(config: RunConfig) -> Cost:
    """In a process of its own."""
    import time

    from normbench import build
    from normbench.sweep import estimate

    build.build(config)  # the data are read
    started = time.perf_counter()
    build.build(config)
    built_s = time.perf_counter() - started
    return Cost(estimate.measure(config).seconds / config.epochs, built_s)


def costs(contenders: Sequence[Contender], workers: int) -> list[Cost]:
    """Of each arm, measured with as many processes at work as there will be."""
    from joblib import Parallel, delayed

    configs = [contender.config for contender in contenders for _ in range(workers)]
    found: Any = Parallel(n_jobs=workers)(delayed(measure)(config) for config in configs)
    each = [found[i * workers : (i + 1) * workers] for i in range(len(contenders))]
    return [Cost(sum(c.an_epoch for c in some) / workers, sum(c.fixed for c in some) / workers) for some in each]


def seconds(plan: Plan, each: Sequence[Cost], epochs: int, at_baselines: Sequence[bool], workers: int) -> float:
    """About how long the whole comparison takes.

    Args:
        each: of the arms.
        at_baselines: whether an arm is trained at its baseline's rate, too.
    """
    looks = search.halvings(epochs, plan.halving)
    total = 0.0
    for cost, too in zip(each, at_baselines, strict=True):
        for count in search.per_round(plan.trials, plan.zoom) if plan.tuned else []:
            keep = search.kept(count, plan.halving, len(looks))
            spans = zip([0, *looks], looks, keep, strict=False)
            trained = sum((end - begin) * alive for begin, end, alive in spans)
            total += len(plan.tune_seeds) * (cost.an_epoch * trained + cost.fixed * sum(keep))
        total += len(plan.seeds) * (1 + too) * cost.seconds(epochs)
    return total / workers + START_S


def fitting(
    plan: Plan, each: Sequence[Cost], epochs: int, at_baselines: Sequence[bool], workers: int, budget_s: float,
    given: frozenset[str],
) -> tuple[Plan, int]:  # fmt: skip
    """The best-supported plan within the time, and its epochs; what is `given` stays.

    Raises:
        ConfigError: not even the least fits.
    """
    shortest = epochs if "epochs" in given else 1
    time_s = SHARE * (budget_s - REPORT_S)
    for length in dict.fromkeys([epochs, *(max(shortest, epochs // k) for k in (2, 4, 1000))]):
        for step in reversed(LADDER):
            made = _at(plan, step, given)
            if seconds(made, each, length, at_baselines, workers) <= time_s:
                return made, length
    least = seconds(_at(plan, LADDER[0], given), each, shortest, at_baselines, workers) / SHARE + REPORT_S
    raise ConfigError(
        f"budget: the least that gives a verdict takes about {duration(least)}; type budget={_typed(least)}, "
        "or fewer arms"
    )


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
        changes["seeds"] = tuple(range(seeds))
    return replace(plan, **changes)
