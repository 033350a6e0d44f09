"""The protocol: tune every arm with the same budget, choose, confirm on fresh seeds. Pure but for what `train` does.

Each step follows from the plan and from what came of the runs before, so that a comparison that was ended anywhere
and is started again asks for the same runs.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from normbench.compare import search
from normbench.compare.arms import Contender
from normbench.config import RunConfig
from normbench.plan import Plan
from normbench.report.contrasts import BASELINES
from normbench.report.selection import Edge, choose
from normbench.report.tables import natural

# trains what is not trained yet: words for the user, the runs -> the score of each at its stop_epoch or end, None
# where there is none: the run failed
Train = Callable[[str, Sequence[RunConfig]], Sequence[float | None]]


@dataclass
class Tuned:
    """What is known of an arm. scores: setting -> seed -> final validation accuracy. best: None: none can be chosen.

    edges: what of it lies at an end of what was searched.
    """

    contender: Contender
    tried: list[tuple] = field(default_factory=list)
    scores: dict[tuple, dict[int, float]] = field(default_factory=dict)
    best: tuple | None = None
    why: str = ""
    edges: tuple[Edge, ...] = ()

    @property
    def finished(self) -> int:
        return len(self.scores)

    def choose(self, plan: Plan) -> None:
        """By the function that the report chooses by."""
        keys = list(self.contender.arm.tuned)
        if not keys:
            self.best = ()
            return
        rows = [
            dict(zip(keys, setting, strict=True)) | {"seed": seed, "score": score}
            for setting, found in self.scores.items()
            for seed, score in found.items()
        ]
        if not rows:
            self.best, self.why = None, f"none of its {len(self.tried)} trials finished"
            return
        try:
            found = choose(
                pd.DataFrame(rows), "val_acc", tune=keys, tune_seeds=plan.tune_seeds, confirm_seeds=plan.seeds,
                ranges=plan.ranges(self.contender.arm),
            )  # fmt: skip
        except ValueError as error:
            self.best, self.why = None, str(error)
        else:
            self.best, self.edges = found.best, found.edges

    @property
    def alike(self) -> bool:
        """Whether several settings all have the very same score: diverged, or never trained."""
        return len(self.scores) > 1 and len({score for own in self.scores.values() for score in own.values()}) == 1

    def mean(self) -> float:
        """Of the chosen setting, over the tune seeds."""
        found = self.scores[self.best or ()]
        return math.fsum(found.values()) / len(found)


def tune(
    contenders: Sequence[Contender], plan: Plan, train: Train, fits: Callable[[int], bool] = lambda number: True
) -> list[Tuned]:
    """Every arm's trials, round by round. fits: whether there is time for a further round; where there is not, none of
    the arms has it: `shortened`.
    """
    found = [Tuned(contender) for contender in contenders]
    if not plan.tuned:
        for arm in found:
            arm.choose(plan)
        return found
    for number in range(plan.zoom + 1):
        if number and not fits(number):
            break
        asked = []
        for arm in found:
            box = search.shrunk(arm.contender.arm, arm.best, number) if number and arm.best else {}
            asked.append(search.trials(arm.contender.arm, plan, number, box, arm.tried, arm.contender.whole))
        what = f"round {number + 1} of {plan.zoom + 1}" if plan.zoom else "trials"
        _round(found, asked, plan, train, what)
        for arm in found:
            arm.choose(plan)
    return found


def shortened(plan: Plan, found: Sequence[Tuned]) -> Plan:
    """The plan without the rounds that were left out."""
    counts = list(itertools.accumulate(search.per_round(plan.trials, plan.zoom)))
    had = {counts.index(len(arm.tried)) for arm in found} if plan.tuned else {plan.zoom}
    (zoom,) = had  # every arm has the same
    return plan if zoom == plan.zoom else replace(plan, trials=counts[zoom], zoom=zoom)


def _round(found: Sequence[Tuned], asked: Sequence[list[tuple]], plan: Plan, train: Train, what: str) -> None:
    """Train these settings of each arm on the tune seeds; with halving, to the end those alone that are ahead."""
    looks = search.halvings(found[0].contender.config.epochs, plan.halving)
    alive = [list(settings) for settings in asked]
    for arm, settings in zip(found, asked, strict=True):
        arm.tried += settings
    for number, epochs in enumerate(looks):
        jobs = [(i, s, seed) for i, settings in enumerate(alive) for s in settings for seed in plan.tune_seeds]
        words = what if len(looks) == 1 else f"{what}, to epoch {epochs}"
        scores = train(words, [found[i].contender.at(s, seed, epochs) for i, s, seed in jobs])
        seen: list[dict[tuple, dict[int, float]]] = [{} for _ in found]
        for (i, s, seed), score in zip(jobs, scores, strict=True):
            if score is not None:
                seen[i].setdefault(s, {})[seed] = score
        if number + 1 == len(looks):
            for arm, own in zip(found, seen, strict=True):
                arm.scores |= own
        else:
            keep = [search.kept(len(s), plan.halving, len(looks))[number + 1] for s in asked]
            alive = [ahead(own, count, plan.tune_seeds) for own, count in zip(seen, keep, strict=True)]


def ahead(scores: Mapping[tuple, Mapping[int, float]], count: int, seeds: Sequence[int]) -> list[tuple]:
    """The `count` settings of the highest mean scores; of equal ones the smaller. One without a score is behind."""
    full = {
        setting: math.fsum(row[s] for s in seeds) for setting, row in scores.items() if all(s in row for s in seeds)
    }
    return sorted(full, key=lambda setting: (-full[setting], *_order(setting)))[:count]


def _order(setting: tuple) -> tuple[Any, ...]:
    return tuple((isinstance(value, str), value) for value in setting)


def confirm(found: Sequence[Tuned], plan: Plan, train: Train) -> None:
    """Every arm's chosen setting on the seeds that are reported, and all at their baseline's learning rate."""
    settled = [(arm.contender, arm.best) for arm in found if arm.best is not None]
    settled += at_the_baselines(found)
    # seed by seed: where the time ends first, what there is are pairs
    configs = [contender.at(setting, seed) for seed in plan.seeds for contender, setting in settled]
    if configs:
        train("confirmation on fresh seeds", configs)


def at_the_baselines(found: Sequence[Tuned]) -> list[tuple[Contender, tuple]]:
    """What is trained for the second ratio, `at the same learning rate`: a variant's own best setting, but with the
    optimizer's tuned settings as the baseline has them best. Only for arms of one optimizer, tuned in the same keys:
    a learning rate of sgd is not one of adam.
    """
    more = []
    for base, variant in contrasts(found):
        keys = [[key for key in arm.contender.arm.tuned if key.startswith("optimizer.")] for arm in (base, variant)]
        same = base.contender.config.optimizer["name"] == variant.contender.config.optimizer["name"]
        if base.best is None or variant.best is None or not same or keys[0] != keys[1]:
            continue
        rates = dict(zip(base.contender.arm.tuned, base.best, strict=True))
        own = zip(variant.contender.arm.tuned, variant.best, strict=True)
        setting = tuple(rates[key] if key in keys[0] else value for key, value in own)
        if setting != variant.best:
            more.append((variant.contender, setting))
    return more


def contrasts(found: Sequence[Tuned]) -> list[tuple[Tuned, Tuned]]:
    """(baseline, variant) as the report finds them by itself: arms that differ in one key, the baseline's value first
    in its order.
    """
    choices = [dict(arm.contender.arm.choices) for arm in found]
    varied = [k for k in dict.fromkeys(k for c in choices for k in c) if len({c.get(k) for c in choices}) > 1]
    varied = [key for key in varied if "." not in key] or varied
    if not varied:
        return []
    key = min(varied, key=lambda k: BASELINES.index(k) if k in BASELINES else len(BASELINES))
    first = min((c[key] for c in choices if key in c), key=lambda value: natural([value]))
    pairs = []
    for base, own in zip(found, choices, strict=True):
        for variant, other in zip(found, choices, strict=True):
            if own.get(key) == first != other.get(key) and _apart_from(key, own) == _apart_from(key, other):
                pairs.append((base, variant))
    return pairs


def _apart_from(key: str, choices: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in choices.items() if k != key and not k.startswith(f"{key}.")}


def extra(contenders: Sequence[Contender]) -> list[bool]:
    """Whether an arm will be trained at its baseline's learning rate, too, as far as that is known beforehand."""
    fake = [Tuned(c, best=tuple(range(i, i + len(c.arm.tuned)))) for i, c in enumerate(contenders)]
    too = [contender for contender, _ in at_the_baselines(fake)]
    return [any(contender is other for other in too) for contender in contenders]
