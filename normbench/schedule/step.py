"""Decay in steps."""

from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise

from normbench.schedule import Row, Schedule, require

__all__ = ["Step"]


class Step(Schedule):
    """gamma^k, k the milestones that the share of the steps after the warm-up has reached.

    Args:
        steps_per_epoch: to turn epochs into steps.
        warmup_epochs: length of the linear warm-up, >= 0.
        scales: what the factor multiplies: lr, weight_decay, momentum.
        milestones: where it falls, as shares of the steps after the warm-up, rising, in (0, 1).
        gamma: what it is multiplied by at each of them, in (0, 1].

    Raises:
        ValueError: warmup_epochs, scales, milestones or gamma can't be.

    Source:
        He et al. 2015, arXiv 1512.03385, section 4.2: divided by 10 after 32,000 and 48,000 of 64,000 steps.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        warmup_epochs: float = 0.0,
        scales: Sequence[str] = ("lr",),
        milestones: Sequence[float] = (0.5, 0.75),
        gamma: float = 0.1,
    ):
        super().__init__(steps_per_epoch, warmup_epochs, scales)
        rising = all(a < b for a, b in pairwise(milestones))
        holds = len(milestones) > 0 and rising and all(0 < m < 1 for m in milestones)
        require("milestones", list(milestones), holds, "one or more rising numbers in (0, 1)", "[0.5,0.75]")
        require("gamma", gamma, 0 < gamma <= 1, "in (0, 1]", "0.1")
        self.milestones, self.gamma = tuple(milestones), gamma

    def decay(self, step: int, steps: int, history: Sequence[Row]) -> float:
        return self.gamma ** bisect(self.milestones, step / steps)
