"""Decay where the network no longer improves."""

import math
from collections.abc import Sequence

from normbench.schedule import Row, Schedule, require

__all__ = ["Plateau"]

METRICS = ("val_loss", "val_acc", "train_eval_loss", "train_eval_acc", "train_loss", "train_acc")


class Plateau(Schedule):
    """Times `factor` whenever more than `patience` evaluations in a row were no better than the best before them.

    Better: less than best (1 - threshold) for a loss, more than best (1 + threshold) for an accuracy. The first
    evaluation that counts is the first best: the one at the end of the warm-up, or the one before training. Evaluations
    without the metric do not count: train_loss and train_acc are not there before training.

    Args:
        steps_per_epoch: to turn epochs into steps.
        warmup_epochs: length of the linear warm-up, >= 0; evaluations in it do not count.
        scales: what the factor multiplies: lr, weight_decay, momentum.
        metric: val_loss, val_acc, or with train_eval_ or train_ in place of val_: a column of metrics.csv.
        factor: what it is multiplied by, in (0, 1].
        patience: evaluations in a row that may be no better, >= 0. How often there is one is eval.every_steps.
        threshold: the share by which an evaluation must be better, in [0, 1).
        min_factor: it falls no lower, in [0, 1].

    Raises:
        ValueError: an argument can't be.

    Source:
        torch.optim.lr_scheduler.ReduceLROnPlateau with threshold_mode="rel" and eps=0, whose values it has.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        warmup_epochs: float = 0.0,
        scales: Sequence[str] = ("lr",),
        metric: str = "val_loss",
        factor: float = 0.5,
        patience: int = 2,
        threshold: float = 1e-4,
        min_factor: float = 0.0,
    ):
        super().__init__(steps_per_epoch, warmup_epochs, scales)
        require("metric", metric, metric in METRICS, f"one of {', '.join(METRICS)}", "val_loss")
        require("factor", factor, 0 < factor <= 1, "in (0, 1]", "0.5")
        require("patience", patience, patience >= 0, "a whole number >= 0", "2")
        require("threshold", threshold, 0 <= threshold < 1, "in [0, 1)", "0.0001")
        require("min_factor", min_factor, 0 <= min_factor <= 1, "in [0, 1]", "0")
        self.metric, self.factor, self.patience, self.min_factor = metric, factor, patience, min_factor
        self.sign = 1 if metric.endswith("_loss") else -1  # less is better of what is compared
        self.bound = 1 - self.sign * threshold
        self._begin(())

    def decay(self, step: int, steps: int, history: Sequence[Row]) -> float:
        # asked at every step, about rows that only grow at an evaluation: those read before are not read again
        count = self._count
        if not (history is self._history and len(history) >= count and (not count or history[count - 1] is self._last)):
            self._begin(history)
        for row in history[self._count :]:
            self._read(row)
        return self._current

    def _begin(self, history: Sequence[Row]) -> None:
        """Forget what was read: the answer depends on nothing but these rows."""
        self._history, self._count, self._last = history, 0, None
        self._current, self._best, self._bad = 1.0, math.inf, 0

    def _read(self, row: Row) -> None:
        self._count, self._last = self._count + 1, row
        value = row[self.metric]
        if value is None or row["step"] < self.warmup_steps:
            return
        if self.sign * value < self._best * self.bound:
            self._best, self._bad = self.sign * value, 0
        else:
            self._bad += 1
        if self._bad > self.patience:
            self._current, self._bad = max(self._current * self.factor, self.min_factor), 0
