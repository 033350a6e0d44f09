"""Cosine decay."""

import math

from normbench.schedule import Schedule

__all__ = ["Cosine"]


class Cosine(Schedule):
    """Half a cosine: final + (1 - final) (1 + cos(pi p)) / 2, p the share of the steps after the warm-up.

    Args:
        steps_per_epoch: to turn epochs into steps.
        warmup_epochs: length of the linear warm-up, >= 0.
        final_factor: the factor at the end, in [0, 1].

    Raises:
        ValueError: final_factor or warmup_epochs out of range.

    Source:
        Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5, without restarts.
    """

    def __init__(self, steps_per_epoch: int, warmup_epochs: float = 0.0, final_factor: float = 0.0):
        super().__init__(steps_per_epoch, warmup_epochs)
        if not 0 <= final_factor <= 1:
            raise ValueError(f"final_factor must be in [0, 1], got {final_factor}; try schedule.final_factor=0")
        self.final_factor = final_factor

    def decay(self, progress: float) -> float:
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * progress)) / 2
