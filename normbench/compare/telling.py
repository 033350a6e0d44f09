"""A plan in words, for the terminal and the report."""

from collections.abc import Sequence
from dataclasses import replace

from normbench.compare import rounds, search, space
from normbench.compare.arms import Contender
from normbench.plan import Plan
from normbench.report.planning import FEWEST
from normbench.words import several


def runs(contenders: Sequence[Contender], plan: Plan) -> int:
    """How many at most."""
    return runs_of(plan, len(contenders), sum(rounds.extra(contenders)))


def runs_of(plan: Plan, arms: int, extra: int) -> int:
    """The same, of so many arms, some of which are trained at their baseline's rate, too."""
    return arms * plan.trials * len(plan.tune_seeds) + (arms + extra) * len(plan.seeds)


def told(contenders: Sequence[Contender], plan: Plan) -> str:
    """The plan for the terminal."""
    lines = [f"{several(len(contenders), 'arm')}, at most {several(runs(contenders, plan), 'run')}:"]
    width = max(len(contender.name) for contender in contenders)
    lines += [f"  {c.name:<{width}}  tuned: {space.in_words(c.arm)}" for c in contenders]
    if plan.tuned:
        counts = " + ".join(map(str, search.per_round(plan.trials, plan.zoom)))
        narrower = f", after the first in 1/{search.SHRINK} of the ranges round the best" if plan.zoom else ""
        lines.append(
            f"each: {several(plan.trials, f'{plan.search} trial')} ({counts}{narrower}), "
            f"chosen by the mean validation accuracy at the end over {seeds(plan.tune_seeds)}"
        )
        if len(plan.tune_seeds) == 1:
            lines.append(
                "one seed alone chooses: intervals are wider, as another might have chosen otherwise (tune_seeds=2)"
            )
    few = "" if len(plan.seeds) >= FEWEST else f"; below {FEWEST} seeds there is no verdict"
    epochs = several(contenders[0].config.epochs, "epoch")
    lines.append(f"then: {several(len(plan.seeds), 'fresh seed')} each; {epochs} a run{few}")
    return "\n".join([*lines, *plan.more])


def seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))}"


def with_words(contenders: Sequence[Contender], plan: Plan) -> Plan:
    """With what successive halving does, for the report."""
    if not plan.halving:
        return plan
    epochs = contenders[0].config.epochs
    looks = search.halvings(epochs, plan.halving)
    full = each = 0
    for count in search.per_round(plan.trials, plan.zoom):
        keep = search.kept(count, plan.halving, len(looks))
        full += count * epochs
        each += sum((end - begin) * alive for begin, end, alive in zip([0, *looks], looks, keep, strict=False))
    more = (
        f"successive halving: of every {plan.halving} settings one is trained on after epoch "
        f"{' and '.join(map(str, looks[:-1]))}, in every arm alike: {each} epochs instead of {full} for each tune "
        "seed; a setting that learns slowly at first may be lost"
    )
    return replace(plan, more=(more,))
