"""A constant learning rate."""

from collections.abc import Sequence

from normbench.schedule import Row, Schedule

__all__ = ["Constant"]


class Constant(Schedule):
    """1 after the warm-up.

    Args:
        steps_per_epoch: to turn epochs into steps.
        warmup_epochs: length of the linear warm-up, >= 0.
        scales: what the factor multiplies: lr, weight_decay, momentum.

    Raises:
        ValueError: warmup_epochs or scales can't be.

    Source:
        The warm-up: Goyal et al. 2017, arXiv 1706.02677, section 2.2.
    """

    def decay(self, step: int, steps: int, history: Sequence[Row]) -> float:
        return 1.0
