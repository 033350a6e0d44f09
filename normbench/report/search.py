"""What a search over settings says of itself: expected best, lr sensitivity, usable lr range, importance. Pure."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from normbench.report.selection import scored_loss

WITHIN = 0.01  # an lr is usable if its accuracy is at most this below the best
UNEVEN = 1.5  # largest over smallest step of log lr up to which a grid counts as even


def expected_best(values: Iterable[float]) -> np.ndarray:
    """Expected best of n settings drawn from these N, for n = 1..N: sum_i C(i - 1, n - 1) v_(i) / C(N, n).

    Without replacement, so unbiased (Tang et al. 2020). values: one a setting, its mean over the tune seeds, higher is
    better (negate losses). It holds for random search; for a grid, as if drawn at random from that grid.
    """
    v = np.sort(np.asarray(list(values), float))
    if not len(v) or not np.isfinite(v).all():
        raise ValueError("needs at least one value, all finite; score failures first")
    best_first, count = v[::-1], len(v)
    ranks = np.arange(count - 1, 0, -1)  # i; the best's weight is n / N, and w_i / w_(i + 1) = 1 - (n - 1) / i
    found = [
        n / count * float(best_first @ np.cumprod([1.0, *np.maximum(0, 1 - (n - 1) / ranks)]))
        for n in range(1, count + 1)
    ]
    return np.array(found)


def lr_sensitivity(runs: pd.DataFrame) -> dict[int, float]:
    """Wortsman et al. 2023, per seed: mean over the lr grid of min(loss(lr), initial loss), minus the best of them.

    runs: one row a run with lr, seed, loss (last; NaN where diverged) and initial_loss. Only seeds that have every lr.
    """
    lrs = sorted(set(runs["lr"]))
    steps = np.diff(np.log(lrs))
    if len(lrs) < 3 or max(steps) > UNEVEN * min(steps):
        raise ValueError(f"lr sensitivity needs at least 3 learning rates, even on a log scale, given {lrs}")
    losses = [scored_loss(last, first) for last, first in zip(runs["loss"], runs["initial_loss"], strict=True)]
    found = {}
    for seed in sorted({int(s) for s in runs["seed"]}):
        own = [loss for loss, s in zip(losses, runs["seed"], strict=True) if s == seed]
        if len(own) == len(lrs):
            found[seed] = math.fsum(own) / len(own) - min(own)
    return found


def usable_range(runs: pd.DataFrame, within: float = WITHIN) -> pd.DataFrame:
    """The stretch of learning rates, around the best, whose accuracy is at most `within` below the best; per seed.

    runs: one row a run with lr, seed, score (accuracy, failures scored). Returns seed, low, high, decades =
    log10(high / low), and whether the stretch ends where the grid does (`at_low`, `at_high`: it may be wider).
    """
    lrs = sorted(set(runs["lr"]))
    rows = []
    for seed in sorted({int(s) for s in runs["seed"]}):
        part = runs[runs["seed"] == seed].sort_values("lr")
        rates, scores = part["lr"].to_numpy(float), part["score"].to_numpy(float)
        if len(rates) < len(lrs) or not np.isfinite(scores).all():
            continue
        usable = scores >= scores.max() - within - 1e-12
        first = last = int(scores.argmax())
        while first > 0 and usable[first - 1]:
            first -= 1
        while last + 1 < len(rates) and usable[last + 1]:
            last += 1
        ends = {"at_low": first == 0, "at_high": last == len(rates) - 1}
        low, high = float(rates[first]), float(rates[last])
        rows.append({"seed": seed, "low": low, "high": high, "decades": math.log10(high / low), **ends})
    return pd.DataFrame(rows, columns=["seed", "low", "high", "decades", "at_low", "at_high"])


def importance(runs: pd.DataFrame, settings: Sequence[str], score: str = "score", bins: int = 5) -> pd.DataFrame:
    """How much of the final score's variance each setting explains alone, from a random search.

    A number is cut into `bins` groups of equal counts (its own values where there are no more), a word makes one group
    a value. share = between-group / total sum of squares; chance = (groups - 1) / (n - 1), what a setting without any
    effect explains on average; adjusted = 1 - (1 - share) (n - 1) / (n - groups), 0 on average for such a setting, so
    it can be negative. The rows are sorted by it.

    Limits: main effects alone; a setting that works only together with another counts as nothing. Settings must have
    been drawn independently of each other. It holds for the ranges that were searched: a wider range is more
    important. Diverged runs, scored as guesses, dominate where there are many.
    """
    y = runs[score].to_numpy(float)
    n, total = len(y), float(((y - y.mean()) ** 2).sum())
    if not np.isfinite(y).all():
        raise ValueError("every score must be finite; score failures first")
    rows = []
    for name in settings:
        groups = _groups(runs[name], bins)
        k = len(set(groups))
        if k < 2 or n <= k or total == 0:
            share = adjusted = math.nan
        else:
            means = pd.Series(y).groupby(groups).transform("mean").to_numpy()
            share = float(((means - y.mean()) ** 2).sum()) / total
            adjusted = 1 - (1 - share) * (n - 1) / (n - k)
        chance = (k - 1) / (n - 1) if n > 1 else math.nan
        rows.append(
            {"setting": name, "groups": k, "n": n, "share": share, "chance": chance, "adjusted": adjusted},
        )
    found = pd.DataFrame(rows, columns=["setting", "groups", "n", "share", "chance", "adjusted"])
    return found.sort_values(["adjusted", "setting"], ascending=[False, True], ignore_index=True)


def _groups(values: pd.Series, bins: int) -> np.ndarray:
    """A group's number for each run."""
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if not number or values.nunique() <= bins:
        return pd.factorize(values, sort=False)[0]
    ranks = values.rank(method="average").to_numpy()  # equal values stay together
    return np.minimum(((ranks - 0.5) * bins / len(values)).astype(int), bins - 1)
