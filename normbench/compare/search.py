"""Which settings are tried: points of the unit cube, the same for every arm, scaled to each arm's ranges. Pure.

The points come from the study's seed, so that arms differ in nothing but what is compared: common random numbers.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from normbench.compare.space import Box, setting
from normbench.config import ConfigError
from normbench.plan import Arm, Plan

METHODS = ("quasirandom", "random", "grid")
SHRINK = 4  # a further round searches a quarter of each range, round the best: half of what 8 trials leave open
FRUITLESS = 200  # points that give nothing new, until the whole ranges are searched again


def per_round(trials: int, zoom: int) -> list[int]:
    """How many of the trials each round gets; what is left over goes to the first."""
    each, left = divmod(trials, zoom + 1)
    return [each + left, *[each] * zoom]


def points(plan: Plan, number: int, dims: int) -> Iterator[Sequence[float]]:
    """Points of [0, 1)^dims for round `number`, without end.

    quasirandom: Halton's sequence, shifted by a random vector modulo 1 (Cranley & Patterson 1976): even for any
    number of points, where Sobol's is for powers of two alone.
    """
    rng = np.random.default_rng([plan.search_seed, number])
    if plan.search == "random":
        while True:
            yield rng.random(dims).tolist()
    from scipy.stats import qmc  # half a second

    shift, sequence = rng.random(dims), qmc.Halton(dims, scramble=False)
    while True:
        yield from ((sequence.random(64) + shift) % 1).tolist()


def trials(
    arm: Arm, plan: Plan, number: int, box: Box, tried: Collection[tuple], whole: Mapping[str, bool]
) -> list[tuple]:
    """The settings of an arm in one round, none of them tried before.

    Args:
        number: of the round, from 0.
        box: what is searched in it; empty: all.
        whole: keys whose values are whole numbers.

    Raises:
        ConfigError: the ranges hold fewer different settings than there are trials.
    """
    count = per_round(plan.trials, plan.zoom)[number]
    if not arm.tuned:
        return [()]
    if plan.search == "grid":
        return _grid(arm, plan, whole)
    keys, found = plan.tuned, list[tuple]()
    seen = set(tried)
    for where in (box, {}):  # a box can be too narrow for so many values of three digits
        fruitless = 0
        for point in points(plan, number, len(keys)):
            if len(found) == count or fruitless > FRUITLESS * count:
                break
            new = setting(arm, keys, where, point, whole)
            fruitless = fruitless + 1 if new in seen else 0
            if new not in seen:
                found.append(new)
                seen.add(new)
    if len(found) < count:
        _refuse_too_few(arm, plan, len(seen))
    return found


def _refuse_too_few(arm: Arm, plan: Plan, there: int) -> None:
    choices = " ".join(f"{key}={value}" for key, value in arm.choices.items())
    raise ConfigError(
        f"trials={plan.trials}: the ranges of {choices} hold only {there} different settings; "
        f"type trials={there} zoom=0, or wider ranges"
    )


# ---------------------------------------------------------------------------------------------------------------- grid


def _grid(arm: Arm, plan: Plan, whole: Mapping[str, bool]) -> list[tuple]:
    """Every combination of evenly spaced values, both ends among them; of listed values all."""
    listed, spans = math.prod(map(len, arm.values.values())), len(arm.ranges)
    side = round((plan.trials / listed) ** (1 / spans)) if spans else 1
    if listed * side**spans != plan.trials:
        most = listed * max(2, side) ** spans
        raise ConfigError(
            f"search=grid needs as many trials as a grid of {len(arm.tuned)} settings has, got trials={plan.trials}; "
            f"type trials={most}, or search=quasirandom, which takes any number"
        )
    axes = []
    for key in arm.tuned:
        n = len(arm.values.get(key, range(side)))
        ends = key not in arm.values and n > 1  # of listed values each is met in its middle
        axes.append([i / (n - 1) if ends else (i + 0.5) / n for i in range(n)])
    found = [setting(arm, arm.tuned, {}, point, whole) for point in itertools.product(*axes)]
    if len(set(found)) < len(found):
        _refuse_too_few(arm, plan, len(set(found)))
    return found


# ---------------------------------------------------------------------------------------------------------------- zoom


def shrunk(arm: Arm, best: Sequence, number: int) -> dict[str, tuple[float, float]]:
    """The box of round `number` >= 1: 1 / SHRINK^number of each range, round the best, inside the range."""
    width = SHRINK**-number
    box = {}
    for span, value in zip(arm.ranges, best, strict=False):
        low = min(max(span.place(value) - width / 2, 0.0), 1.0 - width)
        box[span.key] = (low, low + width)
    return box


def halvings(epochs: int, factor: int) -> list[int]:
    """Where successive halving looks: epochs / factor^2, epochs / factor and epochs, as far as they are different."""
    if not factor:
        return [epochs]
    return sorted({max(1, round(epochs / factor**k)) for k in range(3)})


def kept(count: int, factor: int, looks: int) -> list[int]:
    """How many settings are trained on to each of the looks, of `count` at the first."""
    return [max(1, math.ceil(count / factor**k)) if factor else count for k in range(looks)]
