"""How fast the engines are on a GPU, beside the careful loop (P2) and each other; one command of under ten minutes.

    python scripts/gpu_benchmark.py                     measure, into results/gpu.jsonl
    python scripts/gpu_benchmark.py --parts curve       one part anew
    python scripts/gpu_benchmark.py --quick             little of everything: tells that all works
    python scripts/gpu_benchmark.py --page              docs/performance.md from what was measured, on any machine

run     one run: samples per second without the first epoch and the evaluations, of P2, engine=serial and engine=graph,
        in turn, each kind in a process of its own that stays; ratios within each round
curve   a step of engine=stack by the number of runs R in it, its floor (benchmark_floor.py: what its products, or the
        bytes that it moves, take alone) and the memory that a run takes
sweep   commands from start to prompt, everything written: R runs with engine=graph, one after another, and as one stack

The lines of a part are written when it is done, in place of those of an earlier pass. Fashion-MNIST, batch 64, bn,
Adam; the learning rate times 0.7 after each epoch. P2 is eager, as on the CPU: what torch.compile would make
of it is not measured.
"""

import argparse
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import benchmark_processes as processes
import numpy as np
from benchmark import say, write_page
from benchmark_processes import Workload
from benchmark_tables import Table, as_markdown, as_text, cpu_name
from stack_benchmark import NOTHING, composed

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- scripts/gpu_benchmark.py -->", "<!-- end of the GPU's -->"
PARTS = ("run", "curve", "sweep")
RUNS = {"mlp": 12800, "lenet": 12800, "resnet": 6400}  # images of three epochs
WAYS = {  # of ours: engine and settings
    "serial": ("serial", []),
    "graph": ("graph", []),
    "graph, channels_last=true": ("graph", ["channels_last=true"]),
}
WIDTHS = {"mlp": (1, 4, 16, 64, 128, 256, 512), "lenet": (1, 4, 16, 64, 128)}
SWEEPS = {  # epochs of 54,000 images; R of engine=graph, R of engine=stack
    "mlp": (10, (2, 8), (64, 256)),
    "lenet": (5, (2, 8), (64,)),
}
GOALS = {
    ("run", "mlp"): 5.0,
    ("run", "lenet"): 4.0,
    ("run", "resnet"): 2.5,
    ("sweep", "mlp"): 15.0,
    ("sweep", "lenet"): 4.0,
}
STEPS = 200  # of a stack between two readings of the clock
Line = dict[str, Any]


# -------------------------------------------------------------------------------- in a process of its own that stays


def careful(model: str, data: str, epochs: int, seed: int) -> float:
    """Samples per second of P2."""
    peer, contract = processes.module_of("bare_loop"), processes.module_of("contract")
    job = contract.Job(model, contract.load(data), epochs, seed, "cuda")
    return peer.train(job).line(job, {})["samples_per_s"]


def ours(model: str, way: str, size: int, epochs: int, seed: int) -> float:
    """Samples per second of a run of normbench."""
    from normbench import records, run

    engine, more = WAYS[way]
    with tempfile.TemporaryDirectory() as folder:
        its = [f"engine={engine}", "device=cuda", f"seed={seed}", f"out={folder}", *more]
        outcome = run.run(
            composed(*Workload(model, "fashion_mnist", size, epochs).overrides(), *its), lambda _: None, bar=False
        )
        if outcome.state != "complete":
            raise RuntimeError(outcome.record.get("reason"))
        rows = records.read_metrics(outcome.folder / "metrics.csv")
    first = next(row for row in rows if row["epoch"] >= 1)
    return (rows[-1]["examples"] - first["examples"]) / (rows[-1]["train_s"] - first["train_s"])


def curve(model: str, widths: Sequence[int], rates: int) -> list[Line]:
    """Of stacks of these widths: seconds of a step, the floor, and the memory that a replica takes.

    Args:
        rates: so many learning rates, the runs shared out among them.
    """
    import torch
    from benchmark_floor import floor_of

    from normbench import build, streams
    from normbench.stack import replicas

    streams.set_determinism(1)
    config = composed(*Workload(model, "fashion_mnist", None, 1).overrides(), "engine=stack", "device=cuda")
    lr = config.optimizer["lr"]
    configs = [
        replace(config, seed=n, optimizer=config.optimizer | {"lr": lr * (1 + n * rates // max(widths) / rates)})
        for n in range(max(widths))
    ]
    builts, found = [build.build(its) for its in configs], []
    builts[0].inputs.split("train")  # floats, which are no replica's
    for width in widths:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        spread = range(0, len(builts), len(builts) // width)[:width]
        stack = replicas.Stack([replicas.Replica(configs[n], builts[n]) for n in spread])
        for member in stack.replicas:
            member.eval_every, member.stop_step = STEPS, 4 * STEPS
        stack.measure = lambda width=width: [NOTHING] * width  # type: ignore[method-assign]
        images, _ = next(stack.batches(bar=False))
        laps = []
        for _ in stack.rows(bar=False):
            torch.cuda.synchronize()
            laps.append(time.perf_counter())
        steps = [(b - a) / STEPS for a, b in pairwise(laps[1:])]  # in the first the step is recorded
        taken = torch.cuda.max_memory_allocated() - before
        floor = floor_of(stack.network, images) if rates == 1 else {}
        found.append({"R": width, "rates": rates, "step_s": median(steps), "memory": taken / width, **floor})
        del stack, images, member
    return found


# -------------------------------------------------------------------------------------------------------- the parts


class Workers:
    """A process for P2 and one for normbench: what one sets in torch, the other does not meet."""

    def __init__(self):
        spawn = multiprocessing.get_context("spawn")
        self.pools = {name: ProcessPoolExecutor(1, mp_context=spawn) for name in ("careful", "ours")}

    def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.pools["careful" if function is careful else "ours"].submit(function, *arguments).result()

    def close(self) -> None:
        for pool in self.pools.values():
            pool.shutdown()


def part_run(workers: Workers, quick: bool, folder: Path) -> list[Line]:
    rounds, epochs, lines = (1, 2, []) if quick else (5, 3, [])
    for model, count in RUNS.items():
        size = 1280 if quick else count
        data = folder / f"{model}.npz"
        processes.write_data(Workload(model, "fashion_mnist", size, 1), data)
        ways = [way for way in WAYS if model == "resnet" or "channels_last" not in way]
        for number in range(rounds):
            line: Line = {"part": "run", "model": model, "round": number, "size": size, "epochs": epochs}
            for who in ["careful", *ways] if number % 2 else [*reversed(ways), "careful"]:
                arguments = (str(data), epochs) if who == "careful" else (who, size, epochs)
                function = careful if who == "careful" else ours
                line[who] = workers.do(function, model, *arguments, number)
            lines.append(line)
            say(f"run: {model}: " + ", ".join(f"{who} {line[who]:,.0f}/s" for who in ("careful", *ways)))
    return lines


def part_curve(workers: Workers, quick: bool, folder: Path) -> list[Line]:
    lines = []
    for model, widths in WIDTHS.items():
        for rates in (1, 8):
            some = widths[:2] if quick else widths if rates == 1 else [w for w in widths if w in (64, 256)]
            for its in workers.do(curve, model, some, rates):
                lines.append({"part": "curve", "model": model, **its})
                say(f"curve: {model} R={its['R']}, {rates} rates: {its['step_s'] * 1e6:,.0f} us a step")
    return lines


def part_sweep(workers: Workers, quick: bool, folder: Path) -> list[Line]:
    lines = []
    for model, (epochs, of_graph, of_stack) in SWEEPS.items():
        workload = Workload(model, "fashion_mnist", 6400 if quick else None, 2 if quick else epochs)
        machine = processes.Machine(sys.executable, (), "cuda")
        for engine, sizes in (("graph", of_graph), ("stack", of_stack)):
            for runs in sizes[:2] if quick else sizes:
                result = processes.our_sweep(engine, machine, workload, runs)
                if "wall_s" not in result:
                    raise processes.Failed(f"engine={engine} refused what was asked of it: {result}")
                lines.append(
                    {"part": "sweep", "model": model, "engine": engine, "R": runs, "epochs": workload.epochs, **result}
                )
                say(f"sweep: {model} {engine} R={runs}: {result['wall_s']:.1f} s")
    return lines


# ------------------------------------------------------------------------------------------------------------ tables


def tables(lines: Sequence[Line]) -> list[Table]:
    makers = {"run": run_table, "curve": curve_table, "sweep": sweep_table}
    return [
        makers[part]([line for line in lines if line["part"] == part])
        for part in PARTS
        if any(line["part"] == part for line in lines)
    ]


def run_table(lines: Sequence[Line]) -> Table:
    rows = []
    for model in dict.fromkeys(line["model"] for line in lines):
        its = [line for line in lines if line["model"] == model]
        goal = GOALS["run", model]
        for who in ("careful", *WAYS):
            if who in its[0]:
                over = [line[who] / line["careful"] for line in its]
                reached = (
                    "" if not who.startswith("graph") else f">= {goal:g}: {'PASS' if median(over) >= goal else 'below'}"
                )
                rows.append([
                    model, "P2 careful loop" if who == "careful" else f"normbench, engine={who}",
                    f"{median(line[who] for line in its):,.0f}",
                    "1" if who == "careful" else f"{median(over):.2f} [{min(over):.2f}, {max(over):.2f}]", reached,
                ])  # fmt: skip
    return Table(
        f"One run on a GPU, {len(lines) // len({line['model'] for line in lines})} rounds",
        ["model", "", "samples/s", "times P2", "goal"], rows,
    )  # fmt: skip


def curve_table(lines: Sequence[Line]) -> Table:
    rows = [
        [
            line["model"], str(line["R"]), str(line["rates"]), f"{line['step_s'] * 1e6:,.0f}",
            f"{line['step_s'] / line['R'] * 1e6:,.1f}", f"{64 * line['R'] / line['step_s'] / 1e6:.2f}",
            f"{line['floor_s'] / line['step_s']:.0%}" if "floor_s" in line else "", f"{line['memory'] / 2**20:,.1f}",
        ]
        for line in lines
    ]  # fmt: skip
    header = [
        "model",
        "R",
        "learning rates",
        "step, us",
        "a run's, us",
        "million samples/s",
        "of the floor",
        "MiB a run",
    ]
    return Table("A step of a stack of R runs on a GPU, without evaluations", header, rows)


def sweep_table(lines: Sequence[Line]) -> Table:
    rows = []
    for model in dict.fromkeys(line["model"] for line in lines):
        its = [line for line in lines if line["model"] == model]
        graph = {line["R"]: line for line in its if line["engine"] == "graph"}
        slope, base = np.polyfit(list(graph), [line["wall_s"] for line in graph.values()], 1)
        for line in its:
            alone = base + slope * line["R"]
            accuracy = [100 * its for its in line["test_acc"]]
            spread = f" ± {1.96 * stdev(accuracy) / len(accuracy) ** 0.5:.2f}" if len(accuracy) > 2 else ""
            rows.append([
                model, str(line["epochs"]), line["engine"], str(line["R"]), f"{line['wall_s']:.1f}",
                f"{3600 * line['R'] / line['wall_s']:,.0f}",
                "" if line["engine"] == "graph" else f"≈ {alone / line['wall_s']:.1f}{reached(line, its, alone)}",
                f"{fmean(accuracy):.2f}{spread}",
            ])  # fmt: skip
    header = ["model", "epochs", "engine", "R", "wall, s", "runs an hour", "times engine=graph", "test accuracy, %"]
    return Table("A sweep of R runs on a GPU, from command to prompt; ≈: engine=graph read off its line", header, rows)


def reached(line: Line, its: Sequence[Line], alone: float) -> str:
    """Whether the widest stack meets the goal."""
    if line["R"] < max(other["R"] for other in its):
        return ""
    goal = GOALS["sweep", line["model"]]
    return f" (>= {goal:g}: {'PASS' if alone / line['wall_s'] >= goal else 'below'})"


# -------------------------------------------------------------------------------------------------------------- main


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu.jsonl")
    parser.add_argument("--page", type=Path, nargs="?", const=ROOT / "docs" / "performance.md", metavar="PAGE")
    args = parser.parse_args(argv)
    if args.quick and args.page:
        parser.error("a quick pass is no measurement and goes onto no page: leave --quick or --page out")
    everything = [json.loads(text) for text in args.out.read_text().splitlines()] if args.out.exists() else []
    lines, others = ([line for line in everything if (line["quick"] == args.quick) is its] for its in (True, False))
    wanted = args.parts or ([] if args.page else PARTS)
    if wanted:
        os.environ |= processes.one_thread()
        import torch

        if not torch.cuda.is_available():
            parser.error("this needs a CUDA device, torch finds none")
        its = f"{torch.cuda.get_device_name()}, {cpu_name()}, {os.cpu_count()} cores"
        about = {"quick": args.quick, "machine": its, "torch": torch.__version__}
        workers = Workers()
        with tempfile.TemporaryDirectory() as folder:
            for part in wanted:
                began = time.perf_counter()
                made = globals()[f"part_{part}"](workers, args.quick, Path(folder))
                at = datetime.now(UTC).isoformat(timespec="seconds")
                lines = [line for line in lines if line["part"] != part] + [
                    {**line, **about, "at": at} for line in made
                ]
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text("".join(json.dumps(line) + "\n" for line in [*others, *lines]))
                say(f"{part}: {time.perf_counter() - began:.0f} s")
        workers.close()
    if not lines:
        parser.error(f"{args.out} has no lines; measure first, on a GPU")
    found = tables(lines)
    print("\n\n".join(map(as_text, found)))
    if args.page:
        about = "\n".join(dict.fromkeys(f"{its['machine']}, torch {its['torch']}, {its['at'][:10]}." for its in lines))
        write_page(args.page, "\n\n".join([about, *map(as_markdown, found)]), BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
