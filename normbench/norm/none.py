"""No normalization: the baseline."""

from normbench.norm import Norm

__all__ = ["NoNorm"]


class NoNorm(Norm):
    """y = x."""
