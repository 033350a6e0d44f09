"""How a run ended."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_SPACE = "no space left"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `new`: it was trained (at least in part) by this call."""

    state: str
    folder: Path
    record: dict[str, Any]
    new: bool = True
    note: str = ""

    @property
    def exit_code(self) -> int:
        return 1 if self.state == "failed" else 0

    @property
    def disk_is_full(self) -> bool:
        return self.state == "failed" and NO_SPACE in (self.record["reason"] or "")

    def __float__(self) -> float:
        """What a search maximizes: the accuracy on the validation images; of a diverged run 0, the worst there is."""
        value = 0.0 if self.state == "diverged" else self.record["val_acc"]
        if self.state == "failed" or value is None:
            raise RuntimeError(f"{self.state}: {self.folder}: {self.record['reason']}")
        return value


class Interrupted(KeyboardInterrupt):
    """A signal ended the run, and all is recorded."""

    def __init__(self, outcome: Outcome, signum: int):
        super().__init__(f"signal {signum}")
        self.outcome, self.signum, self.exit_code = outcome, signum, 128 + signum


def of_the_disk(error: BaseException, folder: Path) -> str | None:
    """In words, if it is an error of writing to the run's folder."""
    if not isinstance(error, OSError) or not error.filename or Path(error.filename).parent != folder:
        return None
    file = Path(error.filename).name
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{NO_SPACE} on the disk of {folder} for {file} ({error.strerror})"
    return f"the disk of {folder} does not take {file} ({error.strerror})"
