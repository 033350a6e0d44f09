"""How much sooner a sweep is done with engine=stack than with engine=serial, and than the loop that most people write.

    python scripts/stack_benchmark.py                     64 runs of mlp on Fashion-MNIST, five rounds: an hour
    python scripts/stack_benchmark.py --runs 16 --epochs 1 --rounds 1 dataset=fashion_mini
    python scripts/stack_benchmark.py --model lenet
    python scripts/stack_benchmark.py --steps 8,16,32     a step alone, by the width of the stack, in CPU time
    python scripts/stack_benchmark.py --table             which cells a stack serves, for docs/performance.md

A round has, in turn: the examples loop (peers/examples_loop.py) for --seconds, the sweep with engine=serial and the
sweep with engine=stack, each a whole process of `normbench train -m` with all workers, from its start to the prompt.
The examples loop's time for the sweep is that of its steps, one run after another, without evaluations and start-up.
Shown are the ratios within each round and their medians, on the wall and in CPU seconds of all processes, which a busy
machine spoils less (they do not count that the examples loop leaves all cores but one idle). Beside them stand the
accuracies: the work is the same.
Timings are no tests.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from benchmark import Job, as_torch_comes, cpu_name, load_average
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from peers import examples_loop

from normbench import app, assembly, build, records, run, streams
from normbench.config import ConfigError, RunConfig
from normbench.norm import Impossible
from normbench.stack import replicas
from normbench.sweep import jobs
from normbench.sweep.pool import default_workers

MODELS = ("mlp", "lenet", "cnn", "vgg", "resnet", "vit", "rnn")
SETTINGS = ("norm=bn", "optimizer=adam", "clip=none", "preprocess=standardize", "schedule=constant", "batch_size=64",
            "device=cpu", "threads=1", "progress=false")  # fmt: skip


def composed(*overrides: str) -> RunConfig:
    app.register_plugins()
    with initialize_config_module("normbench.conf", version_base="1.3"):
        return jobs.plan(GlobalHydra.instance().config_loader(), overrides).jobs[0].config


# --------------------------------------------------------------------------------------------------------- sweeps


@dataclass(frozen=True)
class Swept:
    """Wall seconds, those of the CPU in all processes, the runs' own seconds (train_s, eval_s), the test accuracies."""

    wall_s: float
    cpu_s: float
    runs_s: float
    accuracies: list[float]


def sweep(engine: str, runs: int, settings: Sequence[str], out: Path) -> Swept:
    command = [sys.executable, "-m", "normbench", "train", "-m", f"engine={engine}", f"seed=range({runs})", *settings]
    began, used = time.perf_counter(), cpu_of_children()
    subprocess.run(
        [*command, f"out={out}"], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    wall_s, cpu_s = time.perf_counter() - began, cpu_of_children() - used
    found = [records.verify(folder) for folder in records.find_runs(out)]
    return Swept(wall_s, cpu_s, sum(r["train_s"] + r["eval_s"] for r in found), [r["test_acc"] for r in found])


def cpu_of_children() -> float:
    """CPU seconds of all ended processes that descend from this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def examples(job: Job, seconds: float) -> tuple[float, float]:
    """Seconds that a step of the examples loop takes: on the wall, and of the CPU."""
    as_torch_comes()
    model = assembly.make(job.config, job.preprocess, job.data.train[0], len(job.data.classes))
    same: dict[str, Any] = {"batch_size": job.config.batch_size, "lr": job.config.optimizer["lr"], "warm_up": 5}
    once = examples_loop.train(model, job.pictures, steps=10, **same) / 10
    steps = max(10, round(seconds / once))
    used = time.process_time()
    wall_s = examples_loop.train(model, job.pictures, steps=steps, **same) / steps
    return wall_s, (time.process_time() - used) / (steps + same["warm_up"])


def sweeps(args: argparse.Namespace) -> None:
    settings = [*SETTINGS, f"model={args.model}", f"epochs={args.epochs}", *args.settings]
    job, workers = Job(composed(*settings)), default_workers(1)
    steps = args.runs * args.epochs * job.steps_per_epoch
    print(f"{cpu_name()}, {os.cpu_count()} cores, {workers} workers, torch {torch.__version__}")
    print(f"{args.runs} runs of {args.model}, {args.epochs} epochs, {steps:,} steps in all; load {load_average()}")
    ratios: dict[str, list[float]] = {name: [] for name in RATIOS}
    accuracies: dict[str, list[float]] = {"serial": [], "stack": []}
    for number in range(1, args.rounds + 1):
        (wall_s, cpu_s), found = examples(job, args.seconds), {}
        for engine in ("serial", "stack") if number % 2 else ("stack", "serial"):
            with tempfile.TemporaryDirectory() as out:
                found[engine] = sweep(engine, args.runs, settings, Path(out))
            accuracies[engine] += found[engine].accuracies
        serial, stack = found["serial"], found["stack"]
        its = (
            serial.wall_s / stack.wall_s, steps * wall_s / stack.wall_s,
            serial.cpu_s / stack.cpu_s, steps * cpu_s / stack.cpu_s,
        )  # fmt: skip
        for name, ratio in zip(RATIOS, its, strict=True):
            ratios[name].append(ratio)
        beside = [(its.wall_s * workers - its.runs_s) / args.runs for its in (serial, stack)]
        print(
            f"round {number}: wall (CPU) seconds: serial {serial.wall_s:.1f} ({serial.cpu_s:.1f}), stack "
            f"{stack.wall_s:.1f} ({stack.cpu_s:.1f}), examples loop {steps * wall_s:.0f} ({steps * cpu_s:.0f}); beside "
            f"training and evaluations a serial run takes {beside[0]:.2f} s, a stack's {beside[1]:.2f}; load "
            f"{load_average()}",
            flush=True,
        )
    for name, its in ratios.items():
        print(f"stack over {name}: median {median(its):.2f}, rounds {min(its):.2f} to {max(its):.2f}")
    for engine, its in accuracies.items():
        print(f"test accuracy {engine}: mean {mean(its):.4f}, standard deviation {stdev(its):.4f}")


RATIOS = ("the serial pool, wall", "the examples loop run after run, wall",
          "the serial pool, CPU seconds", "the examples loop, CPU seconds")  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- steps


def step_times(args: argparse.Namespace) -> None:
    """CPU microseconds of a replica's step, evaluations left out, beside those of a serial run."""
    settings = [*SETTINGS, f"model={args.model}", "epochs=1", *(args.settings or ["dataset=fashion_mnist"])]
    config = composed(*settings)
    streams.set_determinism(1)
    for width in map(int, args.steps.split(",")):
        rounds = [(_serial_us(config), _stack_us(config, width)) for _ in range(args.rounds)]
        serial, stack = (median(column) for column in zip(*rounds, strict=True))
        ratio = median(a / b for a, b in rounds)
        print(f"{args.model}: serial {serial:.0f} us a step, stack of {width} {stack:.0f} us: {ratio:.2f}", flush=True)


STEPS, NOTHING = 300, {"train_eval_loss": 0.0, "train_eval_acc": 0.0, "val_loss": 0.0, "val_acc": 0.0}


def _serial_us(config: RunConfig) -> float:
    attempt = run.Attempt(config, build.build(config))
    attempt.eval_every = attempt.stop_step = STEPS
    attempt.measure = lambda: NOTHING
    return _cpu_us(attempt.rows(bar=False))


def _stack_us(config: RunConfig, width: int) -> float:
    members = [replicas.Replica(c, build.build(c)) for c in (replace(config, seed=n) for n in range(width))]
    stack = replicas.Stack(members)
    for member in members:
        member.eval_every = member.stop_step = STEPS
    stack.measure = lambda: [NOTHING] * width
    return _cpu_us(stack.rows(bar=False)) / width


def _cpu_us(rows: Any) -> float:
    next(rows)  # before the first step
    began = time.process_time()
    for _ in rows:
        pass
    return (time.process_time() - began) / STEPS * 1e6


# ---------------------------------------------------------------------------------------------------------- table


def served(*overrides: str) -> bool | None:
    """Whether a stack serves this run; None: there is no such run with any engine."""
    config = composed("dataset=synthetic", "dataset.image_size=32", "preprocess=scale", "device=cpu", *overrides)
    try:
        build.build(config)
    except (ConfigError, Impossible):
        return None
    try:
        build.build(replace(config, engine="stack"))
    except Impossible:
        return False
    return True


def table() -> str:
    """The support table in Markdown, from what the engine itself accepts."""
    conf = Path(build.__file__).parent.parent / "conf"
    norms, optimizers, clips = (
        sorted(p.stem for p in (conf / g).glob("*.yaml")) for g in ("norm", "optimizer", "clip")
    )
    words = {True: "yes", False: "refused", None: "-"}
    lines = [f"| model | {' | '.join(norms)} |", "|---" * (len(norms) + 1) + "|"]
    for model in MODELS:
        extra = {"cnn": ["model.norm_full=false"]}.get(model, [])
        cells = []
        for norm in norms:
            more = ["norm.num_groups=2"] if norm == "gn" else []
            cells.append(words[served(f"model={model}", f"norm={norm}", *more, *extra)])
        lines.append(f"| {model} | {' | '.join(cells)} |")
    for group, names in (("optimizer", optimizers), ("clip", clips)):
        yes = [name for name in names if served(f"{group}={name}")]
        no = [name for name in names if name not in yes]
        lines += ["", f"{group}: {', '.join(yes)}; refused: {', '.join(no)}."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mlp", choices=("mlp", "lenet", "cnn"))
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of the examples loop in each round")
    parser.add_argument("--steps", metavar="WIDTHS", help="time steps alone, for stacks of these widths")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("settings", nargs="*", default=["dataset=fashion_mnist"])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.table:
        print(table())
    elif args.steps:
        step_times(args)
    else:
        sweeps(args)


if __name__ == "__main__":
    main()
