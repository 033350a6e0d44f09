"""A constant learning rate."""

from normbench.schedule import Schedule

__all__ = ["Constant"]


class Constant(Schedule):
    """Factor 1 after the warm-up."""

    def decay(self, progress: float) -> float:
        return 1.0
