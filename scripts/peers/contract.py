"""What every peer takes and gives, so that all are started, timed and compared alike.

    python scripts/peers/PEER.py --model lenet --data FILE.npz --epochs 10 --seed 0 [--device cuda] [--log FILE.csv]

A peer trains the network of architectures.py with Adam, its rate times 0.7 after every epoch, on the standardized
training images of FILE, batches of 64 in a fresh order, the last partial batch dropped. After every epoch it evaluates
the validation images and adds a row to the log, at the end the test images. It prints one line of JSON.

`samples_per_s` leaves out the first epoch and all evaluations. `--seed 0:8` trains eight runs, one after another.
`--start FILE.npz` is for checking that peers do the same: one epoch from the file's weights, on its batches; the
line then has the loss of every step.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

Part = tuple[np.ndarray, np.ndarray]
Losses = list[float]


class Data:
    """FILE.npz: {train,val,test}_images uint8 (N, C, H, W), ..._labels int64 (N,), mean and sd (C,) of pixels / 255."""

    def __init__(self, path: Path):
        with np.load(path) as file:
            self.parts: dict[str, Part] = {
                name: (file[f"{name}_images"], file[f"{name}_labels"]) for name in ("train", "val", "test")
            }
            self.mean, self.sd = file["mean"].astype(np.float32), file["sd"].astype(np.float32)
        self.shape: tuple[int, int, int] = self.parts["train"][0].shape[1:]
        self.classes = int(self.parts["train"][1].max()) + 1

    @lru_cache  # noqa: B019 - there is one data set a process
    def floats(self, name: str) -> Part:
        """The part's images as float32 (N, C, H, W), mean 0 and standard deviation 1, and its labels."""
        images, labels = self.parts[name]
        scale, shift = 1 / (255 * self.sd), -self.mean / self.sd
        return images * scale[:, None, None] + shift[:, None, None], labels


@lru_cache(maxsize=1)
def load(path: str) -> Data:
    """Here and not in hydra_sweep.py: what a script itself caches, the processes of joblib can't find."""
    return Data(Path(path))


@dataclass(frozen=True)
class Start:
    """Weights and biases in the order of the layers, in torch's layout, and the batches: int64 (steps, batch)."""

    arrays: list[np.ndarray]
    order: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "Start":
        with np.load(path) as file:
            return cls([file[f"arr_{i}"] for i in range(len(file.files) - 1)], file["order"])


class Clock:
    """Seconds of training, epoch by epoch: `go` and `halt` as often as an epoch needs it, `lap` at its end."""

    def __init__(self, wait: Callable[[], object] = lambda: None):
        self.wait = wait  # until the device has done what it was given
        self.epochs: list[float] = []
        self._spent, self._began = 0.0, None

    def go(self) -> None:
        self.wait()
        self._began = time.perf_counter()

    def halt(self) -> None:
        if self._began is not None:
            self.wait()
            self._spent += time.perf_counter() - self._began
            self._began = None

    def lap(self) -> None:
        self.halt()
        self.epochs.append(self._spent)
        self._spent = 0.0


@dataclass
class Job:
    """One run: what to train, and where its rows go."""

    model: str
    data: Data
    epochs: int
    seed: int
    device: str = "cpu"
    log: Path | None = None
    start: Start | None = None
    batch_size: int = 64
    lr: float = 1e-3
    gamma: float = 0.7
    option: str = ""
    rows: list[dict[str, float]] = field(default_factory=list)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.start.order) if self.start else len(self.data.parts["train"][1]) // self.batch_size

    def row(self, **values: float) -> None:
        """Add a row to the log, which is on the disk when this returns."""
        self.rows.append(values)
        if self.log:
            with self.log.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(values))
                writer.writeheader()
                writer.writerows(self.rows)


@dataclass(frozen=True)
class Result:
    parameters: int
    epochs_s: Sequence[float]
    val_acc: float
    test_acc: float
    losses: Losses  # of the last epoch's steps, as far as the peer keeps them

    def line(self, job: Job, versions: dict[str, str]) -> dict[str, Any]:
        later, samples = sum(self.epochs_s[1:]), (job.epochs - 1) * job.steps_per_epoch * job.batch_size
        its = {
            "model": job.model, "seed": job.seed, "epochs": job.epochs, "steps_per_epoch": job.steps_per_epoch,
            "parameters": self.parameters, "samples_per_s": samples / later if later else None,
            "first_epoch_s": self.epochs_s[0], "train_s": sum(self.epochs_s), "val_acc": self.val_acc,
            "test_acc": self.test_acc, "versions": versions,
        }  # fmt: skip
        return its | ({"losses": self.losses} if job.start else {})


def main(train: Callable[[Job], Result], versions: Callable[[], dict[str, str]], options: Sequence[str] = ()) -> None:
    """Train as the command line says; `options` are the peer's own choices, the first is the default."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", default="0", help="a number, or FROM:TO (TO left out)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--option", default=options[0] if options else "", choices=options or None)
    args = parser.parse_args()
    first, _, end = args.seed.partition(":")
    data, start = Data(args.data), Start.read(args.start) if args.start else None
    for seed in range(int(first), int(end or first) + (0 if end else 1)):
        epochs = 1 if start else args.epochs
        job = Job(args.model, data, epochs, seed, args.device, args.log, start, option=args.option)
        print(json.dumps(train(job).line(job, versions())), flush=True)
