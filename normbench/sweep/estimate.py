"""What a sweep will take: a few steps of every kind of job are timed, nothing is written."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normbench import build, run, streams, words
from normbench.config import GROUPS, RunConfig
from normbench.sweep import stacks
from normbench.sweep.jobs import Job

TIMED_S = 0.3  # of each kind of job
LISTED = 100  # jobs of a dry run that get a line
BESIDE_CHECKPOINT = 5_500  # bytes of run.json, config.yaml and train.log
ROW = 250  # bytes of a row in metrics.csv and in train.log
NOT_COST = ("out", "name", "progress")


@dataclass(frozen=True)
class Cost:
    """Of one run: seconds of training and evaluations, bytes that it leaves on the disk."""

    seconds: float
    bytes: int


def table(todo: Sequence[Job]) -> str:
    """The jobs that would run, one a line, and what they take together."""
    costs: dict[str, Cost] = {}
    lines, seconds, size = [], 0.0, 0.0
    alike = Counter(kind(job.config) for job in todo)
    for job in todo:
        like = kind(job.config)
        if like not in costs:
            costs[like] = measure(job.config, alike[like])
        seconds += costs[like].seconds
        size += costs[like].bytes
        if len(lines) < LISTED:
            lines.append(f"  {job.config.folder}  {words.duration(costs[like].seconds)}")
    lines += [f"  ... and {len(todo) - LISTED:,} more"] if len(todo) > LISTED else []
    return "\n".join([*lines, f"would take {_total(seconds, size)}; nothing was started"])


def of_many(count: int, first: Job) -> str:
    """What so many jobs would take if all were like the first."""
    cost = measure(first.config, count)
    return f"if all are like the first, they take {_total(count * cost.seconds, count * cost.bytes)}"


def _total(seconds: float, size: float) -> str:
    return f"about {words.duration(seconds)} one after another, and {words.size(size)}"


def kind(config: RunConfig) -> str:
    """Jobs of one kind take the same time: they differ in seeds, and in what is no whole number, such as lr."""
    settings = {key: value for key, value in config.to_dict().items() if key not in ("seed", "data_seed", *NOT_COST)}
    for group in settings.keys() & set(GROUPS):
        settings[group] = {k: v for k, v in settings[group].items() if not isinstance(v, float) and k != "seed"}
    return json.dumps(settings, sort_keys=True)


def measure(config: RunConfig, jobs: int | None = None) -> Cost:
    """Train for a moment and throw the result away; of a stack, of so many jobs at most, it is a run's share."""
    from normbench import checkpoint

    streams.set_determinism(config.threads)
    if config.engine == "stack":
        attempt, rows, width = _stack(config, jobs)
    else:
        attempt, width = run.Attempt(config, build.build(config)), 1
        rows = attempt.rows
    times: list[float] = []

    def enough() -> bool:
        times.append(time.perf_counter())
        return times[-1] - times[0] > TIMED_S

    attempt.should_stop = enough
    first_eval_s = 0.0
    for row in rows(bar=False):
        first_eval_s = first_eval_s or attempt.progress.eval_s / len(attempt.progress.rows)
        del row
    step_s = (times[-1] - times[0]) / max(1, len(times) - 1) / width
    evaluations = 2 + attempt.total_steps // attempt.eval_every  # the first row, and the test set
    size = len(checkpoint.pack(attempt.built, attempt.progress, {}, to_resume=config.checkpoint.keep == "all"))
    kept = size if config.checkpoint.keep != "none" else 0
    return Cost(attempt.total_steps * step_s + evaluations * first_eval_s, kept + BESIDE_CHECKPOINT + ROW * evaluations)


def _stack(config: RunConfig, jobs: int | None) -> tuple[run.Attempt, Callable[..., Iterator[Any]], int]:
    """A stack as wide as they come: its first run, what gives its rows, its width."""
    from normbench.stack import replicas

    width = min(stacks.width(config), jobs or stacks.width(config))
    members = [replicas.Replica(its, build.build(its)) for its in (replace(config, seed=n) for n in range(width))]
    return members[0], replicas.Stack(members).rows, width
