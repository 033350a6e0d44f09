"""The runs of a comparison: ordinary ones, trained by the launcher of sweeps, skipped where they are done."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from normbench import app, records, run
from normbench.compare import budget
from normbench.config import RunConfig
from normbench.report.selection import scored_accuracy
from normbench.sweep import devices, pool
from normbench.sweep.session import InUseElsewhere, SweepFailed


@dataclass
class Launch:
    """Called with runs, gives their scores.

    workers: processes at most. ends: when all must have ended, by time.monotonic, with a report of so many `runs`: so
    much earlier training is stopped, as the report would take by how busy the machine is when a call begins (`until`).
    """

    workers: int
    timeout_s: float | None = None
    ends: float | None = None
    runs: int = 0
    until: float | None = None
    problems: dict[Path, str] = field(default_factory=dict)
    slots: pool.Workers | None = None
    trained: int = 0
    took_s: float = 0.0

    def has_time_for(self, runs: int) -> bool:
        """Whether so many more can be trained until the end, as fast as those of this call so far; yes, if unknown."""
        if self.until is None or not self.trained:
            return True
        return time.monotonic() + runs * self.took_s / self.trained <= self.until

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, *_: object) -> None:
        if self.slots is not None:
            self.slots.close()

    def __call__(self, what: str, configs: Sequence[RunConfig]) -> list[float | None]:
        """The score of each; None where a run failed, which is told and kept in `problems`.

        Raises:
            InUseElsewhere: another process trains one of them, so what comes next is not known yet.
            SweepFailed: the disk is full. pool.TimeUp: at `until`, all has been stopped.
        """
        unique = {config.folder: config for config in configs}
        ended: dict[Path, pool.Result | None] = {folder: run.finished(config) for folder, config in unique.items()}
        todo = [config for folder, config in unique.items() if ended[folder] is None]
        print(f"{what}: {len(unique)} runs, {len(unique) - len(todo)} done before", flush=True)
        if self.ends is not None and todo:
            self.until = self.ends - budget.report_s(self.runs, budget.slowness())
            if time.monotonic() >= self.until:
                raise pool.TimeUp
        if todo:
            ended |= {c.folder: result for c, result in zip(todo, self._train(todo), strict=True)}
        for config in todo:
            self._note(config, ended)
        return [_score(config, ended[config.folder]) for config in configs]

    def _train(self, todo: Sequence[RunConfig]) -> list[pool.Result]:
        if self.slots is None:
            self.slots = pool.Workers(self.workers, devices.gpus(todo))
        began = time.monotonic()
        with app.told(len(todo), 1) as (told, looked):
            found = pool.run_all(
                todo, self.slots, timeout_s=self.timeout_s, until=self.until, in_order=self.until is not None,
                told=told, looked=looked,
            )  # fmt: skip
        self.trained, self.took_s = self.trained + len(todo), self.took_s + time.monotonic() - began
        return found

    def _note(self, config: RunConfig, ended: dict[Path, pool.Result | None]) -> None:
        result, folder = ended[config.folder], config.folder
        if isinstance(result, records.InUse):
            ended[folder] = result = run.finished(config)  # by now, perhaps
            if result is None:
                raise InUseElsewhere(f"{folder} is trained by another process; when it is done: the same command again")
        if isinstance(result, Exception):
            self.problems[folder] = f"{pool.ending(result)}: {result}"
        elif result is not None and result.state in ("failed", "interrupted"):
            self.problems[folder] = f"{result.state}: {' '.join((result.record['reason'] or '').split())}"
            if result.disk_is_full:
                print(f"normbench: {self.problems[folder]}", flush=True)
                raise SweepFailed


def _score(config: RunConfig, result: pool.Result | None) -> float | None:
    """Validation accuracy at the run's stop_epoch, or at its end; diverged: 1 / classes. None: there is none."""
    if not isinstance(result, run.Outcome) or result.state not in ("complete", "diverged", "paused"):
        return None
    record, stop = result.record, config.stop_epoch
    lost = result.state == "diverged"
    if stop is not None:  # it may have gone on since
        last = stop * record["total_steps"] / config.epochs
        lost = lost and record["diverged_step"] <= last
        rows = records.read_metrics(result.folder / "metrics.csv")
        value = max((row for row in rows if row["step"] <= last), key=lambda row: row["step"])["val_acc"]  # type: ignore[operator, arg-type, return-value]
    else:
        value = record["val_acc"]
    if lost:
        return scored_accuracy(math.nan, True, record["n_classes"])
    return value
