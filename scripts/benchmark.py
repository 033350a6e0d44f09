"""How fast normbench trains one run and a sweep, beside other ways to do the same, and how far all are from the floor.

    python scripts/benchmark.py --parts same accuracy --python peers/bin/python     the work is the same; not timed
    python scripts/benchmark.py --parts floor run startup --python peers/bin/python    a quiet machine, an hour
    python scripts/benchmark.py --parts sweep --python peers/bin/python             a quiet machine, an hour
    python scripts/benchmark.py --table --figure        docs/performance.md and docs/benchmark.png from all of it
    python scripts/benchmark.py --quick ...             small workloads: tells that all works, not how fast it is

All of it on the CPU; a GPU has scripts/gpu_benchmark.py. Lightning, Keras, JAX and Hydra's joblib launcher are in an
environment of their own; without it they are told as not installed:

    python -m venv peers && peers/bin/pip install torch torchvision lightning keras 'jax[cpu]' hydra-joblib-launcher

The peers are scripts/peers/*.py: each trains the same network (architectures.py) on the same images with the same
optimizer, batch and schedule, evaluates after every epoch, writes a row, and is a process of its own with one thread.

same       from the same weights on the same batches, the loss of each of the first steps, beside normbench's
accuracy   test accuracies over seeds (as many as --rounds; 8), on all cores at once; rounds of `run` give some, too
floor      what the products and the memory traffic of a step take alone (benchmark_floor.py)
run        one run on one core, all in turn, the order turned round every round: samples per second without the first
           epoch and the evaluations, and the wall time from the command to the prompt
sweep      R runs on all cores, everything included, for several R: wall = a + b R
startup    processes that train nothing

Every round is a line in --out as soon as it is done; rounds that are there are not measured again, so that they can be
collected over several sittings. Ratios are taken within a round; shown are their median, smallest and largest.
Timings are no tests: the exit code is 0 where a goal is missed.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import benchmark_processes as processes
import torch
from benchmark_floor import floor_of
from benchmark_processes import PEERS, SWEEPS, Machine, Workload
from benchmark_tables import Table, as_markdown, as_text, cpu_name, load_average, tables

from normbench.dataset import DataError

__all__ = ["Table", "as_markdown", "as_text", "cpu_name", "load_average"]  # other scripts take them from here

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("same", "accuracy", "floor", "run", "sweep", "startup")
MODELS = ("mlp", "lenet", "cnn", "resnet")
ROUNDS = {"same": 1, "accuracy": 8, "floor": 3, "run": 5, "sweep": 3, "startup": 7}
FEWER = {("run", "lenet"): 4, ("run", "cnn"): 3, ("run", "resnet"): 3, ("sweep", "cnn"): 1, ("sweep", "resnet"): 1}
STEPS = 10  # whose losses are compared
STARTS = {("--help",): 0.1, ("train", "--cfg", "job"): 0.5}  # goals in seconds
BEGIN, END = "<!-- scripts/benchmark.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Amounts:
    """How much is trained: the workloads of a model, and for each sweep the numbers of runs."""

    run: Workload
    accuracy: Workload | None  # None: too long for a CPU to tell ±0.3 pp; `same` stands for it
    sweep: Workload
    fast: tuple[int, ...]  # R of the engines and of the pools
    slow: tuple[int, ...]  # R of what trains one run after another

    def sizes(self, name: str) -> tuple[int, ...]:
        """Numbers of runs of a sweep that is made in this way."""
        if name == "hydra_basic":
            return self.slow
        return self.fast[:-1] if name == "hydra_joblib" and len(self.fast) > 2 else self.fast


def amounts(model: str, quick: bool) -> Amounts:
    def of(dataset: str, size: int | None, epochs: int) -> Workload:
        return Workload(model, dataset, size, epochs)

    if quick:
        size = {"mlp": 3200, "lenet": 1280}.get(model, 320)
        its = of("fashion_mini", size, 2)
        return Amounts(its, its, its, (2, 4), (1, 2))
    if model == "mlp":
        run, accuracy = of("fashion_mnist", None, 10), of("fashion_mnist", None, 3)
        return Amounts(run, accuracy, of("fashion_mnist", None, 2), (4, 16, 64), (1, 2, 4))
    if model == "lenet":
        return Amounts(
            of("fashion_mini", None, 3), of("fashion_mnist", None, 2), of("fashion_mini", None, 2), (2, 4, 8), (1, 2, 4)
        )
    size = {"cnn": 1280}.get(model, 640)
    return Amounts(of("fashion_mini", size, 2), None, of("fashion_mini", size, 2), (2, 4), (1, 2))


# -------------------------------------------------------------------------------------------------------- measuring


class Sitting:
    """What is to be measured, and the file that it goes to."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder = args, folder
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.machine = Machine(args.python, tuple(cores))
        self.lines = read(args.out, args.quick)
        self.data: dict[Workload, Path] = {}

    def rounds(self, part: str) -> Iterator[tuple[int, str, Amounts]]:
        """The rounds that lack, all models of a round before the next round."""
        counts = {model: self.args.rounds or FEWER.get((part, model), ROUNDS[part]) for model in self.args.models}
        for number in range(1, max(counts.values()) + 1):
            for model in [model for model in self.args.models if number <= counts[model]]:
                its = amounts(model, self.args.quick)
                workload = getattr(its, part, its.run)
                done = ((line["part"], line["model"], line["round"], line["workload"]) for line in self.lines)
                if workload is not None and (part, model, number, asdict(workload)) not in done:
                    yield number, model, its

    def data_of(self, workload: Workload) -> Path:
        """The images for the peers; made once a sitting."""
        key = Workload(workload.model, workload.dataset, workload.train_size, 1)
        if key not in self.data:
            self.data[key] = self.folder / f"{len(self.data)}.npz"
            processes.write_data(key, self.data[key])
        return self.data[key]

    def wanted(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if not self.args.peers or name in self.args.peers]

    def keep(self, part: str, model: str, number: int, workload: Workload, began: str, results: dict) -> None:
        line = {
            "part": part, "model": model, "quick": self.args.quick, "round": number,
            "workload": asdict(workload), "results": results, "machine": described(),
            "load": [began, load_average()], "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        self.args.out.parent.mkdir(parents=True, exist_ok=True)
        with self.args.out.open("a+b") as file:
            file.seek(max(0, file.tell() - 1))
            torn = file.read(1) not in (b"", b"\n")  # the last sitting was killed while it wrote
            file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")
        self.lines.append(line)


def described() -> dict[str, str]:
    its = {"CPU": f"{cpu_name()}, {os.cpu_count()} cores"}
    return its | {"system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"}


def read(path: Path, quick: bool) -> list[dict[str, Any]]:
    """The lines of quick passes or of whole ones, in the order of MODELS; a torn last line is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    order = {model: number for number, model in enumerate(MODELS)}
    return sorted((x for x in lines if x["quick"] == quick), key=lambda line: order.get(line["model"], len(order)))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def part_same(sitting: Sitting) -> None:
    cores = sitting.machine.cores[-1:]
    for number, model, _ in sitting.rounds("same"):
        began = load_average()
        workload = Workload(model, "fashion_mini", 64 * STEPS, 1)
        data, start = sitting.folder / f"same_{model}.npz", sitting.folder / f"start_{model}.npz"
        processes.write_data(workload, data, start, STEPS)
        results = {}
        results["normbench"] = processes.our_run("serial", workload, 0, cores, "eval.every_steps=1")
        for name in sitting.wanted(list(PEERS)):
            results[name] = processes.peer_run(
                PEERS[name], sitting.machine, data, workload, 0, cores, "--start", str(start)
            )
            say(f"same: {model}, {name}")
        sitting.keep("same", model, number, amounts(model, sitting.args.quick).run, began, results)


def part_accuracy(sitting: Sitting) -> None:
    cores = sitting.machine.cores
    places = [cores[i : i + 1] for i in range(max(1, len(cores)))]
    for number, model, its in sitting.rounds("accuracy"):
        workload, began = its.accuracy, load_average()
        assert workload is not None
        free, jobs = list(places), trainers(sitting, workload, number - 1)

        def on_a_core(job: Callable[[Sequence[int]], dict], free: list = free) -> dict:
            place = free.pop()
            try:
                return job(place)
            finally:
                free.append(place)

        with ThreadPoolExecutor(len(places)) as pool:
            results = dict(zip(jobs, pool.map(on_a_core, jobs.values()), strict=True))
        sitting.keep("accuracy", model, number, workload, began, results)
        say(f"accuracy: {model}, seed {number - 1}")


def trainers(sitting: Sitting, workload: Workload, seed: int) -> dict[str, Callable[[Sequence[int]], dict]]:
    """All that train one run, by name: called with the cores that it gets."""
    data = sitting.data_of(workload)

    def ours_on(name: str) -> Callable[[Sequence[int]], dict]:
        engine, more = processes.way_of(name)
        return lambda cores: processes.our_run(engine, workload, seed, cores, *more)

    def peer_on(name: str) -> Callable[[Sequence[int]], dict]:
        peer, more = PEERS[name], ()
        if name == "loader":
            more = ("--option", best_loader(sitting, workload))
        return lambda cores: processes.peer_run(peer, sitting.machine, data, workload, seed, cores, *more)

    names = sitting.wanted(list(PEERS))
    own = ["normbench", *processes.also(workload.model)]
    return {name: ours_on(name) for name in own} | {name: peer_on(name) for name in names}


def best_loader(sitting: Sitting, workload: Workload) -> str:
    """The option of peers/loader_loop.py with the most samples per second here; tried once for all sittings."""
    key = Workload(workload.model, workload.dataset, workload.train_size, 2)
    known = [x for x in sitting.lines if x["part"] == "loader" and x["workload"] == asdict(key)]
    if not known:
        began, peer, results = load_average(), PEERS["loader"], {}
        data, cores = sitting.data_of(key), sitting.machine.cores[-1:]
        for option in ("items:0", "items:2", "batches:0", "batches:2"):
            results[option] = processes.peer_run(peer, sitting.machine, data, key, 0, cores, "--option", option)
        sitting.keep("loader", key.model, 1, key, began, results)
        known = sitting.lines[-1:]
    return max(known[0]["results"].items(), key=lambda pair: pair[1]["samples_per_s"])[0]


def part_floor(sitting: Sitting) -> None:
    networks = processes.module_of("networks")
    torch.set_num_threads(1)
    for number, model, its in sitting.rounds("floor"):
        began = load_average()
        network = networks.make(model, (1, 28, 28), 10)
        found = floor_of(network, torch.randn(64, 1, 28, 28))
        sitting.keep("floor", model, number, its.run, began, {"floor": found})
        say(f"floor: {model} {64 / found['floor_s']:,.0f} samples/s")


def part_run(sitting: Sitting) -> None:
    for number, model, its in sitting.rounds("run"):
        jobs, began, results = trainers(sitting, its.run, number - 1), load_average(), {}
        for name in jobs if number % 2 else reversed(jobs):
            results[name] = jobs[name](sitting.machine.cores[-1:])
        sitting.keep("run", model, number, its.run, began, {name: results[name] for name in jobs})
        say(f"run: {model} round {number}: " + "  ".join(f"{name} {speed(result)}" for name, result in results.items()))


def speed(result: dict[str, Any]) -> str:
    return f"{result['samples_per_s']:,.0f}/s" if result.get("samples_per_s") else "-"


def part_sweep(sitting: Sitting) -> None:
    for number, model, its in sitting.rounds("sweep"):
        began, results, data = load_average(), {}, sitting.data_of(its.sweep)
        names = ["normbench serial", "normbench stack", *processes.also(model), *sitting.wanted(list(SWEEPS))]
        for name in names if number % 2 else reversed(names):
            found: dict[str, Any] = {}
            for runs in its.sizes(name):
                if name.startswith("normbench"):
                    engine, more = processes.way_of(name)
                    result = processes.our_sweep(engine, sitting.machine, its.sweep, runs, *more)
                else:
                    result = processes.peer_sweep(name, sitting.machine, data, its.sweep, runs)
                if "wall_s" not in result:
                    found |= result
                    break
                found[str(runs)] = result
            results[name] = found
            walls = ", ".join(f"R={n} {r['wall_s']:.1f} s" for n, r in found.items() if isinstance(r, dict))
            say(f"sweep: {model} round {number}: {name}: {walls or found}")
        sitting.keep("sweep", model, number, its.sweep, began, {name: results[name] for name in names})


def part_startup(sitting: Sitting) -> None:
    done = {line["round"] for line in sitting.lines if line["part"] == "startup"}
    script = Path(sys.executable).with_name("normbench")
    ways = {"python -m normbench": [sys.executable, "-m", "normbench"]}
    ways |= {"normbench": [str(script)]} if script.exists() else {}
    for number in range(1, (sitting.args.rounds or ROUNDS["startup"]) + 1):
        began, results = load_average(), {}
        for arguments, goal in STARTS.items():
            for way, command in ways.items():
                if number not in done:
                    seconds, _, _ = processes.timed([*command, *arguments], sitting.machine.cores[-1:])
                    results[" ".join((way, *arguments))] = {"wall_s": seconds, "goal": goal}
        if results:
            sitting.keep("startup", "", number, Workload("", "", None, 0), began, results)


# ------------------------------------------------------------------------------------------------------------ main


def write_page(path: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Put the text between the marks of the page.

    Raises:
        ValueError: the page has no such marks.
    """
    before, mark, rest = path.read_text(encoding="utf-8").partition(begin)
    if not mark or end not in rest:
        raise ValueError(f"{path} must have the marks {begin} and {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all; none with --table or --figure")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peers", nargs="*", choices=[*PEERS, *SWEEPS], help="only these (default: all)")
    told = ", ".join(f"{part} {count}" for part, count in ROUNDS.items())
    parser.add_argument("--rounds", type=int, help=f"default: {told}; fewer of the larger networks")
    parser.add_argument("--quick", action="store_true", help="small workloads, kept apart: tells that all works")
    parser.add_argument("--python", default=sys.executable, help="of the environment with the optional packages")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmark.jsonl")
    parser.add_argument("--table", type=Path, nargs="?", const=ROOT / "docs" / "performance.md", metavar="PAGE")
    parser.add_argument("--figure", type=Path, nargs="?", const=ROOT / "docs" / "benchmark.png", metavar="PNG")
    args = parser.parse_args(argv)
    if args.parts is None:
        args.parts = [] if args.table or args.figure else list(PARTS)
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds must be above 0")
    if args.quick and (args.table or args.figure):
        parser.error(
            "a quick pass is no measurement and goes onto no page: leave --quick, or --table and --figure, out"
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        sitting = Sitting(args, Path(folder))
        for part in [part for part in PARTS if part in args.parts]:
            began = time.perf_counter()
            try:
                globals()[f"part_{part}"](sitting)
            except DataError as error:
                print(f"benchmark: {error}; or take what ships: --quick", file=sys.stderr)
                return 4
            except processes.Failed as error:
                print(f"benchmark: {error}", file=sys.stderr)
                return 1
            say(f"{part}: {time.perf_counter() - began:.0f} s")
    if not sitting.lines:
        print(f"benchmark: {args.out} has no lines; measure first: --parts run", file=sys.stderr)
        return 2
    found = tables(sitting.lines)
    if args.quick:
        found = [table for table in found if not table.title.startswith("Goals")]
    print(("A quick pass: no measurement.\n\n" if args.quick else "") + "\n\n".join(map(as_text, found)))
    if args.table:
        write_page(args.table, "\n\n".join(map(as_markdown, found)))
    if args.figure:
        from benchmark_figure import picture

        from normbench.report import style

        drawn = picture(sitting.lines)
        args.figure.write_bytes(
            style.rendered(drawn, "benchmark", "Speed of normbench beside other ways to train.")["png"]
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
