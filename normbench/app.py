"""`normbench train`: the shell around Hydra. Imports no torch before a run really trains."""

import contextlib
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from normbench import catalog, parts, records, run, typed
from normbench.cli import COMMANDS
from normbench.config import ConfigError, keys_of, load, unknown_key
from normbench.dataset import DataError
from normbench.sweep import Stop, elsewhere, jobs

CONFIG_MODULE = "pkg://normbench.conf"


def register_plugins() -> None:
    """Hydra finds its plugins with pkgutil, which does not see into `pip install -e`: name ours."""
    plugins = Plugins.instance()  # first: it scans and imports all plugins that it finds
    from hydra_plugins.normbench_checked import CheckedSweeper, PoolLauncher  # pyright: ignore[reportMissingImports]

    plugins.register(CheckedSweeper)
    plugins.register(PoolLauncher)
    elsewhere.fit_plugins()


def job(cfg: DictConfig) -> run.Outcome:
    """One run. A plain module-level function, so that any launcher can send it to another process."""
    hydra_config = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)  # as typed, ${...} and all
    if hydra_config.mode == RunMode.RUN:
        return _single(overrides)
    os.chdir(hydra_config.runtime.cwd)  # relative folders are of where the sweep was started; Ray starts elsewhere
    outcome = run.run(load(cfg, hydra_config.runtime.choices, overrides), announce=lambda _: None)
    print(f"{hydra_config.job.num:>4}  {describe(outcome)}  {outcome.folder.name}", flush=True)
    return outcome


@contextlib.contextmanager
def told(count: int, first: int) -> Iterator[tuple[Callable[[int, Any], None], Callable[[int, float | None], None]]]:
    """What a launcher of several runs at once calls, as each of the `count` ends and now and then: lines and a bar."""
    from tqdm import tqdm

    from normbench.sweep.pool import ending, has_failed

    failed = 0
    with tqdm(total=count, unit="run", leave=False, disable=None) as bar:

        def ended(number: int, result: Any) -> None:
            nonlocal failed
            failed += has_failed(result)
            line = (
                f"{ending(result)}: {result}"
                if isinstance(result, Exception)
                else f"{describe(result)}  {result.folder.name}"
            )
            tqdm.write(f"{first + number:>4}  {line}", file=sys.stdout)
            sys.stdout.flush()
            bar.update()

        def looked(running: int, left_s: float | None) -> None:
            left = "" if left_s is None else f", about {left_s:.0f} s left"
            bar.set_postfix_str(f"{running} running{left}" + (f", {failed} failed" if failed else ""))

        yield ended, looked


def check_launcher(workers: int | None, timeout_s: float | None) -> None:
    """Raise Stop for settings of hydra/launcher=pool that can't be."""
    if workers is not None and workers < 1:
        raise Stop(ConfigError(f"hydra.launcher.workers must be a whole number >= 1 or null, got {workers}; try 2"))
    if timeout_s is not None and not timeout_s > 0:
        raise Stop(ConfigError(f"hydra.launcher.timeout_s must be a number > 0 or null, got {timeout_s}; try 3600"))


def _single(overrides: Sequence[str]) -> run.Outcome:
    try:
        planned = jobs.plan(GlobalHydra.instance().config_loader(), overrides)
        outcome = run.run(planned.jobs[0].config, announce=lambda line: print(line, flush=True))
        print(describe(outcome))
        print(_last_line(outcome), flush=True)
    except Exception as error:
        raise Stop(error) from error
    if outcome.exit_code:
        sys.exit(outcome.exit_code)
    return outcome


def describe(outcome: run.Outcome) -> str:
    """What came out, in a few words."""
    record = outcome.record
    text = outcome.state if outcome.new else f"{outcome.state} before"
    text += f" ({outcome.note})" if outcome.note else ""
    if record["test_acc"] is not None:
        text += f"  test accuracy {record['test_acc']:.4f}  test loss {record['test_loss']:.4f}"
    elif record["val_acc"] is not None:
        text += f"  validation accuracy {record['val_acc']:.4f} so far"
    if record["reason"]:
        text += f"  ({' '.join(record['reason'].split())})"
    return f"{text}  {record['train_s']:.1f} s of training"


def _last_line(outcome: run.Outcome) -> str:
    command = shlex.join(["normbench", "train", *_typed])
    report = shlex.join(["normbench", "report", str(outcome.folder.parent)])
    following = {
        "complete": report,
        "diverged": report,
        "paused": "to go on, the same command without stop_epoch, or with a later one",
        "interrupted": f"to go on: {command}",
        "failed": f"the traceback is in {outcome.folder / 'train.log'}; to try again: {command}",
    }
    return f"{outcome.state}: {outcome.folder}; next: {following[outcome.state]}"


_typed: list[str] = []  # what the user typed, for the advice at the end
_main = hydra.main(version_base="1.3", config_path=CONFIG_MODULE, config_name=jobs.CONFIG_NAME)(job)


def train(args: Sequence[str]) -> int:
    """Run Hydra on what stands after `normbench train`; the exit code."""
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    _typed[:] = args
    try:
        arranged = typed.arrange(args)
    except Exception as error:
        return explain(error, full_error)
    with _for_this_call(["normbench train", *arranged]):
        return _call_hydra(full_error)


@contextlib.contextmanager
def _for_this_call(argv: list[str]) -> Iterator[None]:
    """What Hydra reads from the process, and a path to a user's own classes where normbench is started."""
    before = sys.argv, sys.path, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, sys.path = argv, [*sys.path, os.getcwd()]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    try:
        yield
    finally:
        sys.argv, sys.path = before[:2]
        if before[2] is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before[2]


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A Ctrl-C ends what is going on, as ever, and leaves a note: OmegaConf, interrupted, may raise another error."""
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if callable(before):
            before(number, frame)

    own = callable(before) and threading.current_thread() is threading.main_thread()
    if own:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield came
    finally:
        if own:
            signal.signal(signal.SIGINT, before)


def _call_hydra(full_error: bool) -> int:
    warnings_to_terminal()
    with _interrupts() as came:
        try:
            register_plugins()
            _main()
        except run.Interrupted as stop:
            print(f"\n{_last_line(stop.outcome)}", flush=True)
            return stop.exit_code
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 2
        except BaseException as error:
            if came or isinstance(error, KeyboardInterrupt):
                print("\ninterrupted before a run began", file=sys.stderr)
                return 130
            if isinstance(error, Stop):
                return explain(error.error, full_error)
            if isinstance(error, OSError) and error.errno and error.filename is None:
                raise  # of our own output: cli.main knows what to say
            if not isinstance(error, Exception):
                raise
            return explain(error, full_error, otherwise=2)  # Hydra's own, about what was typed: ours travel in a Stop
    return 0


def explain(error: Exception, full_error: bool, otherwise: int | None = None) -> int:
    code = exit_code(error) or otherwise
    if code is None or full_error:
        raise error
    if str(error):
        words = re.sub(
            r"[^\s'\";]{300,}", lambda long: f"{long[0][:60]}... ({len(long[0]):,} characters)", in_words(error)
        )
        sweep = code == 2 and not {"-m", "--multirun", "--dry-run"}.isdisjoint(_typed)
        print(f"normbench: {words}{'; nothing was started' if sweep else ''}", file=sys.stderr)
    return code


def exit_code(error: Exception) -> int | None:
    """2 bad input, 3 folder in use, 4 damaged data, 1 a failed run; None: a bug, which shows its traceback."""
    from normbench.sweep.session import InUseElsewhere, SweepFailed

    codes = {
        records.InUse: 3,
        InUseElsewhere: 3,
        DataError: 4,
        SweepFailed: 1,
        ConfigError: 2,
        HydraException: 2,
        OmegaConfBaseException: 2,
    }
    if isinstance(error, parts.impossible()):
        return 2
    return next((code for kind, code in codes.items() if isinstance(error, kind)), None)


def in_words(error: Exception) -> str:
    """The part of a message that helps, without Hydra's advice that does not."""
    options = getattr(error, "options", None)
    if options:  # norm=foo
        group, _, name = str(getattr(error, "missing_cfg_file", "")).rpartition("/")
        near = catalog.nearest(group, name, options)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        if name in elsewhere.EXTRAS:
            return f"{group}={name} is not installed; type pip install 'normbench[{elsewhere.EXTRAS[name]}]'"
        return f"no {group}={name}{hint}; choose one of: {', '.join(sorted(options))}"
    text = str(error)
    if isinstance(error, ConfigError):
        return text.replace("\n", "\n  ")
    if sweep := re.search(r"Ambiguous value for argument '(.*?)'", text):
        return f"{sweep[1]} is a list of values; for a sweep add -m, for a decimal number write a point"
    if sweep := re.search(r"Sweep parameters '(.*?)' requires", text):
        return f"{sweep[1]} gives several values; for a sweep add -m"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} can't be read; write key=value without blanks, lists in quotes: 'model.hidden=[64]'"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        beside, key = cause.parent_node, cause.full_key
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and key and isinstance(beside, DictConfig):
            return unknown_key(key, map(str, beside) if "." in key else keys_of(beside))
        return f"{key or ''}: {str(cause).splitlines()[0]}".lstrip(": ")
    return " ".join(text.replace("Set the environment variable HYDRA_FULL_ERROR=1", "").split())


class _TerminalHandler(logging.Handler):
    """Warnings for the user, without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(f"normbench: {record.getMessage()}", file=sys.stderr)


def warnings_to_terminal() -> None:
    log = logging.getLogger("normbench")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _TerminalHandler) for handler in log.handlers):
        log.addHandler(_TerminalHandler(logging.WARNING))


def complete(args: Sequence[str]) -> int:
    """Answer the shell: bash puts the typed line in COMP_LINE and runs `normbench -sc query=bash`."""
    sys.argv = ["normbench", *args]
    register_plugins()
    if any(arg.startswith("query=") for arg in args):
        typed = re.match(r"\s*\S+\s+(\S*)(\s.*)?$", os.environ.get("COMP_LINE", ""))
        command, rest = (typed[1], typed[2]) if typed else ("", None)
        if rest is None:
            print(" ".join(name for name in COMMANDS if name.startswith(command)))
            return 0
        if command not in ("train", "compare"):
            return 0
        os.environ["COMP_LINE"] = "normbench" + rest
    _main()
    return 0
