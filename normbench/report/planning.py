"""How many seeds a paired comparison needs. Pure."""

import math
from collections.abc import Callable

from scipy import special  # scipy.stats takes half a second to import

LEVEL = 0.95  # of every interval, unless the interval says otherwise
POWER = 0.8  # the usual chance to tell what is there
FEWEST = 3  # values below which there is neither an interval nor a p value


def t_quantile(df: float) -> float:
    """The 0.975 quantile of t with so many degrees of freedom: of an interval of LEVEL, at both ends."""
    return float(special.stdtrit(df, 0.5 + LEVEL / 2))


def half_width(sd: float, n: int, chosen_by: float = math.inf) -> float:
    """t(n - 1) SD / sqrt(n), of a paired interval from the SD of differences: 2.48, 1.59, 1.24 SD for n = 3, 4, 5.

    chosen_by: seeds that chose a setting that others might not have chosen: with sqrt(1 / n + 1 / k), see stats.py.
    """
    return t_quantile(n - 1) * sd * math.sqrt(1 / n + 1 / chosen_by)


def seeds_needed(sd: float, margin: float, most: int = 10_000, chosen_by: float = math.inf) -> int | None:
    """The least n >= FEWEST with half_width(sd, n) <= margin, the SD of differences taken as known; None above `most`.

    That is the precision to tell 0 from `margin`, not a power of 80 %: a true effect of exactly `margin` is then told
    from 0 about every second time. See `power`.
    """
    if not margin > 0 or not sd >= 0:
        raise ValueError(f"margin must be above 0 and sd at least 0, given margin={margin!r}, sd={sd!r}")
    return _least(lambda n: half_width(sd, n, chosen_by) <= margin, most)


def seeds_to_tell(effect: float, sd: float, most: int = 10_000, chosen_by: float = math.inf) -> int | None:
    """The least n >= FEWEST that tells a true difference `effect` from 0 in POWER of all cases; None above `most`."""
    return _least(lambda n: power(effect, sd, n, chosen_by) >= POWER, most)


def _least(enough: Callable[[int], bool], most: int) -> int | None:
    """The least n from FEWEST to `most` that is enough, as all above it are."""
    if not enough(most):
        return None
    low, high = FEWEST, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def power(effect: float, sd: float, n: int, chosen_by: float = math.inf) -> float:
    """Chance that the paired interval of n pairs excludes 0, for a true mean difference `effect` (noncentral t)."""
    critical, shift = t_quantile(n - 1), effect / sd / math.sqrt(1 / n + 1 / chosen_by)
    found = 1 - special.nctdtr(n - 1, shift, critical) + special.nctdtr(n - 1, shift, -critical)
    return 1.0 if math.isnan(found) else float(found)  # some 10 SD beyond the critical t it has no numbers
