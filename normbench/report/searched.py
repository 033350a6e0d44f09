"""What different ways of searching would have found in a table of runs: searches are drawn anew from it. Pure.

The runs are a table over the values (levels) of one or two settings, every one of them trained. A search is `trials`
places of it; what it finds is the place with the highest final validation accuracy, and what that is worth is the test
accuracy of the same run. A number a seed: the mean over REPEATS searches, drawn from a stream of their own.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from normbench.claim import Question
from normbench.report.state import ACCURACY_MARGIN
from normbench.report.study import Refused

REPEATS = 500
TRIALS = 16
Levels = list[np.ndarray]  # of each setting, rising
Place = tuple[int, ...]  # the number of a level of each setting
Worth = Callable[[Place], float]  # validation accuracy


class Incomplete(ValueError):
    """The table can't be searched; the message says what it lacks."""


def margin(question: Question) -> float:
    """The smallest difference of what is found that matters."""
    return question.margin or ACCURACY_MARGIN


def sides(question: Question, runs: pd.DataFrame) -> tuple[dict[int, float], dict[int, float]]:
    """What the two ways of a question find. along: the settings, with spaces between; where: trials=N.

    Raises:
        Refused: these can't be searched so.
    """
    try:
        n = trials(question)
        of, than = (accuracy(runs, question.along.split(), way, n) for way in (question.of, question.than))
    except ValueError as error:
        raise Refused(f"found: {error}") from None
    return of, than


def trials(question: Question) -> int:
    """How many settings the searches try that the question is about."""
    return int(dict(part.split("=", 1) for part in question.where).get("trials", TRIALS))


def accuracy(runs: pd.DataFrame, keys: Sequence[str], way: str, trials: int) -> dict[int, float]:
    """Seed -> mean test accuracy of what searches of this way find.

    runs: keys, seed, score and test_score. way: of WAYS.

    Raises:
        Incomplete: a key that was not varied, an unknown way, or more trials than places.
    """
    if way not in WAYS:
        raise Incomplete(f"of and than must be one of {', '.join(WAYS)}, given {way!r}")
    if missing := [key for key in keys if key not in runs]:
        raise Incomplete(f"{missing[0]} must be among the tuned settings; type it after --tune")
    levels = [np.array(sorted(set(runs[key].astype(float)))) for key in keys]
    if trials < 2:
        raise Incomplete(f"trials must be at least 2, given {trials}")
    found = {}
    for seed, own in runs.groupby("seed"):
        at = [np.searchsorted(level, own[key].astype(float)) for key, level in zip(keys, levels, strict=True)]
        score = {tuple(map(int, place)): value for *place, value in zip(*at, own["score"], strict=True)}
        test = {tuple(map(int, place)): value for *place, value in zip(*at, own["test_score"], strict=True)}
        if len(score) == math.prod(map(len, levels)):
            draws = np.random.Generator(np.random.PCG64(0))  # the same stream for every seed: they stay pairs
            best = [
                max(WAYS[way](draws, levels, trials, score.__getitem__), key=score.__getitem__) for _ in range(REPEATS)
            ]
            found[int(str(seed))] = math.fsum(test[place] for place in best) / REPEATS
    return found


def _random(draws: np.random.Generator, levels: Levels, trials: int, worth: Worth) -> list[Place]:
    """Different places, each as likely: random search on the scale on which the levels are even."""
    shape = [len(level) for level in levels]
    if trials > math.prod(shape):
        raise Incomplete(f"trials must be at most {math.prod(shape)}, the places that were tried, given {trials}")
    numbers = draws.choice(math.prod(shape), trials, replace=False)
    return [tuple(map(int, place)) for place in zip(*np.unravel_index(numbers, shape), strict=True)]


def _grid(draws: np.random.Generator, levels: Levels, trials: int, worth: Worth) -> list[Place]:
    """The same number of evenly spaced levels of every setting, moved together by a random share of their distance."""
    each = round(trials ** (1 / len(levels)))
    if each ** len(levels) != trials:
        raise Incomplete(f"trials of a grid must be a number to the power of {len(levels)}, given {trials}")
    axes = [((np.arange(each) + draws.random()) / each * len(level)).astype(int) for level in levels]
    return [tuple(map(int, place)) for place in zip(*(m.ravel() for m in np.meshgrid(*axes)), strict=True)]


def _linear(draws: np.random.Generator, levels: Levels, trials: int, worth: Worth) -> list[Place]:
    """The levels nearest to values that are uniform between the smallest and the largest; some come twice."""
    values = [draws.uniform(level[0], level[-1], trials) for level in levels]
    at = [np.abs(level[:, None] - drawn).argmin(0) for level, drawn in zip(levels, values, strict=True)]
    return [tuple(map(int, place)) for place in zip(*at, strict=True)]


def _with_repeats(draws: np.random.Generator, levels: Levels, trials: int, worth: Worth) -> list[Place]:
    """As `_linear`, with every level as likely: uniform on the scale on which they are even."""
    at = [draws.integers(0, len(level), trials) for level in levels]
    return [tuple(map(int, place)) for place in zip(*at, strict=True)]


def _two_rounds(draws: np.random.Generator, levels: Levels, trials: int, worth: Worth) -> list[Place]:
    """Half of the trials anywhere, the rest, where there are so many, new places within a quarter of each range."""
    first = _random(draws, levels, trials // 2, worth)
    best = max(first, key=worth)
    reach = [max(1, round(len(level) / 8)) for level in levels]
    spans = [range(max(0, b - r), min(len(level), b + r + 1)) for b, r, level in zip(best, reach, levels, strict=True)]
    near = [tuple(map(int, place)) for place in zip(*(m.ravel() for m in np.meshgrid(*spans)), strict=True)]
    fresh = [place for place in near if place not in first]
    picked = draws.permutation(len(fresh))[: trials - len(first)]
    return [*first, *(fresh[i] for i in picked)]


WAYS: Mapping[str, Callable[[np.random.Generator, Levels, int, Worth], list[Place]]] = {
    "search=random": _random, "search=grid": _grid, "scale=log": _with_repeats, "scale=linear": _linear,
    "rounds=1": _random, "rounds=2": _two_rounds,
}  # fmt: skip
