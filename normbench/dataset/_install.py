"""Putting a folder of files in its place, all or nothing, whatever is killed and whoever else does the same."""

import logging
import os
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("normbench")

TIMEOUT_S = 30.0


def install(target: Path, base: Path, name: str, fill: Callable[[Path], Path], whole: Callable[[Path], bool]) -> None:
    """Fill a folder elsewhere below `base`, and only when it is whole name it `target`.

    Two processes at once are safe: the second waits and finds what the first one put there.

    Args:
        target: the folder to make, below base.
        base: the folder for the lock and the temporary files, .NAME.lock and .NAME.tmp.
        name: the data set's.
        fill: gets an empty folder, returns the folder (this one, or one in it) that shall become the target.
        whole: whether a folder is there with all that it must hold; may raise.
    """
    temporary = base / f".{name}.tmp"
    base.mkdir(parents=True, exist_ok=True)
    with alone(base / f".{name}.lock"):
        shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
        if whole(target):
            return
        try:
            temporary.mkdir()
            filled = fill(temporary)
            if not whole(filled):
                raise FileNotFoundError("nothing came")
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(filled, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time, where a lock file can be written; the kernel drops it when its process ends."""
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115 - closed below
    except OSError:
        yield  # nothing can be put there either: whoever tries says so
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("waiting for another process that prepares the same data (it holds %s)", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def downloading() -> Iterator[None]:
    """In here a connection that is silent for TIMEOUT_S is given up, and torchvision's readers warn nobody."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torchvision sets none: a stalled connection would hang forever
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)
