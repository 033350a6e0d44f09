"""Many runs at once, in processes that stay from run to run; whatever happens to one of them is its own affair.

Each worker is a pool of one process (joblib's loky), so that a process that dies takes no other run with it.
"""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.resource_tracker import ensure_running
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor

from normbench import attempt, run, streams
from normbench.config import RunConfig, from_dict
from normbench.sweep import devices, stacks
from normbench.sweep.estimate import kind

LOOK_S = 0.2  # between two looks at signals and clocks
GRACE_S = 4.0  # for a run that is told to stop to save what it has; then its process is killed

Result = run.Outcome | Exception


class Died(RuntimeError):
    """The process of a run ended without an answer: killed, out of memory, a crash in native code."""


class TooLong(RuntimeError):
    """A run took longer than it may."""


class TimeUp(Exception):
    """What was being trained has been stopped, and nothing more was begun."""


class NotStarted(RuntimeError):
    """A run was never begun, since another one failed."""


def run_all(
    configs: Sequence[RunConfig],
    workers: "int | Workers",
    *,
    timeout_s: float | None = None,
    fail_fast: bool = False,
    until: float | None = None,
    in_order: bool = False,
    told: Callable[[int, Result], None] = lambda number, result: None,
    looked: Callable[[int, float | None], None] = lambda running, left_s: None,
) -> list[Result]:
    """Train all of them; the outcome of each, or what kept it from having one, in their order.

    On a full disk nothing more is begun.

    One of each kind of run is begun first; as soon as it is known how long they take, the longest come first. Runs of
    engine=stack are trained several at a time (normbench/sweep/stacks.py).

    Args:
        configs: of runs in different folders.
        workers: processes, >= 1; or those that were started before, which then stay.
        timeout_s: a run that takes longer is stopped, and can go on later; a stack has so long for each of its runs.
        fail_fast: after a failure nothing more is begun.
        until: when all is stopped as by Ctrl-C, on the clock of time.monotonic.
        in_order: begin them as they are given, so that what is done at any time are the first of them.
        told: gets each result as it comes, with the number of its config.
        looked: gets now and then how many runs are being trained, and about how long all will take, if that is known.

    Raises:
        run.Interrupted, KeyboardInterrupt: by Ctrl-C, SIGTERM or SIGHUP, after all processes have ended.
        TimeUp: at `until`, likewise.
    """
    results: list[Result] = [NotStarted("not started: another run failed before") for _ in configs]
    batches = stacks.batches(configs, workers if isinstance(workers, int) else len(workers))
    queue = _Queue([configs[numbers[0]] for numbers in batches], [len(numbers) for numbers in batches], in_order)
    with contextlib.ExitStack() as ours:
        if isinstance(workers, int):
            workers = ours.enter_context(Workers(min(workers, len(batches)), devices.gpus(configs)))
        slots = workers
        with slots.stopping_at_errors(), _signals() as signals:
            while queue.waiting or any(worker.busy for worker in slots):
                for worker in slots:
                    if queue.waiting and not worker.busy:
                        worker.begin(number := queue.take(), [configs[n] for n in batches[number]])
                wait([w.future for w in slots if w.future], LOOK_S, FIRST_COMPLETED)
                if signals:
                    raise _interrupted(slots, signals[0])
                if until is not None and time.monotonic() >= until:
                    raise TimeUp from _interrupted(slots, signal.SIGTERM)
                for worker in slots:
                    most_s = None if timeout_s is None else timeout_s * worker.width
                    if worker.busy and most_s is not None and worker.seconds > most_s:
                        worker.stop(TooLong(f"it took longer than timeout_s={timeout_s:g} s"))
                    if worker.busy and worker.future and worker.future.done():
                        number, seconds = worker.number, worker.seconds
                        ended = dict(zip(batches[number], worker.end(), strict=True))
                        queue.took(number, seconds)
                        for n, result in ended.items():
                            results[n] = result
                            told(n, result)
                            if (fail_fast and has_failed(result)) or is_full(result):
                                queue.waiting.clear()
                looked(sum(worker.width for worker in slots if worker.busy), queue.left_s(slots))
    return results


def has_failed(result: Result) -> bool:
    return isinstance(result, Exception) or result.state == "failed"


def ending(result: Exception) -> str:
    """In a word, how a run ended that has no outcome."""
    return {Died: "died", TooLong: "stopped"}.get(type(result), "not run")


def is_full(result: Result) -> bool:
    """Whether it failed for want of space on its disk."""
    return not isinstance(result, Exception) and result.disk_is_full


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that came; here they only leave a note, the loop looks at it."""
    came: list[int] = []
    with attempt.handled(lambda number, _frame: came.append(number)):
        yield came


def _interrupted(slots: "Sequence[_Worker]", signum: int) -> BaseException:
    """Stop all runs; what to raise."""
    busy = [worker for worker in slots if worker.busy]
    for worker in busy:
        worker.tell_to_stop()
    wait([worker.future for worker in busy if worker.future], GRACE_S)
    ends = [end for worker in busy for end in worker.end()]
    stopped = [end for end in ends if isinstance(end, run.Outcome) and end.state == "interrupted"]
    return run.Interrupted(stopped[0], signum) if stopped else KeyboardInterrupt()


class Workers(Sequence["_Worker"]):
    """Processes, started at once: they import what a run needs while their parent does something else."""

    def __init__(self, count: int, gpus: Sequence[str] = ()):
        self.slots: list[_Worker] = []
        self.become(count, gpus)

    def become(self, count: int, gpus: Sequence[str] = ()) -> None:
        """So many, but not fewer than there are.

        Args:
            gpus: each sees one of these alone, in turn (devices.gpus); none: what this process sees.
        """
        self.slots += [_Worker() for _ in range(count - len(self.slots))]
        for number, worker in enumerate(self.slots):
            worker.start()
            worker.see(gpus[number % len(gpus)] if gpus else None)

    def __getitem__(self, index: Any) -> Any:
        return self.slots[index]

    def __len__(self) -> int:
        return len(self.slots)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for worker in self.slots:
            worker.close()

    @contextlib.contextmanager
    def stopping_at_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


class _Queue:
    """Which run, or stack of `widths` runs, comes next."""

    def __init__(self, configs: Sequence[RunConfig], widths: Sequence[int] | None = None, in_order: bool = False):
        self.kinds = [
            (kind(config), width) for config, width in zip(configs, widths or [1] * len(configs), strict=True)
        ]
        first = {self.kinds[i]: i for i in reversed(range(len(configs)))}  # one of each kind
        rest = [i for i in range(len(configs)) if first[self.kinds[i]] != i]
        self.waiting = list(range(len(configs))) if in_order else [*sorted(first.values()), *rest]
        self.in_order = in_order
        self.seconds: dict[tuple[str, int], float] = {}

    def take(self) -> int:
        number = self.waiting[0]
        if self.kinds[number] in self.seconds and not self.in_order:
            number = max(self.waiting, key=lambda i: self.seconds.get(self.kinds[i], 0.0))
        self.waiting.remove(number)
        return number

    def took(self, number: int, seconds: float) -> None:
        self.seconds[self.kinds[number]] = seconds

    def left_s(self, slots: "Sequence[_Worker]") -> float | None:
        """How long it will take about, once a run of each kind has ended."""
        numbers = [*self.waiting, *(worker.number for worker in slots if worker.busy)]
        if any(self.kinds[number] not in self.seconds for number in numbers):
            return None
        spent = sum(worker.seconds for worker in slots if worker.busy)
        return max(0.0, sum(self.seconds[self.kinds[number]] for number in numbers) - spent) / len(slots)


@dataclass
class _Worker:
    """A process, and the run (or stack of `width` runs) that it trains."""

    gpu: str | None = None
    number: int = -1
    width: int = 1
    future: "Future[list[Result]] | None" = None
    began: float = 0.0
    instead: Exception | None = None  # of what it would answer
    pid: "Future[int] | None" = None
    pool: ProcessPoolExecutor | None = field(default=None, repr=False)

    @property
    def busy(self) -> bool:
        return self.future is not None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def start(self) -> ProcessPoolExecutor:
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, initializer=_prepare, initargs=(sys.path, os.getpid()), timeout=None)
            with _deaf_to_interrupts():
                self.pid = self.pool.submit(os.getpid)
            if self.gpu is not None:
                self.pool.submit(_see, self.gpu)
        return self.pool

    def see(self, gpu: str | None) -> None:
        """What comes after this sees this GPU alone; for a process that has not touched one."""
        if gpu != self.gpu and gpu is not None and self.pool is not None:
            self.pool.submit(_see, gpu)
        self.gpu = gpu

    def begin(self, number: int, configs: Sequence[RunConfig]) -> None:
        pool = self.start()
        self.number, self.width, self.began, self.instead = number, len(configs), time.monotonic(), None
        self.future = pool.submit(_train, [config.to_dict() for config in configs])

    def tell_to_stop(self) -> None:
        """As Ctrl-C does: the run saves what it has and ends."""
        with contextlib.suppress(OSError, BrokenProcessPool):
            if self.pid and self.pid.done():
                os.kill(self.pid.result(), signal.SIGTERM)

    def stop(self, reason: Exception) -> None:
        """Stop the run now; `end` then gives the reason."""
        self.tell_to_stop()
        assert self.future is not None
        wait([self.future], GRACE_S)
        self.instead = reason

    def end(self) -> list[Result]:
        """What came of each run; a worker that is gone or deaf is replaced for the next one."""
        assert self.future is not None
        future = self.future
        if not future.done():
            self.close()
            return self._all(Died("it did not stop when it was told to, and was killed"))
        try:
            return [self.instead] * self.width if self.instead else future.result()
        except BrokenProcessPool as error:
            self.close()
            codes = re.search(r"exit codes of the workers are \{([^{}]*)\}", str(error))
            return self._all(Died(f"its process died: {codes[1] if codes else 'killed, or a crash'}"))
        except Exception as error:
            return self._all(error)
        finally:
            self.future = None

    def _all(self, error: Exception) -> list[Result]:
        return [self.instead or error] * self.width

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, kill_workers=True)  # its runs have ended; an orderly exit takes a second
        self.pool = self.pid = self.future = None


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """So is a process that is started within, until its `_prepare`: a Ctrl-C would meet it while it imports."""
    ensure_running()  # loky does so with its first process, and it ends with this signal unblocked (Python < 3.14)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare(path: list[str], parent: int) -> None:
    """In a new worker: it finds the classes that its parent finds, and leaves the terminal's signals to it."""
    sys.path[:] = path
    os.setpgrp()  # a Ctrl-C would come twice, once from the terminal, and a second one ends a run without saving
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one that has come is dropped
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its own is shared between processes, and is missed where one is killed

    from normbench import train  # noqa: F401 - and torch with it: a second


def _see(gpu: str) -> None:
    """In a worker: it starts its GPU, which takes a second, while its parent looks at the runs."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    streams.set_determinism(threads=1)  # what CUDA reads when it starts; a run sets its own threads
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")


def _follow(parent: int) -> None:
    """In a worker: when its parent is gone, however it went, the run saves what it has and ends."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _train(settings: list[dict]) -> list[Result]:
    """In a worker: one run, or a stack."""
    configs = [from_dict(each) for each in settings]
    if configs[0].engine == "stack":
        from normbench.stack import replicas

        results = replicas.run_all(configs)
        return [result.outcome if isinstance(result, run.Interrupted) else result for result in results]
    try:
        return [run.run(configs[0], announce=lambda _: None, bar=False)]
    except run.Interrupted as stop:
        return [stop.outcome]
