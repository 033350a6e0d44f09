"""The run folder: every byte in it is written whole and read strictly. Never imports torch.

config.yaml    the resolved config
run.json       what the run is, how far it came and how it ended; the commit mark, written last
metrics.csv    one row an evaluation (METRICS)
layers.csv     what a probe measured: one row a number (LAYERS); only with a probe
checkpoint.pt  weights, optimizer and metric history, sealed with a checksum
train.log      the log
.lock          held (flock) by the process that writes here
"""

import csv
import hashlib
import io
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

FORMAT_VERSION = 2
STATES = ("running", "complete", "paused", "diverged", "failed", "interrupted", "skipped")
DONE = ("complete", "diverged")  # nothing is left to train
METRICS = (
    "step", "examples", "epoch", "train_s", "lr", "train_loss", "train_acc", "train_eval_loss", "train_eval_acc",
    "val_loss", "val_acc", "grad_norm_mean", "grad_norm_max", "clip_frac", "clip_share", "clip_size_mean",
)  # fmt: skip
LAYERS = ("step", "layer", "layer_index", "kind", "stat", "value")
COUNTS = ("step", "examples")  # whole numbers; every other column is a float, empty where it was not measured
HEAD = (
    "run_id", "name", "state", "model", "norm", "optimizer", "clip", "dataset", "seed",
    "test_loss", "test_acc", "val_loss", "val_acc", "train_s",
)  # fmt: skip
WORDS = ("run_id", "name", "model", "norm", "optimizer", "clip", "dataset")
NUMBERS = ("test_loss", "test_acc", "val_loss", "val_acc", "train_s")
COUNTED = ("steps", "total_steps", "epochs_done", "diverged_step", "n_params", "n_train", "n_val", "n_test")


class Damaged(ValueError):
    """A file is missing, torn, altered or of another format; the message names it and says why."""


class Newer(Damaged):
    """A file of a newer normbench: not damaged, but not to be read, and least of all to be replaced, by this one."""


# ---------------------------------------------------------------------------------------------------- writing


def write(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step: after a crash there is the old whole file or the new whole file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, survives a power cut
        finally:
            os.close(folder)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):  # a full or broken disk does not say which file it was about
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_temporaries(folder: Path) -> None:
    """What a process that was killed while it wrote has left; only for who holds the folder's lock."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def metrics_csv(rows: Sequence[Mapping[str, float | None]]) -> bytes:
    """The rows as CSV: shortest decimals that give back the same float, empty where nothing was measured."""
    lines = [",".join(METRICS)]
    for row in rows:
        assert set(row) == set(METRICS), f"a metrics row must have exactly {METRICS}"
        lines.append(",".join("" if row[key] is None else repr(row[key]) for key in METRICS))
    return ("\n".join(lines) + "\n").encode()


def layers_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """The rows of LAYERS as CSV; a value may be inf or nan: it was measured, and it is that."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([LAYERS, *rows])
    return text.getvalue().encode()


def run_json(record: Mapping[str, Any]) -> bytes:
    missing = [key for key in HEAD if key not in record]
    assert not missing, f"run.json lacks {missing}"
    return (json.dumps({**record, "sha256": _own_sha256(record)}, indent=1, allow_nan=False) + "\n").encode()


def _own_sha256(record: Mapping[str, Any]) -> str:
    """Of the record without its own checksum: run.json vouches for the other files, and must not be edited either."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return sha256(json.dumps(rest, sort_keys=True).encode())


# A checkpoint is a zip file (torch.save's format). Its checksum travels inside it as the zip's comment, so that
# file and checksum can never come from two different moments, and `torch.load` still reads the file as it is.
_SEAL = b"sha256:"
_SEAL_SIZE = len(_SEAL) + 64


def seal(payload: bytes) -> bytes:
    """Append the payload's sha256 as the comment of the zip file that `payload` is."""
    assert payload[-2:] == b"\0\0", "a zip file without a comment ends in a zero comment length"
    return payload[:-2] + _SEAL_SIZE.to_bytes(2, "little") + _SEAL + sha256(payload).encode()


def unseal(path: Path) -> bytes:
    """The payload of a sealed file.

    Raises:
        Damaged: no seal, or the content is not what was sealed.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:  # a folder stands there, the disk fails
        raise Damaged(f"{path} is damaged: {error.strerror}") from None
    payload, comment = data[: -_SEAL_SIZE - 2] + b"\0\0", data[-_SEAL_SIZE:]
    if not comment.startswith(_SEAL):
        raise Damaged(f"{path} is damaged: it does not end in its checksum ({len(data):,} bytes)")
    expected, found = comment[len(_SEAL) :].decode("ascii", "replace"), sha256(payload)
    if data[-_SEAL_SIZE - 2 : -_SEAL_SIZE] != _SEAL_SIZE.to_bytes(2, "little") or expected != found:
        raise Damaged(f"{path} is damaged: its sha256 is {found[:12]}, {expected[:12]} was written")
    return payload


# ---------------------------------------------------------------------------------------------------- reading


def read_run(folder: Path) -> dict[str, Any]:
    """The folder's run.json.

    Raises:
        Damaged: missing, torn, of a newer format, or its state is unknown.
    """
    return run_of(folder, run_bytes(folder))


def run_bytes(folder: Path) -> bytes:
    """The folder's run.json as it is; raises Damaged where there is none."""
    path = Path(folder) / "run.json"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except OSError as error:
        raise Damaged(f"{path} is damaged: {error}") from None


def run_of(folder: Path, data: bytes) -> dict[str, Any]:
    """The record that the folder's run.json with these bytes holds; raises as `read_run` does."""
    path = Path(folder) / "run.json"
    try:
        record = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {error}") from None
    if not isinstance(record, dict):
        raise Damaged(f"{path} is damaged: it must hold an object")
    version = record.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        if type(version) is int and version > FORMAT_VERSION:
            raise Newer(f"{path} was written by a newer normbench (format_version {version}): upgrade")
        raise Damaged(f"{path}: format_version must be {FORMAT_VERSION}, it is {version!r}")
    problem = _problem(record)
    if problem is None and record.get("sha256") != _own_sha256(record):
        problem = "it is not what was written: its own sha256 differs"
    if problem:
        raise Damaged(f"{path} is damaged: {problem}")
    return record


def _problem(record: dict[str, Any]) -> str | None:
    """What is wrong with the parts of run.json that others rely on."""
    missing = [key for key in HEAD if key not in record]
    if missing:
        return f"no {', '.join(missing)}"
    if record["state"] not in STATES:
        return f"state is {record['state']!r}"
    files, config = record.get("files"), record.get("config")
    wrong = [key for key in WORDS if not isinstance(record[key], str)]
    wrong += [key for key in NUMBERS if not _is_finite_or_none(record[key])]
    wrong += [key for key in COUNTED if type(record.get(key)) not in (int, type(None))]
    wrong += [] if type(record["seed"]) is int else ["seed"]
    wrong += [] if isinstance(config, dict) else ["config"]
    wrong += ["total_steps"] if "steps" in record and record.get("total_steps") is None else []
    ended = record["state"] in (*DONE, "paused")
    wrong += ["data_fingerprint"] if ended and not isinstance(record.get("data_fingerprint"), str) else []
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        wrong.append("files")
    elif record["state"] in DONE and "metrics.csv" not in files:
        return "files does not list the metrics.csv of a finished run"
    return f"{wrong[0]} is {record.get(wrong[0])!r:.80}" if wrong else None


def _is_finite_or_none(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


def read_metrics(path: Path, checksum: str | None = None) -> list[dict[str, float | None]]:
    """The rows of a metrics.csv; counts are ints, empty cells None.

    Raises:
        Damaged: not of this sha256, not exactly one header, a torn or malformed row, or steps that do not grow.
    """
    try:
        data = Path(path).read_bytes()
        if checksum and sha256(data) != checksum:
            raise Damaged(f"{path} is damaged: its sha256 is {sha256(data)[:12]}, run.json says {checksum[:12]}")
        text = data.decode()
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except UnicodeDecodeError:
        raise Damaged(f"{path} is damaged: not UTF-8 text") from None
    header, _, body = text.partition("\n")
    if header.split(",") != list(METRICS):
        raise Damaged(f"{path} is damaged: line 1 must be {','.join(METRICS)}")
    if not text.endswith("\n"):
        raise Damaged(f"{path} is damaged: its last line is torn")
    rows: list[dict[str, float | None]] = []
    for number, line in enumerate(body.splitlines(), 2):
        row = _parse_row(line.split(","))
        if row is None:
            raise Damaged(f"{path} is damaged: line {number} is {line[:80]!r}")
        if rows and not row["step"] > rows[-1]["step"]:  # type: ignore[operator]
            raise Damaged(f"{path} is damaged: line {number} repeats or goes back to step {row['step']}")
        rows.append(row)
    return rows


def _parse_row(cells: list[str]) -> dict[str, float | None] | None:
    if len(cells) != len(METRICS) or cells[0] == "" or cells[1] == "":
        return None
    try:
        return {
            k: None if c == "" else int(c) if k in COUNTS else float(c) for k, c in zip(METRICS, cells, strict=True)
        }
    except ValueError:
        return None


def read_layers(path: Path) -> list[tuple[int, str, int, str, str, float]]:
    """The rows of a layers.csv.

    Raises:
        Damaged: not exactly one header, a torn or malformed row, or steps that go back.
    """
    try:
        text = Path(path).read_bytes().decode()
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except UnicodeDecodeError:
        raise Damaged(f"{path} is damaged: not UTF-8 text") from None
    if text.partition("\n")[0] != ",".join(LAYERS):
        raise Damaged(f"{path} is damaged: line 1 must be {','.join(LAYERS)}")
    if not text.endswith("\n"):
        raise Damaged(f"{path} is damaged: its last line is torn")
    rows: list[tuple[int, str, int, str, str, float]] = []
    for number, cells in enumerate(csv.reader(text.splitlines()[1:]), 2):
        try:
            step, layer, index, kind, stat, value = cells
            row = int(step), layer, int(index), kind, stat, float(value)
        except ValueError:
            raise Damaged(f"{path} is damaged: line {number} is {','.join(cells)[:80]!r}") from None
        if rows and row[0] < rows[-1][0]:
            raise Damaged(f"{path} is damaged: line {number} goes back to step {row[0]}")
        rows.append(row)
    return rows


def verify(folder: Path) -> dict[str, Any]:
    """run.json, after comparing every file that it lists with its checksum.

    Raises:
        Damaged: run.json, or the first file that is missing or altered.
    """
    record = read_run(folder)
    check_files(folder, record)
    return record


def check_files(folder: Path, record: Mapping[str, Any]) -> dict[str, bytes]:
    """Compare every file that the record lists with its checksum; gives what is in them, by name.

    Raises:
        Damaged: the first file that is missing or altered.
    """
    files = {}
    for name, expected in sorted(record["files"].items()):
        path = Path(folder) / name
        try:
            files[name] = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise Damaged(f"{path} is missing") from None
        found = sha256(files[name])
        if found != expected:
            raise Damaged(f"{path} is damaged: its sha256 is {found[:12]}, run.json says {expected[:12]}")
    return files


def state_now(folder: Path, record: Mapping[str, Any]) -> str:
    """The state as of now: a run that says `running` but that no process holds was interrupted."""
    state = record["state"]
    return "interrupted" if state == "running" and not Lock.is_held(folder) else state


def find_runs(root: Path) -> Iterator[Path]:
    """Every run folder at or below `root`, sorted: folders that hold a run.json, or the lock of a run that began."""
    root = Path(root)
    seen = set()
    for path, folders, files in os.walk(root, followlinks=True):
        try:
            place = os.stat(path)
        except FileNotFoundError:  # removed since it was listed
            continue
        if (place.st_dev, place.st_ino) in seen:  # links may go round in a circle
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "run.json" in files or (".lock" in files and "config.yaml" in files):
            folders.clear()
            yield Path(path)


def finite_or_none(value: float | None) -> float | None:
    """JSON has no NaN: a number that is not finite is stored as null (the state says why)."""
    return value if value is not None and math.isfinite(value) else None


# ---------------------------------------------------------------------------------------------------- locking


class InUse(RuntimeError):
    """Another process writes to this run folder."""


class Lock:
    """Exclusive right to write to a run folder, for as long as the process lives.

    The kernel drops an flock when its process ends, however it ends, so a killed run never blocks the next.

    Raises:
        InUse: another process holds it; the message says which, where and since when.
    """

    def __init__(self, folder: Path):
        self.path = Path(folder) / ".lock"

    def __enter__(self) -> "Lock":
        import fcntl

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+")
        for attempt in range(5):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt < 4:  # somebody's is_held() may hold it for an instant
                    time.sleep(0.02)
            except OSError:  # the file system knows no locks
                self._file.close()
                raise
        else:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise InUse(f"{self.path.parent} is in use by {holder}; wait for it, or use another out=FOLDER")
        self._file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @staticmethod
    def is_held(folder: Path) -> bool:
        import fcntl

        try:
            with open(Path(folder) / ".lock") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no such file, or not ours to read
            return False
        return False
