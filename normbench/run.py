"""One run: is it done, lock, log, attempt. What it prints and returns is an Outcome."""

import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from normbench import build, manifest, records, streams
from normbench.attempt import Attempt, refuse_other_data
from normbench.config import ConfigError, RunConfig, identity
from normbench.outcome import Interrupted, Outcome

__all__ = ["Attempt", "Interrupted", "Outcome", "finished", "logging_to", "record_skipped", "run", "take"]

log = logging.getLogger("normbench")


def finished(config: RunConfig) -> Outcome | None:
    """The outcome of an earlier, whole and undamaged run of this config, or None if there is something left to do.

    Raises:
        ConfigError: the folder holds a run of another config.
        DataError: it was made from other data of the same name.
    """
    folder = config.folder
    try:
        if not (folder / "run.json").exists():
            return None
    except OSError as error:
        raise ConfigError(f"out={config.out}: {error.strerror}: {folder}; try another out=FOLDER") from None
    try:
        record = records.verify(folder)
    except records.Newer as error:
        raise ConfigError(f"{error}, or use another out=FOLDER") from None
    except records.Damaged as error:
        log.warning("%s; making it again", error)
        return None
    if not _is_of(record["config"], config):
        raise ConfigError(f"{folder} holds a run of another config: move it away, or use another out=FOLDER")
    stop = config.stop_epoch
    paused = record["state"] == "paused" and stop is not None and (record.get("epochs_done") or 0) >= stop
    if record["state"] not in records.DONE and not paused:
        return None
    refuse_other_data(config, record["data_fingerprint"], build.dataset(config.dataset).fingerprint(), folder)
    return Outcome(record["state"], folder, record, new=False, note=_made_otherwise(config, record))


def _is_of(stored: dict[str, Any], config: RunConfig) -> bool:
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # somebody else's, whatever it holds
        return identity(stored) == identity(config.to_dict())
    return False


def _made_otherwise(config: RunConfig, record: dict[str, Any]) -> str:
    """What was asked for now, but made another way: it is no other run, so it is not made again."""
    asked, made = config.to_dict(), record["config"]
    device = record.get("device", "cpu")
    keep = (made.get("checkpoint") or {}).get("keep")
    differs = [f"threads={made.get('threads')}"] if asked["threads"] != made.get("threads") else []
    differs += [f"device={device}"] if asked["device"] != "auto" and not asked["device"].startswith(device) else []
    differs += [f"checkpoint.keep={keep}"] if asked["checkpoint"]["keep"] != keep else []
    return f"made with {' '.join(differs)}; to make it another way, use another out=FOLDER" if differs else ""


def run(config: RunConfig, announce: Callable[[str], None] = print, bar: bool = True) -> Outcome:
    """Train to the end (or to stop_epoch), from where an earlier process left off.

    Args:
        config: the run.
        announce: gets one line for the user when training starts.
        bar: show a progress bar where the output is a terminal and config.progress is set.

    Returns:
        The outcome; a run that fails in training is an outcome, too (state `failed`, traceback in train.log).

    Raises:
        ConfigError, Impossible, DataError: before anything is written.
        normbench.records.InUse: another process trains this run.
        Interrupted: by Ctrl-C, SIGTERM or SIGHUP, after recording the state.
    """
    try:
        return _run(config, announce, bar)
    except Interrupted as stop:
        if stop.signum == signal.SIGUSR2:  # all is saved: now the scheduler's own handler, which queues the run again
            signal.raise_signal(signal.SIGUSR2)
        raise


def _run(config: RunConfig, announce: Callable[[str], None], bar: bool) -> Outcome:
    if config.engine == "stack":
        from normbench.stack import replicas

        (result,) = replicas.run_all([config], announce, bar)
        if isinstance(result, BaseException):
            raise result
        return result
    with contextlib.ExitStack() as held:
        found = take(config, held)
        if isinstance(found, Outcome):
            return found
        held.enter_context(logging_to(config))
        return Attempt(config, found).run(announce, bar and config.progress)


def take(config: RunConfig, held: contextlib.ExitStack) -> Outcome | build.Built:
    """The outcome, if the run is done; else its objects, and its folder is locked until `held` is left.

    Raises:
        As `run`, but Interrupted.
    """
    before = finished(config)
    if before:
        return before
    streams.set_determinism(config.threads)
    seen = _mark(config.folder)
    built = build.build(config)
    with _said(config):
        held.enter_context(records.Lock(config.folder))
        before = finished(config) if _mark(config.folder) != seen else None
    return before or built  # by another process, while this one prepared itself


@contextlib.contextmanager
def _said(config: RunConfig) -> Iterator[None]:
    """What the disk refuses, as a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"out={config.out}: {error.strerror}: {config.folder}; try another out=FOLDER") from None


def _mark(folder: Path) -> bytes | None:
    """run.json as it is."""
    with contextlib.suppress(OSError):
        return (folder / "run.json").read_bytes()
    return None


@contextlib.contextmanager
def logging_to(config: RunConfig) -> Iterator[None]:
    """With all that is logged in the run's train.log, too."""
    with _said(config):
        handler = _TrainLog(config.folder / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)  # a launcher's process has not come through the command line
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # what a full disk did not take before, it does not take now
            handler.close()


class _TrainLog(logging.FileHandler):
    """The log of a run; a disk that does not take its lines is told of once, and is no reason to stop training."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self.told:
            self.told = True
            log.warning("%s cannot be written (%s)", self.baseFilename, sys.exc_info()[1])


def record_skipped(config: RunConfig, reason: str) -> None:
    """Write down that this cell of a sweep is impossible, and why; a folder that says so already is not touched."""
    with contextlib.suppress(records.Damaged):
        if records.read_run(config.folder)["state"] == "skipped":
            return
    with records.Lock(config.folder):
        record = manifest.skipped(config, reason)
        records.write(config.folder / "run.json", records.run_json(record))
