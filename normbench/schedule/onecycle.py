"""One cycle: up to the learning rate and down to almost nothing, and the momentum the other way."""

import math
from collections.abc import Mapping, Sequence

from normbench.schedule import Row, Schedule, require

__all__ = ["OneCycle"]


class OneCycle(Schedule):
    """From 1 / div_factor up to 1, then down to 1 / (div_factor final_div_factor), each along half a cosine.

    The peak, where the learning rate is optimizer.lr, is at pct_start of the steps after the warm-up. The momentum
    (beta1 for the Adam kinds) goes from max_momentum down to base_momentum and back; the optimizer's own is not used,
    but for one that is 0 or that there is none, which stays so.

    Args:
        steps_per_epoch: to turn epochs into steps.
        warmup_epochs: length of a linear warm-up before the cycle, up to where that begins, >= 0.
        scales: what the factor multiplies: lr, weight_decay, momentum.
        pct_start: share of the rise, in [0, 1].
        div_factor: the peak over the start, >= 1.
        final_div_factor: the start over the end, >= 1.
        cycle_momentum: move the momentum.
        base_momentum: the momentum at the peak, in [0, 1).
        max_momentum: the momentum at both ends, from base_momentum up, < 1.

    Raises:
        ValueError: an argument can't be, or scales has the momentum that cycle_momentum sets.

    Source:
        Smith & Topin 2018, arXiv 1708.07120, in the form of torch.optim.lr_scheduler.OneCycleLR, whose values it has.
        That gives a momentum to an optimizer whose momentum is 0, and refuses one that knows none.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        warmup_epochs: float = 0.0,
        scales: Sequence[str] = ("lr",),
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
    ):
        super().__init__(steps_per_epoch, warmup_epochs, scales)
        require("pct_start", pct_start, 0 <= pct_start <= 1, "in [0, 1]", "0.3")
        require("div_factor", div_factor, 1 <= div_factor < math.inf, "a number >= 1", "25")
        require("final_div_factor", final_div_factor, 1 <= final_div_factor < math.inf, "a number >= 1", "10000")
        require("max_momentum", max_momentum, 0 <= max_momentum < 1, "a number >= 0 and < 1", "0.95")
        holds = 0 <= base_momentum <= max_momentum
        require("base_momentum", base_momentum, holds, f"from 0 to max_momentum={max_momentum}", "0.85")
        holds = not (cycle_momentum and "momentum" in self.scales)
        require("cycle_momentum", "true", holds, "false where scales has momentum, which it sets", "false")
        self.pct_start = pct_start
        self.factors = (1 / div_factor, 1.0, 1 / (div_factor * final_div_factor))
        self.cycle_momentum = cycle_momentum
        self.momenta = (max_momentum, base_momentum, max_momentum)

    def decay(self, step: int, steps: int, history: Sequence[Row]) -> float:
        return self._at(step, steps, *self.factors)

    def values(
        self, step: int, total_steps: int, history: Sequence[Row], initial: Mapping[str, float]
    ) -> dict[str, float]:
        values = super().values(step, total_steps, history, initial)
        if self.cycle_momentum and initial.get("momentum"):
            begun, steps = max(0, step - self.warmup_steps), max(1, total_steps - self.warmup_steps)
            values["momentum"] = self._at(begun, steps, *self.momenta)
        return values

    def _at(self, step: int, steps: int, start: float, peak: float, end: float) -> float:
        """Where the cycle is that begins at start, turns at peak and reaches end with the last step."""
        top = self.pct_start * steps - 1  # as in torch: often between two steps, and below 0 where there is no rise
        if step <= top:
            return _cosine(start, peak, step / top if top > 0 else 1.0)
        return _cosine(peak, end, (step - top) / (steps - 1 - top))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
