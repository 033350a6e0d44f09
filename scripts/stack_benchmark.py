"""What a step costs in a stack (engine=stack), and which cells a stack serves.

    python scripts/stack_benchmark.py --steps 8,16,32     a step alone, by the width of the stack, in CPU time
    python scripts/stack_benchmark.py --steps 4 --model lenet
    python scripts/stack_benchmark.py --table             which cells a stack serves, for docs/performance.md

Whole sweeps with each engine, beside other ways to make them: scripts/benchmark.py --parts sweep. Timings are no tests.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from normbench import app, build, run, streams
from normbench.config import ConfigError, RunConfig
from normbench.norm import Impossible
from normbench.stack import replicas
from normbench.sweep import jobs

MODELS = ("mlp", "lenet", "cnn", "vgg", "resnet", "vit", "rnn")
SETTINGS = ("norm=bn", "optimizer=adam", "clip=none", "preprocess=standardize", "schedule=constant", "batch_size=64",
            "device=cpu", "threads=1", "progress=false")  # fmt: skip


def composed(*overrides: str) -> RunConfig:
    app.register_plugins()
    with initialize_config_module("normbench.conf", version_base="1.3"):
        return jobs.plan(GlobalHydra.instance().config_loader(), overrides).jobs[0].config


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
    parser.add_argument("--rounds", type=int, default=5)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--steps", metavar="WIDTHS", help="time steps alone, for stacks of these widths")
    what.add_argument("--table", action="store_true")
    parser.add_argument("settings", nargs="*", default=["dataset=fashion_mnist"])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.table:
        print(table())
    else:
        step_times(args)


if __name__ == "__main__":
    main()
