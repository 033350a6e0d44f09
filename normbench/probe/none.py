"""No probe."""

from normbench.probe import Probe

__all__ = ["NoProbe"]


class NoProbe(Probe):
    """Nothing is looked at; runs are as they were before there were probes: same names, same files."""
