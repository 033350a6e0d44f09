"""Linear decay."""

from collections.abc import Sequence

from normbench.schedule import Row
from normbench.schedule._final import ToFinal

__all__ = ["Linear"]


class Linear(ToFinal):
    """1 - (1 - final_factor) p, p the share of the steps after the warm-up.

    Args:
        steps_per_epoch: to turn epochs into steps.
        warmup_epochs: length of the linear warm-up, >= 0.
        scales: what the factor multiplies: lr, weight_decay, momentum.
        final_factor: the factor at the end, in [0, 1].

    Raises:
        ValueError: warmup_epochs, scales or final_factor can't be.

    Source:
        Defazio et al. 2023, arXiv 2310.07831, who find it the best of many; with a warm-up: Devlin et al. 2018,
        arXiv 1810.04805, appendix A.2.
    """

    def decay(self, step: int, steps: int, history: Sequence[Row]) -> float:
        return 1 - (1 - self.final_factor) * (step / steps)
