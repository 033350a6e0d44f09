"""How fast normbench trains and starts, beside two loops that anybody could write.

    python scripts/benchmark.py                           about four minutes
    python scripts/benchmark.py --dataset fashion_mini --rounds 2 --seconds 1
    python scripts/benchmark.py --markdown FILE           the same tables in Markdown, too

Training, in samples per second, on one CPU thread, batch 64, norm=bn, Adam:
  normbench      a real run as `normbench train` makes it: run folder, checkpoint and metrics at every evaluation,
                 clipping and its telemetry; the clock is its own train_s, which leaves evaluation out
  bare loop      peers/bare_loop.py: float tensors in memory, preprocessed beforehand; fused Adam; the same clipping
  examples loop  peers/examples_loop.py: PIL images, ToTensor, Normalize, DataLoader; Adam as it comes; no clipping
All three train the same network from the same weights, on the same images, preprocessed the same way. First each of
them trains one epoch, and the accuracies are printed side by side: they do the same work. Then they are timed in
turn, A B C A B C, so that what else the machine does falls on all of them. Shown is the median over the rounds of the
ratio within a round, with the smallest and the largest.

Start-up: the median wall time of whole processes. Timings are no tests: the exit code is 0 where a goal is missed.
"""

import argparse
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from peers import bare_loop, examples_loop

from normbench import app, assembly, build, run
from normbench.config import RunConfig
from normbench.dataset import DataError
from normbench.sweep import jobs
from normbench.train import evaluate

MODELS = ("mlp", "lenet")
PEERS = ("normbench", "bare loop", "examples loop")
SETTINGS = ("norm=bn", "optimizer=adam", "clip=norm", "preprocess=standardize", "schedule=constant", "batch_size=64",
            "device=cpu", "threads=1", "checkpoint.every_s=0", "progress=false")  # fmt: skip
GOALS = {  # times as fast as that loop
    ("mlp", "bare loop"): 0.93,
    ("lenet", "bare loop"): 0.93,
    ("mlp", "examples loop"): 3.0,
    ("lenet", "examples loop"): 1.3,
}
STARTS = {("--help",): 0.1, ("train", "--cfg", "job"): 0.5}  # goals in seconds
WARM_UP = 20  # steps


# ------------------------------------------------------------------------------------------------------- peers


@dataclass(frozen=True)
class Trained:
    """What came out of one training: `seconds` on its clock, `wall_s` from the call to the end."""

    steps: int
    seconds: float
    wall_s: float
    val_acc: float
    test_acc: float


class Job:
    """One training job, and the three ways to do it: `train(peer, epochs)`."""

    def __init__(self, config: RunConfig):
        self.config = config
        built = build.build(config)
        self.data, self.preprocess, self.steps_per_epoch = built.data, built.preprocess, built.steps_per_epoch
        fitted = built.preprocess.state_dict()  # pixels * scale + shift
        sd = 1 / (255 * fitted["scale"].item())
        mean = -fitted["shift"].item() * sd
        images, labels = self.data.train
        self.floats = self.preprocess(images)
        self.pictures = examples_loop.Pictures(images.numpy(), labels.numpy(), mean, sd)

    def train(self, peer: str, epochs: float, warm_up: int = WARM_UP) -> Trained:
        """Train for so many epochs; normbench's own run takes whole ones, and has no warm-up that is not counted."""
        if peer == "normbench":
            return self._normbench(max(1, round(epochs)))
        steps = max(1, round(epochs * self.steps_per_epoch))
        as_torch_comes()
        started = time.perf_counter()
        model = assembly.make(self.config, self.preprocess, self.data.train[0], len(self.data.classes))
        same = {
            "batch_size": self.config.batch_size,
            "lr": self.config.optimizer["lr"],
            "steps": steps,
            "warm_up": warm_up,
        }
        if peer == "bare loop":
            max_norm = self.config.clip["max_norm"]
            seconds = bare_loop.train(model, self.floats, self.data.train[1], max_norm=max_norm, **same)
        else:
            seconds = examples_loop.train(model, self.pictures, **same)
        wall_s = time.perf_counter() - started
        return Trained(
            steps, seconds, wall_s, self._accuracy(model, self.data.val), self._accuracy(model, self.data.test)
        )

    def _normbench(self, epochs: int) -> Trained:
        with tempfile.TemporaryDirectory() as folder:
            config = replace(self.config, epochs=epochs, out=folder)
            started = time.perf_counter()
            record = run.run(config, announce=lambda _: None, bar=False).record
            wall_s = time.perf_counter() - started
        if record["state"] != "complete":
            raise RuntimeError(f"the run ended as {record['state']}: {record['reason']}")
        return Trained(record["steps"], record["train_s"], wall_s, record["val_acc"], record["test_acc"])

    def _accuracy(self, model: torch.nn.Module, part: tuple[torch.Tensor, torch.Tensor]) -> float:
        return evaluate(model, self.preprocess, torch.nn.CrossEntropyLoss(), *part, batch_size=1000)[1]


def make_job(model: str, dataset: str) -> Job:
    app.register_plugins()
    with initialize_config_module("normbench.conf", version_base="1.3"):
        overrides = [f"model={model}", f"dataset={dataset}", *SETTINGS]
        return Job(jobs.plan(GlobalHydra.instance().config_loader(), overrides).jobs[0].config)


def as_torch_comes() -> None:
    """Take back what normbench sets in this process, so that the other loops run as in a script of their own."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # pyright: ignore[reportAttributeAccessIssue]
    torch.set_flush_denormal(False)


# ---------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Measured:
    """One model: a first epoch of each peer, then the rounds; samples per second of each peer, round by round."""

    model: str
    first: dict[str, Trained]
    speeds: dict[str, list[float]]
    on_clock: float  # the share of normbench's wall time that its clock covers

    def ratios(self, peer: str) -> list[float]:
        return [ours / theirs for ours, theirs in zip(self.speeds["normbench"], self.speeds[peer], strict=True)]


def measure(job: Job, rounds: int, seconds: float, say: Callable[[str], None]) -> Measured:
    model, batch_size = job.config.model["name"], job.config.batch_size
    first = {peer: job.train(peer, epochs=1, warm_up=0) for peer in PEERS}
    epochs = {peer: seconds / result.seconds for peer, result in first.items()}
    speeds: dict[str, list[float]] = {peer: [] for peer in PEERS}
    on_clock = []
    for number in range(1, rounds + 1):
        for peer in PEERS:
            result = job.train(peer, epochs[peer])
            speeds[peer].append(batch_size * result.steps / result.seconds)
            on_clock += [result.seconds / result.wall_s] if peer == "normbench" else []
        say(f"{model} round {number}: " + "  ".join(f"{peer} {speeds[peer][-1]:,.0f}/s" for peer in PEERS))
    return Measured(model, first, speeds, median(on_clock))


def start_up(arguments: Sequence[str], repeats: int) -> dict[str, float]:
    """Median wall seconds of a whole process, by the way that it is started."""
    script = Path(sys.executable).with_name("normbench")
    ways = {"python -m normbench": [sys.executable, "-m", "normbench"]}
    ways |= {"normbench": [str(script)]} if script.exists() else {}
    times: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for way, command in ways.items():
                started = time.perf_counter()
                subprocess.run([*command, *arguments], cwd=folder, check=True, capture_output=True)
                times[way].append(time.perf_counter() - started)
    return {way: median(values) for way, values in times.items()}


# -------------------------------------------------------------------------------------------------------- tables


def verdict(reached: bool) -> str:
    return "PASS" if reached else "below"


def machine_table(load_before: str) -> Table:
    rows = [
        ("CPU", f"{cpu_name()}, {os.cpu_count()} cores"),
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} thread"),
        ("load average before, after", f"{load_before}; {load_average()}"),
    ]
    return Table("Machine", ("", ""), rows)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def load_average() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


def work_table(measured: Sequence[Measured]) -> Table:
    rows = [
        (m.model, peer, f"{result.steps:,}", f"{result.val_acc:.4f}", f"{result.test_acc:.4f}")
        for m in measured
        for peer, result in m.first.items()
    ]
    return Table("The same work: accuracy after one epoch", ("model", "loop", "steps", "validation", "test"), rows)


def speed_table(measured: Sequence[Measured]) -> Table:
    header = ("model", *PEERS, "normbench's clock covers")
    rows = [
        (m.model, *(f"{median(m.speeds[peer]):,.0f}" for peer in PEERS), f"{m.on_clock:.0%} of its run")
        for m in measured
    ]
    return Table(f"Training, samples per second (median of {len(measured[0].speeds[PEERS[0]])} rounds)", header, rows)


def ratio_table(measured: Sequence[Measured]) -> Table:
    rows = []
    for m in measured:
        for peer in PEERS[1:]:
            ratios, goal = m.ratios(peer), GOALS.get((m.model, peer), math.nan)
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            rows.append((m.model, peer, f"{median(ratios):.3f}", spread, f">= {goal}", verdict(median(ratios) >= goal)))
    return Table("Times as fast", ("model", "normbench over", "median", "rounds", "goal", ""), rows)


def start_table(repeats: int) -> Table:
    rows = []
    for arguments, goal in STARTS.items():
        for way, seconds in start_up(arguments, repeats).items():
            rows.append((" ".join((way, *arguments)), f"{seconds:.3f} s", f"< {goal} s", verdict(seconds < goal)))
    return Table(f"Start-up (median of {repeats})", ("command", "wall time", "goal", ""), rows)


def as_text(table: Table) -> str:
    lines = [table.header, *table.rows] if any(table.header) else list(table.rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([table.title, *(f"  {line}".rstrip() for line in cells)])


def as_markdown(table: Table) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join([f"**{table.title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


# ---------------------------------------------------------------------------------------------------------- main


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each measurement, about")
    parser.add_argument("--starts", type=int, default=7, help="processes for each start-up time")
    parser.add_argument(
        "--dataset", default="fashion_mnist", help="grey images: fashion_mnist, fashion_mini, synthetic"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    args = parser.parse_args(argv)
    if min(args.rounds, args.starts) < 1 or args.seconds <= 0:
        parser.error("--rounds, --starts and --seconds must be above 0")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    before = load_average()
    torch.set_num_threads(1)
    measured = []
    for model in args.models:
        try:
            job = make_job(model, args.dataset)
        except DataError as error:
            print(f"benchmark: {error}; or take what ships: --dataset fashion_mini", file=sys.stderr)
            return 4
        measured.append(measure(job, args.rounds, args.seconds, lambda line: print(line, file=sys.stderr, flush=True)))
    tables = [work_table(measured), speed_table(measured), ratio_table(measured), start_table(args.starts)]
    tables.insert(0, machine_table(before))
    print("\n\n".join(map(as_text, tables)))
    if args.markdown:
        args.markdown.write_text("\n\n".join(map(as_markdown, tables)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
