"""How many seeds a paired comparison needs. Pure."""

import math

from scipy import special  # scipy.stats takes half a second to import

LEVEL = 0.95  # of every interval, unless the interval says otherwise
FEWEST = 3  # values below which there is neither an interval nor a p value


def t_quantile(df: float) -> float:
    """The 0.975 quantile of t with so many degrees of freedom: of an interval of LEVEL, at both ends."""
    return float(special.stdtrit(df, 0.5 + LEVEL / 2))


def half_width(sd: float, n: int) -> float:
    """t(n - 1) SD / sqrt(n), of a paired interval from the SD of differences: 2.48, 1.59, 1.24 SD for n = 3, 4, 5."""
    return t_quantile(n - 1) * sd / math.sqrt(n)


def seeds_needed(sd: float, margin: float, most: int = 10_000) -> int | None:
    """The least n >= FEWEST with half_width(sd, n) <= margin, the SD of differences taken as known; None above `most`.

    That is the precision to tell 0 from `margin`, not a power of 80 %: a true effect of exactly `margin` is then told
    from 0 about every second time. See `power`.
    """
    if not margin > 0 or not sd >= 0:
        raise ValueError(f"margin must be above 0 and sd at least 0, given margin={margin!r}, sd={sd!r}")
    if half_width(sd, most) > margin:
        return None
    low, high = FEWEST, most
    while low < high:  # half_width falls with n
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(sd, middle) <= margin else (middle + 1, high)
    return low


def power(effect: float, sd: float, n: int) -> float:
    """Chance that the paired interval of n pairs excludes 0, for a true mean difference `effect` (noncentral t)."""
    critical, shift = t_quantile(n - 1), effect / sd * math.sqrt(n)
    return float(1 - special.nctdtr(n - 1, shift, critical) + special.nctdtr(n - 1, shift, -critical))
