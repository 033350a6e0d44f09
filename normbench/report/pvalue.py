"""Tests: t, exact sign flip, Holm's adjustment. Pure."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from scipy import special

from normbench.report.planning import FEWEST

ROUNDING = 1e-12  # values that differ by less than this share of their size are equal
ENUMERATED = 16  # pairs up to which every sign pattern is tried; beyond, DRAWS of them are drawn
DRAWS = 100_000


def t_test(middle: float, se: float, df: float) -> float:
    """Two-sided p of an estimate `middle` with standard error `se`; without spread 1 for an estimate of 0, else 0."""
    if se == 0:
        return 1.0 if middle == 0 else 0.0
    return float(2 * special.stdtr(df, -abs(middle) / se))


def sign_flip(differences: Iterable[float]) -> float:
    """Exact two-sided p of the mean under random signs; NaN below FEWEST, 1 where all are 0.

    Beyond ENUMERATED pairs, DRAWS sign patterns from a fixed stream, (hits + 1) / (DRAWS + 1).
    """
    d = np.asarray(list(differences), float)
    if len(d) < FEWEST:
        return math.nan
    seen = abs(d.sum()) - ROUNDING * abs(d).sum()  # patterns that tie with the one seen count
    if len(d) <= ENUMERATED:
        patterns = (np.arange(2 ** (len(d) - 1))[:, None] >> np.arange(len(d))) & 1  # the last sign may stay
        return float((abs((1 - 2 * patterns) @ d) >= seen).mean())
    return float((1 + (abs(_signs(len(d)) @ d) >= seen).sum()) / (DRAWS + 1))


@lru_cache(maxsize=4)
def _signs(n: int) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (DRAWS, n))


def sign_flip_floor(n: int) -> float:
    """2 / 2^n, the least p that n pairs can give: .25, .125, .0625, .031 for 3, 4, 5, 6."""
    return 2.0 ** (1 - n)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given; NaN (no test was made) stays NaN and is not counted."""
    adjusted, worst = [math.nan] * len(p), 0.0
    tested = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    for rank, (value, i) in enumerate(tested):
        worst = max(worst, min(1.0, (len(tested) - rank) * value))
        adjusted[i] = worst
    return adjusted
