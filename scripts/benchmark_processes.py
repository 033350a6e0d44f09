"""The peers of scripts/benchmark.py as processes: what each is called, what it needs, how it is started and timed.

Every measured process is a command of its own, from its start to the prompt, on the core or the cores that it is
given, with one thread. normbench's own is `normbench train`.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from normbench import app, build, records, streams
from normbench.sweep import jobs

FOLDER = Path(__file__).resolve().parent / "peers"
GAMMA = 0.7  # after each epoch, as in pytorch/examples' mnist; contract.Job has it, too
SETTINGS = ("norm=bn", "optimizer=adam", "clip=none", "preprocess=standardize", "batch_size=64", "threads=1",
            "progress=false")  # fmt: skip
SAME = {"cnn": ["model.dropout=0.0"], "resnet": ["model.depth=20"]}  # as architectures.py has them
Result = dict[str, Any]


class Failed(Exception):
    """A process ended with an error."""


@dataclass(frozen=True)
class Workload:
    """What is trained: `train_size` images of the data set (None: all but those held out), for so many epochs."""

    model: str
    dataset: str
    train_size: int | None
    epochs: int

    def words(self) -> str:
        images = {"fashion_mnist": "54,000", "fashion_mini": "9,000"}.get(self.dataset, "all")
        count = images if self.train_size is None else f"{self.train_size:,}"
        return f"{self.epochs} epochs of {count} images of {self.dataset}"

    def overrides(self) -> list[str]:
        """For normbench: the rate falls after each epoch."""
        size = [] if self.train_size is None else [f"dataset.train_size={self.train_size}"]
        falls = ",".join(repr(epoch / self.epochs) for epoch in range(1, self.epochs))
        schedule = [f"schedule=step schedule.milestones=[{falls}] schedule.gamma={GAMMA}", "schedule=constant"]
        its = [f"model={self.model}", f"dataset={self.dataset}", *size, f"epochs={self.epochs}"]
        return [*its, *schedule[self.epochs == 1].split(), *SETTINGS, *SAME.get(self.model, [])]


@dataclass(frozen=True)
class Peer:
    """A way to train that is not ours. `needs` are packages; where one lacks, the peer is told as not installed."""

    label: str
    script: str
    needs: tuple[str, ...] = ()
    option: str = ""
    backend: str = ""  # of Keras


PEERS = {
    "examples": Peer("P0 pytorch/examples", "examples_loop", ("torchvision",)),
    "loader": Peer("P1 DataLoader, the best way", "loader_loop"),
    "careful": Peer("P2 careful loop", "bare_loop"),
    "lightning": Peer("P3 Lightning, as it comes", "lightning_loop", ("lightning",), "default"),
    "lightning_stripped": Peer("P3 Lightning, stripped", "lightning_loop", ("lightning",), "stripped"),
    "keras_torch": Peer("P4 Keras on torch", "keras_loop", ("keras", "torch"), "", "torch"),
    "keras_jax": Peer("P4 Keras on JAX", "keras_loop", ("keras", "jax"), "", "jax"),
    "jax": Peer("P6 JAX", "jax_scan", ("jax",)),
}
JOBLIB = ("hydra", "hydra_plugins.hydra_joblib_launcher")
SWEEPS = {
    "hydra_basic": Peer("P5 Hydra basic, P0 in sequence", "hydra_sweep", ("hydra", "torchvision"), "examples_loop"),
    "hydra_joblib": Peer("P5 Hydra joblib, P2 a core", "hydra_sweep", JOBLIB, "bare_loop"),
    "careful_pool": Peer("a process a core, P2", "bare_loop"),
    "jax_pool": Peer("a process a core, P6", "jax_scan", ("jax",)),
}  # fmt: skip
CHANNELS_LAST = "normbench channels_last"  # serial with that setting, where it can pay: larger convolutions
LARGE_CONVOLUTIONS = ("cnn", "resnet")


def way_of(name: str) -> tuple[str, list[str]]:
    """Engine and settings of a way of ours: `normbench` (serial), `normbench ENGINE`, CHANNELS_LAST."""
    engine = name.partition(" ")[2] or "serial"
    return ("serial", ["channels_last=true"]) if name == CHANNELS_LAST else (engine, [])


def also(model: str) -> list[str]:
    """Ways of ours that are no engine."""
    return [CHANNELS_LAST] if model in LARGE_CONVOLUTIONS else []


@dataclass(frozen=True)
class Machine:
    """Where and with what the processes run. `python` is that of the peers with packages that normbench lacks."""

    python: str
    cores: tuple[int, ...]  # empty: the system has no such thing
    device: str = "cpu"

    def processes(self) -> int:
        """How many run at once in a sweep: one a core."""
        return max(1, len(self.cores))

    def python_of(self, peer: Peer) -> str:
        is_ours = not peer.needs or all(map(found_here, peer.needs))
        return sys.executable if is_ours else self.python

    def missing(self, peer: Peer) -> str | None:
        """The first package that the peer needs and its Python lacks."""
        return next((name for name in peer.needs if not _has(self.python_of(peer), name)), None)


def found_here(package: str) -> bool:
    return _has(sys.executable, package)


@lru_cache
def _has(python: str, package: str) -> bool:
    if python == sys.executable:
        try:
            return importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:  # of the package that it would be in
            return False
    code = f"import importlib.util as u; raise SystemExit(u.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


# ------------------------------------------------------------------------------------------------------ processes


def timed(command: Sequence[str], cores: Sequence[int], **environment: str) -> tuple[float, str, str]:
    """Wall seconds of the process, its standard output and the last line of its errors, if it refused (exit code 2).

    Raises:
        Failed: any other exit code but 0.
    """
    return together([command], [cores], **environment)[0]


def together(
    commands: Sequence[Sequence[str]], cores: Sequence[Sequence[int]], **environment: str
) -> list[tuple[float, str, str]]:
    """As `timed`, for several processes at once; the seconds are those until the last has ended."""
    with tempfile.TemporaryDirectory() as folder:
        files = [(open(f"{folder}/{i}.out", "w+"), open(f"{folder}/{i}.err", "w+")) for i in range(len(commands))]  # noqa: SIM115
        began = time.perf_counter()
        started = [
            subprocess.Popen(
                command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, cwd=folder, preexec_fn=_on(its),
                env=os.environ | one_thread() | environment,
            )
            for command, its, (out, err) in zip(commands, cores, files, strict=True)
        ]  # fmt: skip
        try:
            codes = [process.wait() for process in started]
        finally:
            for process in started:
                process.kill()
        seconds, found = time.perf_counter() - began, []
        for command, code, pair in zip(commands, codes, files, strict=True):
            out, err = (_read(file) for file in pair)
            if code not in (0, 2) or (code == 2 and "normbench" not in command):
                raise Failed(f"{' '.join(command)}\nended with {code}:\n{err[-3000:]}")
            found.append((seconds, out, err.strip().splitlines()[-1] if code else ""))
        return found


def one_thread() -> dict[str, str]:
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}


def _on(cores: Sequence[int]) -> Callable[[], None] | None:
    return (lambda: os.sched_setaffinity(0, cores)) if cores else None


def _read(file: Any) -> str:
    with file:
        file.seek(0)
        return file.read()


# ----------------------------------------------------------------------------------------------------------- runs


def peer_run(
    peer: Peer, machine: Machine, data: Path, workload: Workload, seed: int, cores: Sequence[int], *more: str
) -> Result:
    """One run of a peer: its line of JSON, and wall_s."""
    missing = machine.missing(peer)
    if missing:
        return {"missing": missing}
    command = [machine.python_of(peer), str(FOLDER / f"{peer.script}.py"), *asked(peer, data, workload)]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--seed", str(seed), "--log", f"{folder}/log.csv", *more]
        seconds, out, _ = timed(command, cores, **backend_of(peer))
    return json.loads(out.splitlines()[-1]) | {"wall_s": seconds}


def asked(peer: Peer, data: Path, workload: Workload) -> list[str]:
    option = ["--option", peer.option] if peer.option else []
    its = ["--model", workload.model, "--data", str(data), "--epochs", str(workload.epochs)]
    return its + option


def backend_of(peer: Peer) -> dict[str, str]:
    return {"KERAS_BACKEND": peer.backend} if peer.backend else {}


def our_command(engine: str, workload: Workload, device: str, out: str) -> list[str]:
    its = [f"engine={engine}", f"device={device}", f"out={out}", *workload.overrides()]
    return [sys.executable, "-m", "normbench", "train", *its]


def refused_by(engine: str, why: str) -> Result:
    """What an engine does not serve is told; that the reference refuses is a mistake of this script."""
    if engine == "serial":
        raise Failed(f"normbench refused what the benchmark asked of it: {why}")
    return {"refused": why}


def our_run(engine: str, workload: Workload, seed: int, cores: Sequence[int], *more: str) -> Result:
    """One run of `normbench train`: what a peer's line has, from its record and its rows, and wall_s."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*our_command(engine, workload, "cpu", folder), f"seed={seed}", *more]
        seconds, _, refused = timed(command, cores)
        if refused:
            return refused_by(engine, refused)
        (run,) = records.find_runs(Path(folder))
        record: dict[str, Any] = records.verify(run)
        rows: list[dict[str, Any]] = records.read_metrics(run / "metrics.csv")
    first = next(row for row in rows if row["epoch"] >= 1)
    samples, later = rows[-1]["examples"] - first["examples"], record["train_s"] - first["train_s"]
    return {
        "model": workload.model, "seed": seed, "epochs": workload.epochs,
        "steps_per_epoch": record["total_steps"] // workload.epochs, "parameters": record["n_params"],
        "samples_per_s": samples / later if samples else None, "first_epoch_s": first["train_s"],
        "train_s": record["train_s"], "val_acc": record["val_acc"], "test_acc": record["test_acc"],
        "versions": {"torch": record["environment"]["torch"]}, "wall_s": seconds,
        "losses": [row["train_loss"] for row in rows[1:]],
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------- sweeps


def peer_sweep(name: str, machine: Machine, data: Path, workload: Workload, runs: int) -> Result:
    """`runs` runs of seeds 0, 1, ...: wall seconds and their test accuracies."""
    peer, count = SWEEPS[name], machine.processes()
    missing = machine.missing(peer)
    if missing:
        return {"missing": missing}
    python, script = machine.python_of(peer), str(FOLDER / f"{peer.script}.py")
    with tempfile.TemporaryDirectory() as folder:
        if peer.script == "hydra_sweep":
            its = {"peer": peer.option, "model": workload.model, "data": data, "epochs": workload.epochs,
                   "seed": f"range({runs})", "hydra.sweep.dir": folder}  # fmt: skip
            its |= {"hydra/launcher": "joblib", "hydra.launcher.n_jobs": count} if name == "hydra_joblib" else {}
            command = [python, script, "-m", *(f"{key}={value}" for key, value in its.items())]
            seconds, _, _ = timed(command, machine.cores if name == "hydra_joblib" else machine.cores[-1:])
            lines = [json.loads(path.read_text()) for path in Path(folder).glob("*/result.json")]
        else:
            edges = np.linspace(0, runs, min(count, runs) + 1).round().astype(int)
            command = [python, script, *asked(peer, data, workload)]
            commands = [[*command, "--seed", f"{a}:{b}", "--log", f"{folder}/{a}.csv"] for a, b in pairwise(edges)]
            places = [machine.cores[i : i + 1] for i in range(len(commands))]
            found = together(commands, places, **backend_of(peer))
            seconds, lines = found[0][0], [json.loads(line) for _, out, _ in found for line in out.splitlines()]
    if len(lines) != runs:
        raise Failed(f"{peer.label}: {len(lines)} of {runs} runs have a result")
    return {"wall_s": seconds, "test_acc": [line["test_acc"] for line in lines]}


def our_sweep(engine: str, machine: Machine, workload: Workload, runs: int, *more: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        command = [*our_command(engine, workload, machine.device, folder), *more]
        command[4:4] = ["-m", f"seed=range({runs})"]
        seconds, _, refused = timed(command, machine.cores)
        if refused:
            return refused_by(engine, refused)
        found = [records.verify(run) for run in records.find_runs(Path(folder))]
    states = {record["state"] for record in found}
    if states == {"skipped"}:
        return {"refused": found[0]["reason"]}
    if len(found) != runs or states != {"complete"}:
        raise Failed(f"normbench, engine={engine}: {len(found)} of {runs} runs, which ended as {', '.join(states)}")
    return {"wall_s": seconds, "test_acc": [record["test_acc"] for record in found]}


# ----------------------------------------------------------------------------------------------------------- data


def built(workload: Workload, *more: str) -> build.Built:
    app.register_plugins()
    with initialize_config_module("normbench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return build.build(jobs.plan(loader, [*workload.overrides(), "device=cpu", *more]).jobs[0].config)


def module_of(name: str) -> Any:
    """A module of scripts/peers, which import each other as scripts of one folder do."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    return importlib.import_module(name)


def write_data(workload: Workload, path: Path, start: Path | None = None, steps: int = 0) -> None:
    """The images that normbench's run would use, for the peers; and where it starts: weights and first batches."""
    its = built(workload)
    fitted = {key: value.flatten().numpy() for key, value in its.preprocess.state_dict().items()}
    sd = 1 / (255 * fitted["scale"])  # pixels * scale + shift
    arrays = {"mean": -fitted["shift"] * sd, "sd": sd}
    for name in ("train", "val", "test"):
        images, labels = getattr(its.data, name)
        arrays |= {f"{name}_images": images.numpy(), f"{name}_labels": labels.numpy()}
    np.savez(path, **arrays)
    if start:
        networks = module_of("networks")
        size = its.config.batch_size
        order = streams.order(its.config.seed, 0, len(its.data.train[1]))[: steps * size].view(steps, size)
        np.savez(start, *(w.detach().numpy() for w in networks.weights(its.model)), order=order.numpy())
