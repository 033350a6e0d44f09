"""Estimates, intervals and tests of the report. Pure: numbers in, numbers out.

The unit of replication is a seed; arms that share seeds are compared pair by pair. Headline intervals are t
intervals, on differences for accuracy and loss and on log-ratios for times: with 3 to 10 seeds a percentile or BCa
bootstrap of 95 % covers 75 to 90 % (tests/test_coverage.py measures what these here cover). Below FEWEST values there
is no interval and no p value: they are NaN.

An arm is a mapping seed -> value. Failures must have been scored before (`selection.scored_accuracy`): nothing here
drops a value, and a non-finite one is refused.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit, ndtri

from normbench.report.planning import FEWEST, LEVEL, half_width, t_quantile
from normbench.report.pvalue import ROUNDING, sign_flip, sign_flip_floor, t_test

NEAR_ONE = 0.97  # mean accuracy above which the interval is made on the logit scale
# SD floor, in steps of the grid that the values lie on (1 / n_test for an accuracy). Equal differences on a coarse
# grid do not mean that seeds agree: at n = 3 and a true SD of half a step all are equal in 27 % of cases. Half a step
# is the least of 0, 0.29, 0.5, 0.75, 1 at which the paired interval covers its 95 % for n = 3, 5 and 6 at every SD.
FLOOR_STEPS = 0.5

# Where k seeds choose the setting of an arm and others might have chosen another, that choice is a part of what varies:
# the plain interval tells identical arms apart in up to 30 % of cases (tests/test_coverage.py). Its variance, 1 / n,
# becomes 1 / n + 1 / k, as for any training on other folds (Nadeau & Bengio 2003); with leave-one-seed-out k = n - 1.

Arm = Mapping[int, float]
WIDENED = "widened, since other seeds might have chosen another setting"


@dataclass(frozen=True)
class Interval:
    """An estimate with an interval; `low` and `high` are NaN where n < FEWEST. `method` is for captions."""

    estimate: float
    low: float
    high: float
    n: int
    method: str
    level: float = LEVEL


@dataclass(frozen=True)
class Effect:
    """Variant (b) against baseline (a): all that a row of comparisons.csv tells in numbers.

    kind: "difference", b - a in the metric's unit; "ratio", geometric mean of a / b, above 1 where b is the faster.
    sd: of the per-seed differences or log-ratios before the floor; NaN where seeds are not shared.
    wins: pairs in which b is the better one. left_out: seeds that only one arm has.
    bound: "low" where the true ratio is at least the estimate (a was censored), "high" where it is at most.
    chosen_by: seeds that chose, where others might have chosen otherwise and the interval is wider; else 0.
    refused: why there is no estimate, a sentence without its period; "" where there is one.
    resolution: coarseness of a time, evaluation interval / time to target; of an accuracy, 1 / n_test.
    """

    kind: str
    interval: Interval
    paired: bool = True
    n_a: int = 0
    n_b: int = 0
    sd: float = math.nan
    corr: float = math.nan
    p: float = math.nan
    p_exact: float = math.nan
    p_exact_floor: float = math.nan
    wins: int = 0
    left_out: int = 0
    censored_a: int = 0
    censored_b: int = 0
    bound: str = ""
    resolution: float = 0.0
    chosen_by: int = 0
    refused: str = ""


# ------------------------------------------------------------------------------------------------------------- one arm


def mean(values: Iterable[float]) -> Interval:
    """Arithmetic mean with mean ± t(n - 1) SD / sqrt(n)."""
    return _t_interval(_finite(values), 0.0)[0]


def accuracy_mean(values: Iterable[float], n_images: int) -> Interval:
    """Mean accuracy; above NEAR_ONE its t interval is made on logit(accuracy), so that it stays below 1.

    There an accuracy of 0 or 1 counts as half an image short of it. The estimate is the arithmetic mean throughout.
    """
    x = _finite(values)
    if ((x < 0) | (x > 1)).any():
        raise ValueError(f"accuracies must be fractions in [0, 1], given {x.min():g} to {x.max():g}")
    plain = mean(x)
    if len(x) < FEWEST or plain.estimate <= NEAR_ONE:
        return plain
    half = 0.5 / n_images
    inner = mean(logit(np.clip(x, half, 1 - half)))
    low, high = float(expit(inner.low)), float(expit(inner.high))
    return Interval(plain.estimate, min(low, plain.estimate), max(high, plain.estimate), len(x), "t on logit")


def median(values: Iterable[float]) -> Interval:
    """Median with the narrowest symmetric order-statistic interval of at least LEVEL, else [min, max].

    `level` is the true one, 1 - 2 P(Binomial(n, 1/2) < k) for [x_(k), x_(n + 1 - k)]: .75, .875, .9375 for the whole
    range of 3, 4, 5 values. Infinite values (never reached) are taken; NaN is refused.
    """
    x = np.sort(_array(values))
    if not len(x) or np.isnan(x).any():
        raise ValueError("a median needs at least one value and no NaN; score failures first")
    n = len(x)
    middle = float(x[n // 2]) if n % 2 or x[n // 2 - 1] == x[n // 2] else float(x[n // 2 - 1] + x[n // 2]) / 2
    if n < FEWEST:
        return Interval(middle, math.nan, math.nan, n, f"none: {n} values", math.nan)
    k, level = _order_statistic(n)
    return Interval(middle, float(x[k - 1]), float(x[n - k]), n, "order statistics", level)


@lru_cache(maxsize=4096)
def _order_statistic(n: int) -> tuple[int, float]:
    """The k of the narrowest interval of at least LEVEL, or 1, and its true level."""
    below, k = 1, 1  # of the 2^n equally likely ways, those with fewer than k values under the median
    while 1 - 2 * (below + math.comb(n, k)) / 2**n >= LEVEL:
        below, k = below + math.comb(n, k), k + 1
    return k, 1 - 2 * below / 2**n


def proportion(k: int, n: int) -> Interval:
    """The share k of n (runs that finished, runs that reached the target) with Wilson's interval."""
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"a share needs 0 <= k <= n and n >= 1, given k={k}, n={n}")
    z = float(ndtri(0.5 + LEVEL / 2))
    middle = (k + z * z / 2) / (n + z * z)
    half = z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    # at its ends the interval is closed: rounding must not take the end away
    return Interval(k / n, middle - half if k else 0.0, middle + half if k < n else 1.0, n, "Wilson")


def summary(metric: str, values: Iterable[float], *, n_ok: int, n_images: int | None = None) -> dict[str, Any]:
    """The columns of summary.csv after the setting's own, in order; `n_ok` of the scored values are of finished runs.

    `n_images` (of the split) where the values are accuracies.
    """
    x = _finite(values)
    interval = mean(x) if n_images is None else accuracy_mean(x, n_images)
    sd = _sd(x, _size(x))
    low, high, method = interval.low, interval.high, interval.method
    spread = {"mean": interval.estimate, "sd": sd, "sem": sd / math.sqrt(len(x))}
    spread |= {"ci_low": low, "ci_high": high, "ci_method": method}
    ranks = {"median": median(x).estimate, "min": float(x.min()), "max": float(x.max())}
    return {"metric": metric, "n": len(x), "n_ok": n_ok, **spread, **ranks}


def binomial_se(accuracy: float, n_images: int) -> float:
    """sqrt(p (1 - p) / n): what a finite test set alone adds. Arms share it; seeds do not shrink it."""
    return math.sqrt(accuracy * (1 - accuracy) / n_images)


# ------------------------------------------------------------------------------------------------------------ two arms


def difference(
    a: Arm, b: Arm, *, paired: bool = True, lower_is_better: bool = False, resolution: float = 0,
    reselected: int = 0, coarse: bool = False,
) -> Effect:  # fmt: skip
    """Variant minus baseline, b - a: mean of the per-seed differences with the paired t interval.

    Welch's interval where `paired` is False. Whether seeds pair up is declared by the caller, never read off the
    result. `resolution`: the grid of the values, 1 / n_test for accuracies (see FLOOR_STEPS), 0 for losses.
    `reselected`: the number of seeds that chose, as `selection.reselected` says, or 0; above 0 the interval is wider,
    and there is no exact p. `coarse`: equal values do not mean that nothing differs, as the ends of a range that is
    known to a step of the grid; the floor then holds for them, too.
    """
    kind, floor = "difference", FLOOR_STEPS * resolution
    if paired:
        effect = _paired(kind, a, b, floor, lower_is_better, coarse=coarse)
    else:
        effect = _welch(kind, a, b, floor, reselected)
    return replace(_widened(effect, reselected), resolution=resolution)


def ratio(a: Arm, b: Arm, *, paired: bool = True, floor: float = 0, reselected: int = 0, exact: bool = True) -> Effect:
    """Geometric mean of a / b over seeds, exp(mean log), with the t interval of the logs, exp'd.

    Values must be above 0. `floor`: the least SD of a log-ratio that is believed. `sd`, `p` and `corr` are of the logs.
    `reselected`: as for `difference`. `exact`: whether to work out the exact p, the slowest of all.
    """
    for seed, value in [*a.items(), *b.items()]:
        if not value > 0:
            raise ValueError(f"a ratio needs values above 0, given {value!r} for seed {seed}")
    # negated, so that their difference b - a is log(a / b)
    logs_a, logs_b = ({seed: -math.log(value) for seed, value in arm.items()} for arm in (a, b))
    if paired:
        effect = _widened(_paired("ratio", logs_a, logs_b, floor, exact=exact), reselected)
    else:
        effect = _welch("ratio", logs_a, logs_b, floor, reselected)
    i = effect.interval
    ends = {"low": math.exp(i.low), "high": math.exp(i.high)}
    return replace(effect, interval=replace(i, estimate=math.exp(i.estimate), **ends, method=f"{i.method} on logs"))


def interaction(a_off: Arm, a_on: Arm, b_off: Arm, b_on: Arm, *, resolution: float = 0) -> Effect:
    """(b_on - b_off) - (a_on - a_off) per seed, paired t: does switching `on` help b more than it helps a?"""
    seeds = set(a_off) & set(a_on) & set(b_off) & set(b_on)
    everywhere = set(a_off) | set(a_on) | set(b_off) | set(b_on)
    gain_a, gain_b = ({s: on[s] - off[s] for s in seeds} for off, on in ((a_off, a_on), (b_off, b_on)))
    size = max((abs(x) for arm in (a_off, a_on, b_off, b_on) for x in arm.values()), default=0.0)
    effect = _paired("difference", gain_a, gain_b, FLOOR_STEPS * resolution, size=size)
    return replace(effect, left_out=len(everywhere - seeds), resolution=resolution)


def _paired(
    kind: str, a: Arm, b: Arm, floor: float, lower_is_better: bool = False, size: float = 0, exact: bool = True,
    coarse: bool = False,
) -> Effect:  # fmt: skip
    seeds = sorted(set(a) & set(b))
    x, y = _finite([a[s] for s in seeds], 0), _finite([b[s] for s in seeds], 0)
    size = max(size, _size(x), _size(y))
    d = np.where(abs(y - x) <= ROUNDING * size, 0.0, y - x)
    interval, p = _t_interval(d, floor, size, coarse)
    least = sign_flip_floor(len(d)) if len(d) >= FEWEST else math.nan
    return Effect(
        kind, interval, True, len(a), len(b),
        sd=_sd(d, size), corr=correlation(x, y), p=p,
        p_exact=sign_flip(d) if exact else math.nan, p_exact_floor=least,
        wins=int((d < 0).sum() if lower_is_better else (d > 0).sum()),
        left_out=len(set(a) ^ set(b)),
    )  # fmt: skip


def _widened(effect: Effect, chosen_by: int) -> Effect:
    """The paired interval of reselected arms; see above. Welch's has it already."""
    i = effect.interval
    if not effect.paired or i.n < FEWEST or not chosen_by:
        return effect
    factor = math.sqrt(1 + i.n / chosen_by)
    half = factor * (i.high - i.low) / 2
    p = t_test(i.estimate, half / half_width(1, i.n) / math.sqrt(i.n), i.n - 1)
    method = f"{i.method}, {WIDENED}"
    wide = replace(i, low=i.estimate - half, high=i.estimate + half, method=method)
    return replace(effect, interval=wide, p=p, p_exact=math.nan, p_exact_floor=math.nan, chosen_by=chosen_by)


def _welch(kind: str, a: Arm, b: Arm, floor: float, chosen_by: int = 0) -> Effect:
    x, y = _finite(a.values(), 0), _finite(b.values(), 0)
    n = min(len(x), len(y))
    middle = float(y.mean() - x.mean()) if n else math.nan
    if n < FEWEST:
        return Effect(kind, Interval(middle, math.nan, math.nan, n, f"none: {n} values"), False, len(x), len(y))
    size = max(_size(x), _size(y))
    middle = 0.0 if abs(middle) <= ROUNDING * size else middle
    # each arm carries half the variance of the floor, as its values carry half the rounding
    least = 0.0 if middle == 0 and _sd(np.r_[x, y], size) == 0 else floor / math.sqrt(2)
    u, v = (max(_sd(z, size), least) ** 2 / len(z) for z in (x, y))
    se = math.sqrt(u + v)
    # with no spread at all the degrees of freedom do not matter
    df = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1)) if se else n - 1
    more = (u * len(x) + v * len(y)) / chosen_by if chosen_by else 0.0
    se = math.sqrt(u + v + more)
    half = t_quantile(df) * se
    interval = Interval(middle, middle - half, middle + half, n, f"Welch t, {WIDENED}" if chosen_by else "Welch t")
    return Effect(kind, interval, False, len(x), len(y), p=t_test(middle, se, df), chosen_by=chosen_by)


def correlation(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Pearson's, between arms over seeds; NaN below FEWEST pairs or where an arm does not vary.

    Pairing beats Welch above .58, .31, .14 for 3, 5, 10 seeds.
    """
    u, v = np.asarray(x, float), np.asarray(y, float)
    if len(u) < FEWEST or 0 in (_sd(u, _size(u)), _sd(v, _size(v))):
        return math.nan
    u, v = ((z - z.mean()) / np.linalg.norm(z - z.mean()) for z in (u, v))
    return float(np.clip(u @ v, -1, 1))


# -------------------------------------------------------------------------------------------------------------- inside


def _finite(values: Iterable[float], fewest: int = 1) -> np.ndarray:
    x = _array(values)
    if len(x) < fewest or not np.isfinite(x).all():
        raise ValueError(f"needs at least {fewest} values, all finite, given {x.tolist()}; score failures first")
    return x


def _array(values: Iterable[float]) -> np.ndarray:
    return np.asarray(values if isinstance(values, np.ndarray | pd.Series) else list(values), float)


def _size(x: np.ndarray) -> float:
    return float(abs(x).max(initial=0.0))


def _sd(x: np.ndarray, size: float) -> float:
    """SD, n - 1 in the denominator; exactly 0 where the values differ by rounding alone; NaN below two."""
    if len(x) < 2:
        return math.nan
    return 0.0 if np.ptp(x) <= ROUNDING * size else float(x.std(ddof=1))


def _t_interval(x: np.ndarray, floor: float, size: float = 0, coarse: bool = False) -> tuple[Interval, float]:
    """Mean with its t interval, and the p of mean 0. No floor applies where every value is 0, unless they are `coarse`:
    nothing differs.
    """
    n, middle = len(x), float(x.mean()) if len(x) else math.nan
    if n < FEWEST:
        return Interval(middle, math.nan, math.nan, n, f"none: {n} values"), math.nan
    sd = _sd(x, max(size, _size(x)))
    sd = max(sd, floor) if x.any() or coarse else 0.0
    half = half_width(sd, n)
    return Interval(middle, middle - half, middle + half, n, "t"), t_test(middle, sd / math.sqrt(n), n - 1)
