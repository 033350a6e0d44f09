"""Cosine decay."""

import math
from collections.abc import Sequence

from normbench.schedule import Row
from normbench.schedule._final import ToFinal

__all__ = ["Cosine"]


class Cosine(ToFinal):
    """final_factor + (1 - final_factor) (1 + cos(pi p)) / 2, p the share of the steps after the warm-up.

    Args:
        steps_per_epoch: to turn epochs into steps.
        warmup_epochs: length of the linear warm-up, >= 0.
        scales: what the factor multiplies: lr, weight_decay, momentum.
        final_factor: the factor at the end, in [0, 1].

    Raises:
        ValueError: warmup_epochs, scales or final_factor can't be.

    Source:
        Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5, without restarts.
    """

    def decay(self, step: int, steps: int, history: Sequence[Row]) -> float:
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * (step / steps))) / 2
