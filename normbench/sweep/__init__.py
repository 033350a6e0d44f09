"""Sweeps: what is asked for, expanded, checked and joined before the first run starts."""


class Stop(BaseException):
    """Carries an error of ours past Hydra, which would write a line of its own about any Exception."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error
