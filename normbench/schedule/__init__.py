"""The contract of a schedule: a pure function of the step that says what the optimizer's settings are there."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]  # what one evaluation found: a row of metrics.csv
SCALED = ("lr", "weight_decay", "momentum")


class Schedule:
    """Base class: a linear warm-up to where `decay` begins, then `decay` over what is left.

    Step s (from 0) of the warm-up has the factor (s + 1) / warmup_steps * decay(0), so that the first step is not
    lost and the last one is where decay takes up. decay(0) is 1, but for onecycle.

    Args:
        steps_per_epoch: to turn epochs into steps.
        warmup_epochs: length of the warm-up, >= 0; 0: none.
        scales: what the factor multiplies, out of lr, weight_decay and momentum (beta1 for the Adam kinds).

    Raises:
        ValueError: warmup_epochs is not a number >= 0; scales is empty or has something else or something twice.
    """

    def __init__(self, steps_per_epoch: int, warmup_epochs: float = 0.0, scales: Sequence[str] = ("lr",)):
        holds = warmup_epochs >= 0 and math.isfinite(warmup_epochs)
        require("warmup_epochs", warmup_epochs, holds, "a number >= 0", "1")
        holds = len(scales) > 0 and set(scales) <= set(SCALED) and len(set(scales)) == len(scales)
        require("scales", list(scales), holds, f"a list out of {', '.join(SCALED)}, each at most once", "[lr]")
        self.steps_per_epoch = steps_per_epoch
        self.warmup_steps = round(warmup_epochs * steps_per_epoch)
        self.scales = tuple(scales)

    def __call__(self, step: int, total_steps: int, history: Sequence[Row] = ()) -> float:
        """The factor for the step with this number (from 0); `history`: the metric rows so far."""
        steps = max(1, total_steps - self.warmup_steps)
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps * self.decay(0, steps, ())
        return self.decay(step - self.warmup_steps, steps, history)

    def values(
        self, step: int, total_steps: int, history: Sequence[Row], initial: Mapping[str, float]
    ) -> dict[str, float]:
        """What the settings of a parameter group are at this step; those that the schedule leaves alone are not in it.

        Args:
            step, total_steps, history: as above.
            initial: the group's own settings, those of SCALED that it has; what it lacks is not scaled.
        """
        factor = self(step, total_steps, history)
        return {name: initial[name] * factor for name in self.scales if name in initial}

    def decay(self, step: int, steps: int, history: Sequence[Row]) -> float:
        """The factor at a step that is counted from the end of the warm-up; there are `steps` of them."""
        raise NotImplementedError("a schedule defines decay(step, steps, history)")


def require(name: str, value: object, holds: bool, words: str, example: str) -> None:
    """Raise ValueError in the words of the house if a setting does not hold."""
    if not holds:
        raise ValueError(f"{name} must be {words}, got {value}; try schedule.{name}={example}")
