"""What a run costs beside its training: composing, checking, locking, recording, reading again.

    python scripts/sweep_cost.py                    a few minutes
    python scripts/sweep_cost.py --out /shared/x    on the file system that the runs would be on

Prints the table of docs/scaling.md. Each number is the wall time of one call for the whole sweep, divided by its
runs (the smallest of the repetitions), or the median over the runs of one call each. The runs are mlp on the synthetic
data set, one epoch, one thread. Timings are no tests.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

from benchmark import cpu_name, load_average
from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.launcher import Launcher

from normbench import app, build, records, run, streams
from normbench.config import RunConfig, to_yaml
from normbench.report.collect import collect
from normbench.sweep import jobs, session

Row = tuple[str, str, str]


class Begun(BaseException):
    """All is checked: the first run would begin now."""


class NoLauncher(Launcher):
    """Begins nothing."""

    def setup(self, **_: Any) -> None: ...

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        raise Begun


@contextmanager
def hydra() -> Iterator[ConfigLoader]:
    with initialize_config_module("normbench.conf", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def typed(count: int, out: Path) -> list[str]:
    """A sweep of so many runs: four arms, and seeds."""
    seeds = ",".join(map(str, range(count // 4)))
    arms = ["norm=none,bn", "optimizer=sgd,adam", f"seed={seeds}"]
    return ["dataset=synthetic", "epochs=1", "progress=false", f"out={out}", *arms]


def seconds(call: Callable[[], object], repeat: int = 1) -> float:
    found = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def before_the_first(count: int, out: Path, repeat: int) -> tuple[float, float]:
    """Seconds for composing all jobs; and for all that a sweep does before it begins its first run."""

    def until_it_begins() -> None:
        with redirect_stdout(StringIO()):
            try:
                session.run_sweep(loader, sweep, NoLauncher(), dry_run=False, yes=True)
            except Begun:
                return
        raise AssertionError("the sweep began nothing")

    sweep = typed(count, out)
    with hydra() as loader:
        return seconds(lambda: jobs.plan(loader, sweep), repeat), seconds(until_it_begins, repeat)


def writing(config: RunConfig) -> tuple[float, float]:
    """Seconds of building a run; of its lock and of all that a short one writes beside its log."""
    start = time.perf_counter()
    attempt = run.Attempt(config, build.build(config))
    built = time.perf_counter()
    with records.Lock(config.folder):
        records.write(config.folder / "config.yaml", to_yaml(config).encode())
        attempt.commit("running")
        attempt.save()
        attempt.commit("paused")
    return built - start, time.perf_counter() - built


def rows(sizes: Sequence[int], out: Path, repeat: int) -> Iterator[Row]:
    for count in sizes:
        composing, checking = before_the_first(count, out / "none", repeat)
        yield "composing and checking the settings (`jobs.plan`)", f"{count} jobs", ms(composing / count)
        yield "all before the first run begins, that included", f"{count} jobs", ms(checking / count)
    with hydra() as loader:
        configs = [job.config for job in jobs.plan(loader, typed(sizes[0], out / "done")).jobs]
        unused = [job.config for job in jobs.plan(loader, typed(sizes[0], out / "written")).jobs]
    streams.set_determinism(threads=1)
    writes = [writing(config) for config in unused]
    whole = [seconds(lambda c=config: run.run(c, announce=lambda _: None)) for config in configs]
    folders = [config.folder for config in configs]
    each = f"{len(configs)} runs"
    yield "building a run: data, network, optimizer", each, ms(median(w[0] for w in writes))
    yield (
        "lock, settings, metrics, `run.json` twice, checkpoint: written and synced",
        each,
        ms(median(w[1] for w in writes)),
    )
    yield "a whole run of 7 steps, all of that included", each, ms(median(whole))
    yield "`records.verify`", each, ms(median(seconds(lambda f=f: records.verify(f), repeat) for f in folders))
    yield "skipping a finished run", each, ms(median(seconds(lambda c=c: run.finished(c), repeat) for c in configs))
    yield "the report's reading", each, ms(seconds(lambda: collect([out / "done"]), repeat) / len(configs))


def ms(value: float) -> str:
    return f"{1000 * value:.2f} ms"


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a run costs beside its training.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000], help="jobs of a sweep, each >= 4")
    parser.add_argument("--repeat", type=int, default=3, help="how often what writes nothing is timed")
    parser.add_argument("--out", type=Path, help="where to write (default: the folder for temporary files)")
    options = parser.parse_args(args)
    if min(options.sizes) < 4 or options.repeat < 1:
        parser.error("--sizes must be >= 4, --repeat >= 1")
    app.register_plugins()
    print("| what | measured on | for each run |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        for row in rows(options.sizes, Path(folder), options.repeat):
            print(f"| {' | '.join(row)} |", flush=True)
    print(f"\n{cpu_name()}, one thread, load average {load_average()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
