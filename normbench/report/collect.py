"""Every run below some folders as two tables: the only part of the report that reads files."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from normbench import records
from normbench.config import NOT_IDENTITY
from normbench.report.cache import Cache

RESULTS = ("val_loss", "val_acc", "test_loss", "test_acc")
LISTED = ("run_id", "name", "state", "used", "reason", "folder")
RUNS = (
    *LISTED, "dataset", "model", "norm", "optimizer", "clip", "lr", "schedule", "batch_size", "weight_decay",
    "momentum", "seed", "data_seed", "epochs", "total_steps", "steps", "diverged_step", "train_s", "started_at",
    "finished_at", "device", "threads", "torch_version", "normbench_version", "results_version", "git_commit",
    "data_fingerprint", "n_params", "n_classes", "n_train", "n_val", "n_test", *RESULTS,
)  # fmt: skip
FROM_CONFIG = {
    "lr": "optimizer.lr", "schedule": "schedule.name", "batch_size": "batch_size", "threads": "threads",
    "weight_decay": "optimizer.weight_decay", "momentum": "optimizer.momentum", "data_seed": "data_seed",
    "epochs": "epochs",
}  # fmt: skip
# the settings' columns in front of each metric; the row's own rate, which a schedule moves, is `lr_now` there
FRONT = ("run_id", "model", "norm", "optimizer", "clip", "lr", "seed")
Text = tuple[dict[str, Any], np.ndarray, bytes]  # a Read, and the lines of metrics.csv as they are


@dataclass(frozen=True)
class Collected:
    """runs: one row a run found, sorted by run_id. `used` says whether its numbers count: it is complete or diverged,
    undamaged, and not a copy of another one; `reason` says why not, and its results are empty.
    metrics: every row of the used runs, FRONT and then the columns of metrics.csv.
    text: the same as CSV, with the very digits that are in the runs' files; to write a million rows anew takes seconds.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    text: bytes


def collect(roots: Sequence[Path], cache: Cache | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`runs` and `metrics` of `collected`."""
    found = collected(roots, cache)
    return found.runs, found.metrics


def collected(roots: Sequence[Path], cache: Cache | None = None) -> Collected:
    """Read every run at or below `roots`; `cache`: to parse only what it does not know."""
    found = {
        folder if len(roots) == 1 else folder.resolve(): (root, folder)
        for root in roots for folder in records.find_runs(root)
    }  # fmt: skip
    bar = tqdm(found.values(), "reading runs", unit="", leave=False, delay=2, disable=None)
    read = sorted((_read(root, folder, cache) for root, folder in bar), key=_rank)
    runs, fronts, values, lines, first = [], [], [], [], {}
    for run, rows, text in read:
        if run["used"] and run["run_id"] in first:
            differs = any(run[key] != first[run["run_id"]][key] for key in (*RESULTS, "data_fingerprint"))
            reason = "a copy of a used run with the same run_id" + (", with OTHER numbers or data" if differs else "")
            run |= {"used": False, "reason": reason}
        if run["used"]:
            first[run["run_id"]] = run
            front = [run.get(key) for key in FRONT]
            fronts.append((len(rows), front))
            values.append(rows)
            lines.append(_lines(front, text))
        else:
            run |= dict.fromkeys(RESULTS)
        runs.append(run)
    config = sorted({key for run in runs for key in run if key.startswith("cfg.")})
    # dtype object keeps whole numbers whole beside empty cells
    table, metrics = pd.DataFrame(runs, columns=[*RUNS, *config], dtype=object), _metrics(fronts, values)
    return Collected(table, metrics, b"".join([f"{','.join(metrics)}\n".encode(), *lines]))


def _lines(front: Sequence[Any], text: bytes) -> bytes:
    """The lines of a run's metrics.csv, each with `front` before it."""
    with io.StringIO() as cells:
        csv.writer(cells, lineterminator=",").writerow(front)
        before = cells.getvalue().encode()
    return before + text.removesuffix(b"\n").replace(b"\n", b"\n" + before) + b"\n"


def _metrics(fronts: Sequence[tuple[int, list[Any]]], values: Sequence[np.ndarray]) -> pd.DataFrame:
    """The table of all rows: numbers in arrays, since ten thousand runs have a million of them."""
    counts = [count for count, _ in fronts]
    columns: dict[str, Any] = {
        key: np.repeat(np.array([front[i] for _, front in fronts], dtype=object), counts) for i, key in enumerate(FRONT)
    }
    columns = {key: pd.Series(column).infer_objects() for key, column in columns.items()}
    table = np.concatenate([np.empty((0, len(records.METRICS))), *values])
    for name, column in zip(records.METRICS, table.T, strict=True):
        columns["lr_now" if name == "lr" else name] = column.astype(np.int64) if name in records.COUNTS else column
    return pd.DataFrame(columns)


def _rank(item: Text) -> tuple:
    """Order by run_id; of copies, one whose numbers count comes first, then by content, never by place."""
    run = item[0]
    return run["run_id"], not run["used"], run["state"], run.pop("digest"), run["folder"]


def _read(root: Path, folder: Path, cache: Cache | None) -> Text:
    """One row of runs.csv and the rows of metrics.csv; an odd folder becomes a row that says what is odd."""
    place = folder.relative_to(root).as_posix() if folder != root else folder.name
    blank = {"run_id": folder.name, "state": "damaged", "used": False, "folder": place, "digest": ""}
    try:
        data = records.run_bytes(folder)
        run, rows, text = _known(folder, data, cache) or _parsed(folder, data, cache)
    except records.Damaged as error:
        if not (folder / "run.json").exists() and records.Lock.is_held(folder):
            return blank | {"state": "running", "reason": "being written now: no record yet"}, _numbers([]), b""
        # a path of this machine in a report would change its bytes when the folder moves
        return blank | {"reason": str(error).replace(f"{folder}/", "").replace(str(folder), place)}, _numbers([]), b""
    return {**run, "folder": place}, rows, text


def _known(folder: Path, data: bytes, cache: Cache | None) -> Text | None:
    """What an earlier report has read of an ended run whose files are still, byte by byte, the same."""
    if not cache or not cache.known:
        return None
    key = records.sha256(data)
    if found := cache.known.get(key):
        files = records.check_files(folder, found[0])
        cache.found[key] = found
        return *found, _body(files)
    return None


def _parsed(folder: Path, data: bytes, cache: Cache | None) -> Text:
    record = records.run_of(folder, data)
    state = records.state_now(folder, record)
    # where a run may have died, or be, between two writes, a file that is not as it says is no damage
    files = records.check_files(folder, record) if state not in ("running", "interrupted") else {}
    ended = state in records.DONE
    table = folder / "metrics.csv"
    rows = _numbers(records.read_metrics(table, record["files"]["metrics.csv"]) if ended else [])
    if ended and not len(rows):
        raise records.Damaged(f"{table} is damaged: it holds no row")
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    about = {"state": state, "used": ended, "digest": digest, "reason": _reason(state, record)}
    run = _row(record) | about | {"files": record["files"]}
    if cache and ended:
        cache.found[records.sha256(data)] = run, rows
    return run, rows, _body(files) if ended else b""


def _body(files: Mapping[str, bytes]) -> bytes:
    return files["metrics.csv"].partition(b"\n")[2]


def _numbers(rows: Sequence[Mapping[str, float | None]]) -> np.ndarray:
    """(rows, METRICS), NaN where nothing was measured."""
    return np.array([list(row.values()) for row in rows], dtype=float).reshape(-1, len(records.METRICS))


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    config = flatten(record["config"])
    about = [part for part in (record.get("versions"), record.get("environment")) if isinstance(part, dict)]
    versions = {name: version for part in about for name, version in part.items()}
    row = {key: record.get(key) for key in RUNS if key not in LISTED}
    row |= {key: config.get(name) for key, name in FROM_CONFIG.items()}
    row |= {f"{name}_version": versions.get(name) for name in ("torch", "normbench")}
    row |= {f"cfg.{key}": value for key, value in config.items() if not is_uncompared(key)}
    return row | {"run_id": record["run_id"], "name": record["name"]}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"norm": {"eps": 1e-5}} -> {"norm.eps": 1e-5}; null, true and lists become their JSON text."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, str | int | float) and not isinstance(value, bool)
            flat[prefix + key] = value if plain else json.dumps(value)
    return flat


@cache
def is_uncompared(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)


def _reason(state: str, record: Mapping[str, Any]) -> str:
    if state == "complete":
        return ""
    said = str(record.get("reason") or "")
    steps, total = record.get("steps"), record.get("total_steps")
    far = f"after step {steps} of {total}" if steps is not None and total is not None else ""
    if state == "diverged":
        far = "" if said else f"at step {record.get('diverged_step')}"
    now = "being written now" if state == "running" else ""
    return ", ".join(part for part in (now, said, far) if part) or "no reason recorded"
