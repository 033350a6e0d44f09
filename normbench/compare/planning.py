"""From the command to the plan that is kept: arms that can be, trials that fit, what an earlier plan holds."""

import math
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from normbench import plan as plans
from normbench import records
from normbench.compare import arms, budget, rounds, search, telling
from normbench.compare.arms import Contender
from normbench.compare.asked import FIRST_TUNE_SEED, Asked
from normbench.config import ConfigError, run_id
from normbench.plan import Plan
from normbench.sweep import devices, jobs, session


def possible(contenders: Sequence[Contender]) -> tuple[list[Contender], list[tuple[Contender, str]]]:
    """Each arm built once; those that can be, and those that can't with the reason.

    Raises:
        ConfigError, DataError: an arm that is wrong, or fewer than two that can be.
    """
    named = {contender.config.folder: contender for contender in contenders}
    work = session.Sorted(todo=[_job(contender) for contender in contenders])
    session.check(work)
    lost = [(named[job.config.folder], reason) for job, reason in work.impossible]
    left = [contender for contender in contenders if all(contender is not gone for gone, _ in lost)]
    if len(left) < 2:
        raise ConfigError(f"only one arm is possible, {left[0].name}: {lost[0][0].name}: {lost[0][1]}")
    return left, lost


def _job(contender: Contender) -> jobs.Job:
    words = [f"{key}={value}" for key, value in contender.arm.choices.items()]
    return jobs.Job(tuple(words), contender.config)


def kept(folder: Path) -> Plan | None:
    """The plan of an earlier call. Raises ConfigError where there is something else in its place."""
    try:
        if (found := plans.read(folder)) is None and any(folder.glob("*/run.json")):
            raise ConfigError(
                f"{folder} holds runs, but no {plans.FILE} of a comparison that made them; type another name="
            )
        return found
    except records.Damaged as error:
        raise ConfigError(f"{error}; move it away, or type another name=") from None


def made(
    wanted: Asked, contenders: list[Contender], before: Plan | None, command: str, count: int, started: float
) -> tuple[list[Contender], Plan, budget.Measured | None]:
    """The arms, their plan, and where it was fitted into a time, what was measured for that.

    What the command leaves open is as it was planned before, or as it fits into its budget, or as is usual; seeds that
    were planned before stay. started: by time.monotonic.
    """
    if before is not None and wanted.budget_s is not None:
        contenders = _as_long(contenders, before)
    epochs = contenders[0].config.epochs  # of all
    if wanted.halving and epochs < wanted.halving:
        raise ConfigError(
            f"halving={wanted.halving} stops settings after a part of the epochs, and {epochs} has none; type "
            f"epochs={wanted.halving**2}, or leave halving out"
        )
    plan = Plan(
        command, tuple(contender.arm for contender in contenders), wanted.search, wanted.trials, wanted.zoom,
        _from(FIRST_TUNE_SEED + wanted.first_seed, wanted.tune_seeds), _from(wanted.first_seed, wanted.seeds),
        search_seed=wanted.search_seed, halving=wanted.halving,
    )  # fmt: skip
    if before is not None and before.seeds[0] == wanted.first_seed:
        names = ("trials", "zoom", "tune_seeds", "seeds", "more") if wanted.budget_s is not None else ("seeds",)
        plan = replace(plan, **{name: getattr(before, name) for name in names if name not in wanted.given})
        plan = replace(plan, seeds=max(plan.seeds, before.seeds, key=len))
    if wanted.search == "grid" and "zoom" not in wanted.given:
        plan = replace(plan, zoom=0)
    plan, measured = _fewer(plan, wanted.given), None
    if before is None and wanted.budget_s is not None:
        contenders, plan, measured = _fitted(wanted, contenders, plan, count, started)
    if plan.tuned:
        for contender in contenders:  # what can't be drawn is refused before anything runs
            search.trials(contender.arm, plan, 0, {}, (), contender.whole)
    return contenders, telling.with_words(contenders, plan), measured


def _from(first: int, count: int) -> tuple[int, ...]:
    return tuple(range(first, first + count))


def _as_long(contenders: list[Contender], before: Plan) -> list[Contender]:
    """With the epochs that an earlier call chose to fit into its budget."""
    chosen = {arm.choices.get("epochs") for arm in before.arms}
    typed = any("epochs" in contender.arm.choices for contender in contenders)
    (epochs,) = chosen if len(chosen) == 1 else (None,)
    return contenders if typed or epochs is None else with_epochs(contenders, int(epochs))


def _fewer(plan: Plan, given: frozenset[str]) -> Plan:
    """Trials where nothing, or nothing but listed values, is tuned."""
    if not plan.tuned:
        if typed := sorted(given & {"trials", "zoom", "halving", "tune_seeds", "search", "search_seed"}):
            raise ConfigError(
                f"{typed[0]} has no effect where nothing is tuned; leave it out, or type a range, as "
                "tune.optimizer.lr='log(1e-4,1)'"
            )
        return replace(plan, trials=1, zoom=0, halving=0, tune_seeds=())
    if bare := [arm for arm in plan.arms if not arm.tuned]:
        words = " ".join(f"{key}={value}" for key, value in bare[0].choices.items())
        raise ConfigError(
            f"every arm gets the same number of trials, and {words} has nothing to tune; "
            "give it a range with tune.KEY=RANGE, or take those of all arms away: tune.optimizer.lr=null"
        )
    if not any(arm.ranges for arm in plan.arms):
        sizes = {math.prod(map(len, arm.values.values())) for arm in plan.arms}
        plan = replace(plan, trials=plan.trials if "trials" in given else min(sizes))
        plan = replace(plan, zoom=plan.zoom if "zoom" in given else 0)
    if plan.trials <= plan.zoom:
        raise ConfigError(
            f"trials={plan.trials} can't be split over {plan.zoom + 1} rounds; "
            f"type trials={4 * (plan.zoom + 1)} or zoom=0"
        )
    if plan.search == "grid" and plan.zoom:
        raise ConfigError("search=grid has one round; type zoom=0, or search=quasirandom")
    return plan


def refuse_other(before: Plan | None, now: Plan, folder: Path, args: Sequence[str]) -> None:
    """Raise ConfigError if the folder holds another comparison; only seeds may become more."""
    if before is None:
        return
    others = arms.differences(before, now)
    if others:
        typed = [arg for arg in args if not arg.startswith("name=")]
        raise ConfigError(
            f"{folder} holds another comparison: {'; '.join(others)}; "
            f"for this one type {shlex.join(['normbench', 'compare', *typed, f'name={another(folder.name)}'])}"
        )


def another(name: str) -> str:
    """A name for another comparison: compare2 after compare, compare3 after compare2."""
    stem, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
    return f"{stem}{int(number or 1) + 1}"


# ---------------------------------------------------------------------------------------------------------------- time


def workers(wanted: Asked, contenders: Sequence[Contender]) -> int:
    return wanted.workers or devices.default_workers(contender.config for contender in contenders)


def predicted(contenders: Sequence[Contender], plan: Plan, measured: budget.Measured, count: int) -> float:
    """Seconds that training and report take, about."""
    training = budget.seconds(plan, measured, contenders[0].config.epochs, rounds.extra(contenders), count)
    return training + budget.reporting_s(telling.runs(contenders, plan), measured.slow)


def earlier(before: Plan, wanted: Asked, contenders: Sequence[Contender], now: Plan, folder: Path) -> str:
    """What is said where a folder holds a comparison already."""
    words = [
        f"{folder} holds this comparison: {_done(folder)} of at most {telling.runs(contenders, now)} runs are done"
    ]
    if wanted.budget_s is not None:
        words.append(
            f"its plan was made by an earlier call ({before.command}); name={another(folder.name)} makes one anew"
        )
    if "seeds" in wanted.given and wanted.seeds < len(before.seeds):
        words.append(f"seeds={wanted.seeds}: it has {len(before.seeds)} seeds, and all of them are reported")
    return "\n".join(words)


def left(contenders: Sequence[Contender], plan: Plan, measured: budget.Measured, count: int, folder: Path) -> float:
    """Seconds that what is not done yet takes, about."""
    share = 1 - _done(folder) / telling.runs(contenders, plan)
    return max(0.0, share) * predicted(contenders, plan, measured, count)


def _done(folder: Path) -> int:
    found = 0
    for path in folder.glob("*/run.json"):
        try:
            found += records.read_run(path.parent)["state"] in records.DONE
        except records.Damaged:  # named when its turn comes
            continue
    return found


def _fitted(
    wanted: Asked, contenders: list[Contender], plan: Plan, count: int, started: float
) -> tuple[list[Contender], Plan, budget.Measured]:
    """The plan that fits into the time, its arms, and what it was fitted by."""
    assert wanted.budget_s is not None
    typed = {"epochs"} if any("epochs" in contender.arm.choices for contender in contenders) else set()
    if wanted.search == "grid" or not any(arm.ranges for arm in plan.arms):
        typed |= {"trials"}  # not any number of them will do
    epochs, too = contenders[0].config.epochs, rounds.extra(contenders)
    measured, spent_s = budget.costs(contenders, count), time.monotonic() - started
    plan, length = budget.fitting(plan, measured, epochs, too, count, wanted.budget_s, wanted.given | typed, spent_s)
    if "epochs" not in typed:
        contenders = with_epochs(contenders, length)
        plan = replace(plan, arms=tuple(contender.arm for contender in contenders))
    return contenders, plan, measured


def with_epochs(contenders: Sequence[Contender], epochs: int) -> list[Contender]:
    """As if epochs had been typed."""
    return [
        replace(
            c, arm=replace(c.arm, choices={**c.arm.choices, "epochs": str(epochs)}, like=run_id(config)), config=config
        )
        for c in contenders
        for config in [replace(c.config, epochs=epochs)]
    ]


def refuse_many(wanted: Asked, contenders: Sequence[Contender], plan: Plan) -> None:
    if not wanted.yes and (count := telling.runs(contenders, plan)) > session.MOST:
        raise ConfigError(f"{count:,} runs; {session.HOW}")
