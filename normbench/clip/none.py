"""No clipping; the gradients' norm is measured all the same."""

from normbench.clip import Clip

__all__ = ["NoClip"]


class NoClip(Clip):
    """The gradients stay as they are. Size: the norm of the whole gradient."""
