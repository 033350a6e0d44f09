"""What a report of many runs costs: seconds, memory, and how both grow with the runs; then again after one new run.

    python scripts/report_cost.py                        minutes; folders of 100, 1,000 and 10,000 made-up runs
    python scripts/report_cost.py --sizes 9600 --shape arms

Prints the table of docs/scaling.md. The runs are made up: 20 to 100 evaluations each, a few diverged, of what
`normbench train` writes. Each report is a command of its own, on the cores that this process may use; memory is the
largest that it held. Timings are no tests.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import cpu_name, load_average
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from tqdm import tqdm

from normbench import app, records
from normbench.config import RESULTS_VERSION, RunConfig
from normbench.sweep import jobs

# what varies beside the learning rate and the seed, by name of the shape
SHAPES = {
    "seeds": {"norm": ("none", "bn", "ln", "gn"), "optimizer": ("sgd", "adam")},
    "arms": {
        "norm": ("none", "bn", "ln", "gn", "rms", "ws"), "optimizer": ("sgd", "momentum", "adam", "adamw"),
        "clip": ("none", "norm"), "batch_size": ("32", "64", "128", "256"),
    },
}  # fmt: skip
N_TRAIN, N_VAL, N_TEST, CLASSES, STEPS = 9000, 1000, 2000, 10, 2000
Row = tuple[str, ...]


@dataclass(frozen=True)
class Spent:
    """By one command: seconds from its start to its end, of its processor, and MB at most."""

    wall: float
    cpu: float
    peak: float


def configs(shape: str) -> list[RunConfig]:
    """The settings of each choice, in order, as `normbench train` composes them."""
    typed = ["dataset=fashion_mini", *(f"{key}={','.join(values)}" for key, values in SHAPES[shape].items())]
    with initialize_config_module("normbench.conf", version_base="1.3"):
        return [job.config for job in jobs.plan(GlobalHydra.instance().config_loader(), typed).jobs]


def write_runs(root: Path, count: int, shape: str, new: bool = False) -> None:
    """So many run folders of a shape, or the one that comes after them; of equal arguments always the same bytes."""
    choices = configs(shape)
    rates = max(1, min(20, int((count / len(choices)) ** 0.5)))  # about as many seeds, or more
    runs = enumerate(
        (seed, lr, config) for seed in itertools.count() for lr in np.geomspace(1e-4, 1, rates) for config in choices
    )
    for number, (seed, lr, config) in tqdm(
        itertools.islice(runs, count * new, count + new), "making runs", count, delay=2
    ):
        made = replace(config, seed=seed, optimizer=config.optimizer | {"lr": float(f"{lr:.3g}")})
        write_run(root / made.folder.name, made, number)


def write_run(folder: Path, config: RunConfig, number: int) -> None:
    """A run folder without its checkpoint: accuracy rises to what the arm and its rate allow, and noise upon it."""
    rng = np.random.default_rng(number)
    lr = config.optimizer["lr"]
    bad = bool(lr > 0.3 and rng.random() < 0.3)
    top = 0.9 - 0.05 * abs(np.log10(lr) + 2) ** 1.5 - 0.02 * (config.norm["name"] == "none")
    n = 20 + 20 * (number % 5)
    step = np.round(np.linspace(0, STEPS, n)).astype(int)[: max(3, n // 3) if bad else n]
    rise = 1 - np.exp(-step / (150 if config.norm["name"] == "none" else 80))
    acc = np.round(np.clip(0.1 + (top - 0.1) * rise + rng.normal(0, 0.005, len(step)), 0, 1), 3)
    loss = 2.4 - 2.1 * acc + rng.normal(0, 0.003, len(step))
    table = {
        "step": step, "examples": step * config.batch_size, "epoch": step * config.epochs / STEPS,
        "train_s": step * rng.normal(0.01, 0.0005), "lr": lr * (1 - 0.9 * step / STEPS), "train_loss": loss - 0.05,
        "train_acc": acc + 0.01, "train_eval_loss": loss - 0.06, "train_eval_acc": acc + 0.012, "val_loss": loss,
        "val_acc": acc, "grad_norm_mean": np.exp(rng.normal(0, 0.3, len(step))),
        "grad_norm_max": np.exp(rng.normal(1, 0.3, len(step))), "clip_frac": rng.uniform(0, 0.2, len(step)),
        "clip_share": rng.uniform(0, 0.1, len(step)), "clip_size_mean": np.exp(rng.normal(0, 0.3, len(step))),
    }  # fmt: skip
    if config.clip["name"] == "none":
        table |= dict.fromkeys(("clip_frac", "clip_share", "clip_size_mean"), np.full(len(step), None))
    rows = [
        dict(zip(table, values, strict=True))
        for values in zip(*(column.tolist() for column in table.values()), strict=True)
    ]
    rows[0] |= dict.fromkeys(("train_loss", "train_acc", "grad_norm_mean", "grad_norm_max", "clip_frac"))
    data = records.metrics_csv(rows)
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_bytes(data)  # not synced: it need not survive a power cut
    (folder / "run.json").write_bytes(records.run_json(record(config, rows, bad) | {"files": files(data)}))


def files(metrics: bytes) -> dict[str, str]:
    return {"metrics.csv": records.sha256(metrics)}


def record(config: RunConfig, rows: Sequence[dict[str, Any]], bad: bool) -> dict[str, Any]:
    """What `normbench.manifest` writes, without a network to count."""
    last = rows[-1]
    names = {group: getattr(config, group)["name"] for group in ("model", "norm", "optimizer", "clip", "dataset")}
    tests = {"test_loss": None, "test_acc": None}
    if not bad:
        tests = {"test_loss": last["val_loss"] + 0.01, "test_acc": round(last["val_acc"] * N_TEST) / N_TEST}
    return {
        "run_id": config.folder.name, "name": config.name, "state": "diverged" if bad else "complete", **names,
        "seed": config.seed, **tests, "val_loss": last["val_loss"], "val_acc": last["val_acc"],
        "train_s": last["train_s"], "reason": None, "steps": last["step"], "total_steps": STEPS,
        "epochs": config.epochs, "batch_size": config.batch_size, "diverged_step": last["step"] + 7 if bad else None,
        "n_params": 50890, "n_train": N_TRAIN, "n_val": N_VAL, "n_test": N_TEST, "n_classes": CLASSES,
        "data_fingerprint": "f" * 64, "finished_at": "2026-01-01T00:00:02+00:00", "device": "cpu",
        "environment": {"torch": "2.13.0", "threads": 1}, "versions": {"normbench": "0.1.0", "python": "3.11.2"},
        "git_commit": "abc", "results_version": RESULTS_VERSION, "format_version": records.FORMAT_VERSION,
        "config": config.to_dict(),
    }  # fmt: skip


def report(root: Path) -> Spent:
    """Of `normbench report` as a command of its own."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "normbench", "report", str(root)], stdout=subprocess.DEVNULL) as child:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the report of {root} failed with {child.returncode}")
    return Spent(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3)


def rows(sizes: Sequence[int], shape: str, out: Path) -> Iterator[Row]:
    for count in sizes:
        root = out / f"{shape}{count}"
        write_runs(root, count, shape)
        yield _row(f"{count:,}", report(root), count)
        write_runs(root / "new", count, shape, new=True)
        yield _row("the same and one new", report(root), count + 1)


def _row(what: str, spent: Spent, count: int) -> Row:
    each = f"{1000 * spent.wall / count:.1f} ms"
    return what, f"{spent.wall:.1f} s", f"{spent.cpu:.1f} s", f"{spent.peak:,.0f} MB", each


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a report of many runs costs.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000], help="runs of a folder")
    parser.add_argument("--shape", choices=SHAPES, default="seeds", help="few arms of many seeds, or many arms")
    parser.add_argument("--out", type=Path, help="where to write, and to leave the runs (default: a temporary folder)")
    options = parser.parse_args(args)
    app.register_plugins()
    print("| runs | wall | processor | memory | for each run |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(options.sizes, options.shape, options.out or Path(folder)):
            print(f"| {' | '.join(row)} |", flush=True)
    print(f"\n{cpu_name()}, {len(os.sched_getaffinity(0))} cores, load average {load_average()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
