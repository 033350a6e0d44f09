"""Exponential decay."""

from collections.abc import Sequence

from normbench.schedule import Row, Schedule, require

__all__ = ["Exponential"]


class Exponential(Schedule):
    """gamma^e, e the epochs since the warm-up: a little less at every step, not at once after an epoch.

    Args:
        steps_per_epoch: to turn steps into epochs.
        warmup_epochs: length of the linear warm-up, >= 0.
        scales: what the factor multiplies: lr, weight_decay, momentum.
        gamma: what is left of it after an epoch, in (0, 1].

    Raises:
        ValueError: warmup_epochs, scales or gamma can't be.

    Source:
        torch.optim.lr_scheduler.ExponentialLR, whose values it has where an epoch begins.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        warmup_epochs: float = 0.0,
        scales: Sequence[str] = ("lr",),
        gamma: float = 0.95,
    ):
        super().__init__(steps_per_epoch, warmup_epochs, scales)
        require("gamma", gamma, 0 < gamma <= 1, "in (0, 1]", "0.95")
        self.gamma = gamma

    def decay(self, step: int, steps: int, history: Sequence[Row]) -> float:
        return self.gamma ** (step / self.steps_per_epoch)
