"""Decay with the inverse of time."""

import math
from collections.abc import Sequence

from normbench.schedule import Row, Schedule, require

__all__ = ["InverseTime"]


class InverseTime(Schedule):
    """1 / (1 + decay_rate e), e the epochs since the warm-up, of which parts count, too.

    Args:
        steps_per_epoch: to turn steps into epochs.
        warmup_epochs: length of the linear warm-up, >= 0.
        scales: what the factor multiplies: lr, weight_decay, momentum.
        decay_rate: in units of 1 / epoch, >= 0; half is left after 1 / decay_rate epochs.

    Raises:
        ValueError: warmup_epochs, scales or decay_rate can't be.

    Source:
        Robbins & Monro 1951, doi 10.1214/aoms/1177729586: the 1/t under which stochastic approximation converges.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        warmup_epochs: float = 0.0,
        scales: Sequence[str] = ("lr",),
        decay_rate: float = 1.0,
    ):
        super().__init__(steps_per_epoch, warmup_epochs, scales)
        require("decay_rate", decay_rate, decay_rate >= 0 and math.isfinite(decay_rate), "a number >= 0", "1")
        self.decay_rate = decay_rate

    def decay(self, step: int, steps: int, history: Sequence[Row]) -> float:
        return 1 / (1 + self.decay_rate * (step / self.steps_per_epoch))
