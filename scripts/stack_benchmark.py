"""How much sooner a sweep is done with engine=stack than with engine=serial, and than the loop that most people write.

    python scripts/stack_benchmark.py                     64 runs of mlp on Fashion-MNIST, five rounds: an hour
    python scripts/stack_benchmark.py --runs 16 --epochs 1 --rounds 1 dataset=fashion_mini
    python scripts/stack_benchmark.py --model lenet
    python scripts/stack_benchmark.py --steps 8,16,32     a step alone, by the width of the stack, in CPU time
    python scripts/stack_benchmark.py --table             which cells a stack serves, for docs/performance.md

A round has, in turn: the examples loop (peers/examples_loop.py) for --seconds, the sweep with engine=serial and the
sweep with engine=stack, each a whole process of `normbench train -m` with all workers, from its start to the prompt.
The examples loop's time for the sweep is that of its steps, one run after another, without evaluations and start-up.
Shown are the ratios within each round and their medians. Beside them stand the accuracies: the work is the same.
Timings are no tests.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
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


def sweep(engine: str, runs: int, settings: Sequence[str], out: Path) -> tuple[float, float, list[float]]:
    """Wall seconds, the sum of train_s and eval_s, and the test accuracies."""
    command = [sys.executable, "-m", "normbench", "train", "-m", f"engine={engine}", f"seed=range({runs})", *settings]
    began = time.perf_counter()
    subprocess.run(
        [*command, f"out={out}"], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    seconds = time.perf_counter() - began
    found = [records.verify(folder) for folder in records.find_runs(out)]
    return seconds, sum(r["train_s"] + r["eval_s"] for r in found), [r["test_acc"] for r in found]


def examples(job: Job, seconds: float) -> float:
    """Seconds that a step of the examples loop takes."""
    as_torch_comes()
    model = assembly.make(job.config, job.preprocess, job.data.train[0], len(job.data.classes))
    same: dict[str, Any] = {"batch_size": job.config.batch_size, "lr": job.config.optimizer["lr"], "warm_up": 5}
    once = examples_loop.train(model, job.pictures, steps=10, **same) / 10
    steps = max(10, round(seconds / once))
    return examples_loop.train(model, job.pictures, steps=steps, **same) / steps


def sweeps(args: argparse.Namespace) -> None:
    settings = [*SETTINGS, f"model={args.model}", f"epochs={args.epochs}", *args.settings]
    job, workers = Job(composed(*settings)), default_workers(1)
    steps = args.runs * args.epochs * job.steps_per_epoch
    print(f"{cpu_name()}, {os.cpu_count()} cores, {workers} workers, torch {torch.__version__}")
    print(f"{args.runs} runs of {args.model}, {args.epochs} epochs, {steps:,} steps in all; load {load_average()}")
    over_serial, over_examples, accuracies = [], [], {"serial": [], "stack": []}
    for number in range(1, args.rounds + 1):
        step_s, found = examples(job, args.seconds), {}
        for engine in ("serial", "stack") if number % 2 else ("stack", "serial"):
            with tempfile.TemporaryDirectory() as out:
                found[engine] = sweep(engine, args.runs, settings, Path(out))
            accuracies[engine] += found[engine][2]
        serial, stack = found["serial"][0], found["stack"][0]
        over_serial.append(serial / stack)
        over_examples.append(steps * step_s / stack)
        beside = (stack * workers - found["stack"][1]) / args.runs
        print(
            f"round {number}: serial {serial:.1f} s, stack {stack:.1f} s ({over_serial[-1]:.2f} times as fast; "
            f"{beside:.2f} s a run beside training and evaluations); examples loop "
            f"{job.config.batch_size / step_s:,.0f}/s, {steps * step_s:.0f} s ({over_examples[-1]:.1f} times); "
            f"load {load_average()}",
            flush=True,
        )
    for name, ratios in (("the serial pool", over_serial), ("the examples loop, one run after another", over_examples)):
        print(f"stack over {name}: median {median(ratios):.2f}, rounds {min(ratios):.2f} to {max(ratios):.2f}")
    for engine, its in accuracies.items():
        print(f"test accuracy {engine}: mean {mean(its):.4f}, standard deviation {stdev(its):.4f}")


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
