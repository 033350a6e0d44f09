"""Numbers from the lines that scripts/benchmark.py measured; pure.

A line is one round: {part, model, quick, round, workload, results: {who: what}, machine, load, at}.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

Line = Mapping[str, Any]
OURS = "normbench"
MARGIN = 0.003  # accuracies are called equal if the interval of their difference is inside
WIDEST = 0.1  # an interval that tells anything
NOTHING_TO_SAY = "too few runs: nothing to say"


def chosen(lines: Sequence[Line], part: str, model: str) -> list[Line]:
    """The rounds of this part and model; where the workload was changed, those of the last one."""
    its = [line for line in lines if (line["part"], line["model"]) == (part, model)]
    return [line for line in its if line["workload"] == its[-1]["workload"]]


def models(lines: Sequence[Line], part: str) -> list[str]:
    return list(dict.fromkeys(line["model"] for line in lines if line["part"] == part))


def everybody(lines: Iterable[Line]) -> list[str]:
    """In the order of the results, ours first."""
    found = dict.fromkeys(who for line in lines for who in line["results"])
    return sorted(found, key=lambda who: not who.startswith(OURS))


def values(lines: Sequence[Line], who: str, key: str) -> list[float]:
    found = (line["results"].get(who, {}).get(key) for line in lines)
    return [value for value in found if value is not None]


def ratios(lines: Sequence[Line], ours: str, who: str, key: str) -> list[float]:
    """Round by round, how many times as fast ours is; key: samples_per_s or wall_s."""
    pairs = [(line["results"].get(ours, {}).get(key), line["results"].get(who, {}).get(key)) for line in lines]
    return [b / a if key == "wall_s" else a / b for a, b in pairs if a and b]


def difference(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Mean of theirs minus ours in percentage points, its 95 % interval (Welch) and what follows."""
    if min(len(theirs), len(ours)) < 2:
        return NOTHING_TO_SAY
    from scipy import stats

    found: Any = stats.ttest_ind(theirs, ours, equal_var=False)
    low, high = found.confidence_interval(0.95)
    if math.isnan(low):  # both without any spread
        low = high = fmean(theirs) - fmean(ours)
    if high - low > WIDEST:
        return NOTHING_TO_SAY
    if low >= -MARGIN and high <= MARGIN:
        verdict = "equal"
    elif low > 0 or high < 0:
        verdict = "DIFFERENT"
    else:
        verdict = "not shown to be equal"
    return f"{100 * (fmean(theirs) - fmean(ours)):+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]: {verdict}"


# --------------------------------------------------------------------------------------------------------- sweeps


@dataclass(frozen=True)
class Fit:
    """wall = a + b R, by least squares; `off` is the largest relative distance of a measured point."""

    a: float
    b: float
    off: float

    def at(self, runs: float) -> float:
        return self.a + self.b * runs


def fit(points: Mapping[int, float]) -> Fit | None:
    """Through at least two numbers of runs; through one, nothing."""
    if len(points) < 2:
        return None
    runs, walls = np.array(list(points)), np.array(list(points.values()))
    b, a = np.polyfit(runs, walls, 1)
    return Fit(float(a), float(b), float(np.max(np.abs((a + b * runs) / walls - 1))))


def points_of(line: Line, who: str) -> dict[int, float]:
    """Wall seconds by the number of runs."""
    result = line["results"].get(who, {})
    return {int(runs): its["wall_s"] for runs, its in result.items() if isinstance(its, dict)}


def wall_at(points: Mapping[int, float], runs: int) -> float | None:
    """Measured, or else read off the line through what was measured."""
    line = fit(points)
    return points.get(runs) or (line.at(runs) if line else None)


def largest(lines: Sequence[Line]) -> int:
    return max((runs for line in lines for who in line["results"] for runs in points_of(line, who)), default=0)


def fastest(lines: Sequence[Line], runs: int) -> str | None:
    """Which of our engines takes the least time, by the median."""
    walls = {
        who: [w for line in lines if (w := wall_at(points_of(line, who), runs))]
        for who in everybody(lines) if who.startswith(OURS)
    }  # fmt: skip
    return min((who for who in walls if walls[who]), key=lambda who: median(walls[who]), default=None)


def sweep_ratios(lines: Sequence[Line], ours: str, who: str, runs: int) -> list[float]:
    pairs = [(wall_at(points_of(line, ours), runs), wall_at(points_of(line, who), runs)) for line in lines]
    return [b / a for a, b in pairs if a and b]


def accuracies(lines: Sequence[Line], who: str) -> list[float]:
    """Of the largest sweep of one round: seeds 0, 1, ... are the same in every round."""
    found = [
        its["test_acc"] for line in lines for its in line["results"].get(who, {}).values() if isinstance(its, dict)
    ]
    return max(found, key=len, default=[])
