"""The contract of a learning-rate schedule: a pure function of the step that gives the factor for the lr."""

import math
from collections.abc import Mapping, Sequence


class Schedule:
    """Base class: a linear warm-up, then `decay` over what is left.

    Step s (from 0) of the warm-up has the factor (s + 1) / warmup_steps, so that the first step is not lost and
    the last one has the factor 1.

    Args:
        steps_per_epoch: to turn epochs into steps.
        warmup_epochs: length of the warm-up, >= 0; 0: none.

    Raises:
        ValueError: warmup_epochs is not a number >= 0.
    """

    def __init__(self, steps_per_epoch: int, warmup_epochs: float = 0.0):
        if not (warmup_epochs >= 0 and math.isfinite(warmup_epochs)):
            raise ValueError(f"warmup_epochs must be a number >= 0, got {warmup_epochs}; try schedule.warmup_epochs=1")
        self.steps_per_epoch = steps_per_epoch
        self.warmup_steps = round(warmup_epochs * steps_per_epoch)

    def __call__(self, step: int, total_steps: int, history: Sequence[Mapping[str, float | None]] = ()) -> float:
        """The factor for the step with this number (from 0); `history`: the metric rows so far."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return self.decay((step - self.warmup_steps) / max(1, total_steps - self.warmup_steps))

    def decay(self, progress: float) -> float:
        """The factor at `progress` in [0, 1), the share of the steps after the warm-up that are done."""
        raise NotImplementedError("a schedule defines decay(progress)")
