"""What linear and cosine share: the factor at which they end."""

from collections.abc import Sequence

from normbench.schedule import Schedule, require


class ToFinal(Schedule):
    """A schedule that goes from 1 to final_factor at the end of the run.

    Raises:
        ValueError: final_factor is not in [0, 1], or what Schedule refuses.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        warmup_epochs: float = 0.0,
        scales: Sequence[str] = ("lr",),
        final_factor: float = 0.0,
    ):
        super().__init__(steps_per_epoch, warmup_epochs, scales)
        require("final_factor", final_factor, 0 <= final_factor <= 1, "in [0, 1]", "0")
        self.final_factor = final_factor
