"""Ways to break normbench that a careless hand might find. Each must be noticed: see test_crash_mutants.py.

`apply(name)` breaks it for good (in a process of its own), `broken(name)` for as long as a `with` block lasts.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from normbench import records

Patch = Callable[[Any, str, Any], None]


def save_in_place(patch: Patch) -> None:
    def write(path, data):
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    patch(records, "write", write)


def no_fsync(patch: Patch) -> None:
    def write(path, data):
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, path)

    patch(records, "write", write)


def no_checksum(patch: Patch) -> None:
    patch(records, "unseal", lambda path: Path(path).read_bytes())


def any_pickle(patch: Patch) -> None:
    import torch

    real = torch.load
    patch(torch, "load", lambda *args, **named: real(*args, **{**named, "weights_only": False}))


def metrics_before_checkpoint(patch: Patch) -> None:
    from normbench import run

    real = run.Attempt.save

    def save(self, keep="all"):
        records.write(self.folder / "metrics.csv", records.metrics_csv(self.progress.rows))
        real(self, keep)

    patch(run.Attempt, "save", save)


def record_first(patch: Patch) -> None:
    from normbench import run

    real = run.Attempt.save

    def save(self, keep="all"):
        self.commit("running")
        real(self, keep)

    patch(run.Attempt, "save", save)


def lock_by_existence(patch: Patch) -> None:
    def enter(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = open(self.path.with_name(".lock.held"), "x")  # noqa: SIM115 - closed below
        except FileExistsError:
            raise records.InUse(f"{self.path.parent} is in use") from None
        return self

    def leave(self, *_):
        self._file.close()
        os.unlink(self._file.name)

    patch(records.Lock, "__enter__", enter)
    patch(records.Lock, "__exit__", leave)


def temporaries_stay(patch: Patch) -> None:
    patch(records, "remove_temporaries", lambda folder: None)


def _forgets(change: Callable[[dict], None]) -> Callable[[Patch], None]:
    """A checkpoint that lacks something when it is read back."""

    def mutant(patch: Patch) -> None:
        from normbench import checkpoint

        real = checkpoint.restore

        def restore(content, built, progress):
            content = dict(content)
            change(content)
            real(content, built, progress)

        patch(checkpoint, "restore", restore)

    return mutant


def no_random_state(patch: Patch) -> None:
    import torch

    patch(torch, "set_rng_state", lambda state: None)


def _no_optimizer(content: dict) -> None:
    content["optimizer"] = {**content["optimizer"], "state": {}}


def _no_history(content: dict) -> None:
    content["rows"] = content["rows"][:1]


MUTANTS: dict[str, Callable[[Patch], None]] = {
    "save in place": save_in_place,
    "no fsync": no_fsync,
    "no checksum": no_checksum,
    "any pickle": any_pickle,
    "metrics.csv before the checkpoint": metrics_before_checkpoint,
    "run.json before the checkpoint": record_first,
    "lock by existence": lock_by_existence,
    "temporary files stay": temporaries_stay,
    "no random state": no_random_state,
    "no optimizer state": _forgets(_no_optimizer),
    "no history in the checkpoint": _forgets(_no_history),
}


def apply(name: str) -> None:
    if name:
        MUTANTS[name](setattr)


@contextlib.contextmanager
def broken(name: str) -> Iterator[None]:
    """Broken in this way; not at all if the name is empty."""
    before: list[tuple[Any, str, Any]] = []

    def patch(holder: Any, attribute: str, value: Any) -> None:
        before.append((holder, attribute, getattr(holder, attribute)))
        setattr(holder, attribute, value)

    if name:
        MUTANTS[name](patch)
    try:
        yield
    finally:
        for holder, attribute, value in reversed(before):
            setattr(holder, attribute, value)


def payload(path: Path) -> bytes:
    """A sealed checkpoint that makes the folder `path` when it is loaded as any pickle."""
    import torch

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(path),))

    buffer = io.BytesIO()
    torch.save({"evil": Evil()}, buffer)
    return records.seal(buffer.getvalue())
