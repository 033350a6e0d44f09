"""No augmentation."""

from normbench.augment import Augment

__all__ = ["NoAugment"]


class NoAugment(Augment):
    """The images as they are."""
