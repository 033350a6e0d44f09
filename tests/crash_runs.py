"""Runs that are killed, or whose disk fails, at a system call of our choice; and what must be equal afterwards.

strace counts the system calls that touch a run's folder and does a deed at the n-th: SIGKILL before it is carried out,
or an error in its place. A process that is killed so dies as by `kill -9` from outside, at a place that can be named.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from normbench import checkpoint, records

TESTS = Path(__file__).parent
# every call by which a run changes its folder or takes hold of it
CALLS = "openat,write,fsync,rename,unlink,flock,ftruncate,mkdir"
FILES = ("config.yaml", "metrics.csv", "run.json", "checkpoint.pt")
INSIDE = ("", ".lock", "train.log", *FILES, *(f".{name}.tmp" for name in FILES))  # a run folder, and all in it

# All random streams matter (dropout, noise on the images, order), the optimizer has a state, evaluations do not fall
# on the ends of epochs, and every one of them is saved: 21 steps of 7 an epoch, rows at 0, 5, 10, 15, 20 and 21.
SMALL = (
    "dataset=synthetic", "dataset.train_size=256", "epochs=3", "batch_size=32", "eval.every_steps=5",
    "model.hidden=[16]", "model.dropout=0.2", "augment=noise", "optimizer=momentum", "clip=norm",
    "checkpoint.every_s=0", "progress=false",
)  # fmt: skip


def why_no_strace() -> str:
    """Why kills at system calls can't be tried on this machine; empty where they can."""
    if not sys.platform.startswith("linux"):
        return "strace is a tool of Linux"
    if not shutil.which("strace"):
        return "strace is not installed (apt-get install strace)"
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() and yama.exists() and int(yama.read_text()) > 1:
        return f"{yama} forbids strace to attach to a process"
    tried = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, text=True)
    return f"strace can't trace here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass
class Started:
    """A `normbench ...` that was started."""

    server: "Server"
    pid: int
    output: Path
    tracer: "subprocess.Popen[bytes] | None" = None

    def wait(self) -> int:
        """Its exit code; minus the signal's number if one ended it."""
        code = self.server.ask(wait=self.pid)
        if self.tracer:
            self.tracer.wait()
        return code

    def kill(self) -> int:
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    @property
    def said(self) -> str:
        return self.output.read_text()


class Server:
    """Starts commands by fork; see crash_server.py. Used by several threads."""

    def __init__(self, folder: Path, mutant: str = ""):
        self.folder, self.count, self.turn = folder, 0, threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "crash_server.py"), *([mutant] if mutant else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, **request):
        assert self.process.stdin
        assert self.process.stdout
        with self.turn:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())

    def run(self, cwd: Path, *args: str) -> "subprocess.CompletedProcess[str]":
        """`normbench ARGUMENTS` to its end, started in that folder."""
        self.count += 1
        said = [self.folder / f"{name}{self.count}" for name in ("output", "errors")]
        pid = self._child(cwd, args, *said)
        self.ask(go=pid)
        code = self.ask(wait=pid)
        return subprocess.CompletedProcess(args, code, *(path.read_text() for path in said))

    def _child(self, cwd: Path, args: Sequence[str], output: Path, errors: Path) -> int:
        files = {"cwd": cwd, "output": output, "errors": errors, "steps": self.folder / "steps"}
        return self.ask(start=args, **{name: str(path) for name, path in files.items()})

    def prepare(self, *args: str, strace: Sequence[str] = ()) -> Started:
        """A start that waits for `go`, with strace attached to it if there are options for it."""
        self.count += 1
        output = self.folder / f"output{self.count}"
        output.touch()
        pid = self._child(self.folder, args, output, output)
        tracer = None
        if strace:
            told = self.folder / "strace"  # a file: a pipe that nobody reads would end it
            with open(told, "w") as file:
                tracer = subprocess.Popen(["strace", "-f", "-p", str(pid), *strace], stderr=file)
            while "attached" not in told.read_text():
                assert tracer.poll() is None, told.read_text()
                time.sleep(0.001)
        return Started(self, pid, output, tracer)

    def start(self, *args: str, strace: Sequence[str] = ()) -> Started:
        started = self.prepare(*args, strace=strace)
        self.ask(go=started.pid)
        return started

    def steps(self) -> int:
        """Training steps of all commands so far."""
        path = self.folder / "steps"
        return int.from_bytes(path.read_bytes(), "little") if path.exists() else 0

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def serving(folder: Path, mutant: str = "") -> Iterator[Server]:
    server = Server(folder, mutant)
    try:
        yield server
    finally:
        server.close()


class Place:
    """One run folder below the server's, and the command that makes it."""

    def __init__(self, server: Server, run_id: str, name: str, *overrides: str):
        given = {text.partition("=")[0] for text in overrides}
        settings = [text for text in SMALL if text.partition("=")[0] not in given]
        self.server, self.command = server, ("train", *settings, f"name={name}", *overrides)
        self.folder = server.folder / "results" / name / run_id

    def paths(self, names: Sequence[str]) -> list[str]:
        """strace's options that narrow it to these files of the folder."""
        relative = self.folder.relative_to(self.server.folder)
        # as the command writes them, and as the kernel names an open file
        return [word for name in names for base in (relative, self.folder) for word in ("-P", str(base / name))]

    def start(self, *strace: str, names: Sequence[str] = INSIDE) -> Started:
        return self.server.start(*self.command, strace=[*strace, *self.paths(names)] if strace else ())

    def run(self) -> str:
        """Undisturbed, to its end; what it said."""
        started = self.start()
        assert started.wait() == 0, started.said
        return started.said

    def traced(self, calls: str = CALLS) -> list[str]:
        """The system calls of an undisturbed run that touch its folder, as strace writes them."""
        trace = self.server.folder / "trace"
        started = self.start("-o", str(trace), "-e", f"trace={calls}", "-e", "signal=none", "-s", "16", "-y")
        assert started.wait() == 0, started.said
        lines = [re.sub(r"^\d+ +", "", line) for line in trace.read_text().splitlines()]
        return [line for line in lines if re.match(rf"({calls.replace(',', '|')})\(", line)]

    def killed(self, n: int, calls: str = CALLS) -> bool:
        """Run, and die before the n-th of these calls is carried out; False if it ended before there were so many."""
        inject = f"inject={calls}:signal=KILL:when={n}"
        started = self.start("-o", os.devnull, "-e", f"trace={calls}", "-e", inject)
        code = started.wait()
        assert code in (0, -signal.SIGKILL), started.said
        return code != 0

    def failing(self, call: str, error: str, when: str, names: Sequence[str] = INSIDE) -> tuple[int, str]:
        """Run on a disk that answers this call on these files with an error; the exit code and what was said."""
        inject = f"inject={call}:error={error}:when={when}"
        started = self.start("-o", os.devnull, "-e", f"trace={call}", "-e", inject, names=names)
        return started.wait(), started.said

    def saved(self) -> int:
        """The step up to which the checkpoint reaches."""
        path = self.folder / "checkpoint.pt"
        return checkpoint.read(path)["step"] if path.exists() else 0

    def left_over(self) -> list[str]:
        known = {*FILES, ".lock", "train.log"}
        return sorted(path.name for path in self.folder.iterdir() if path.name not in known)


def result(folder: Path) -> tuple[str, str]:
    """(metrics without train_s, sha256 of them and of all bytes of the weights): equal for equal runs.

    Everything that a complete run must have is checked on the way.
    """
    record = records.verify(folder)
    assert record["state"] == "complete"
    rows = records.read_metrics(folder / "metrics.csv")
    text = "\n".join(repr({key: value for key, value in row.items() if key != "train_s"}) for row in rows)
    digest = hashlib.sha256(text.encode())
    content = checkpoint.read(folder / "checkpoint.pt")
    for name, tensor in content["model"].items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    digest.update(repr([record[key] for key in ("test_loss", "test_acc", "val_loss", "val_acc", "steps")]).encode())
    return text, digest.hexdigest()


def assert_equal(place: Place, reference: tuple[str, str]) -> None:
    text, digest = result(place.folder)
    assert text == reference[0]
    assert digest == reference[1], "the weights differ"
    assert place.left_over() == []


_REASON = why_no_strace()
needs_strace = pytest.mark.skipif(bool(_REASON), reason=_REASON or "strace is there")
