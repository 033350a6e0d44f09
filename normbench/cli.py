"""The first word of the command line. Imports only the standard library: `normbench --help` is instant."""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

COMMANDS = {
    "train": "train one network, or a sweep with -m",
    "report": "figures and tables from the runs in a folder",
    "compare": "every choice tuned with the same budget, then confirmed on fresh seeds",
    "reproduce": "a claim of the documents, tested: normbench reproduce --list",
    "export": "the runs as TensorBoard's event files",
    "evaluate": "a finished run's network, evaluated with other statistics",
    "verify": "runs of engine=stack, trained once more by themselves and compared",
    "status": "what is done, running, broken",
    "clean": "remove checkpoints, broken runs and left-over files, saying what first",
    "list": "the choices: normbench list norm",
    "data": "fetch and verify a data set",
}

USAGE = """\
usage: normbench COMMAND ...

{commands}

first steps:
  normbench train norm=bn optimizer=adam
  normbench train -m norm=none,bn optimizer=sgd,adam seed=0,1,2
  normbench report results/runs

normbench COMMAND --help tells more; eval "$(normbench -sc install=bash)" completes words in bash
"""


def main(argv: Sequence[str] | None = None) -> int:
    args = list(sys.argv[1:] if argv is None else argv)
    _open_closed_streams()
    try:
        with _interrupts():
            code = _dispatch(args)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader has gone (normbench ... | head): say no more
        _discard_output()
        return 141
    except KeyboardInterrupt:  # while a command imports what it needs, or does nothing that it would have to save
        print("\ninterrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise  # a bug: of a file the commands say themselves what is wrong
        _discard_output()
        print(f"normbench: what is printed cannot be written: {error.strerror}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """With Ctrl-C handled by `_interrupted`, where Python handles it."""
    own = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if own and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    else:
        yield


def _interrupted(number: int, frame: FrameType | None) -> None:
    """As Python has it, but while torch is imported a moment later: amid that an exception can abort the process."""
    if getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False):
        again = threading.Timer(0.1, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
    else:
        signal.default_int_handler(number, frame)


def _open_closed_streams() -> None:
    """Where the caller has closed stdin, stdout or stderr (`>&-`), put the null device: Python leaves None there.

    A file opened later would get the free number, and with it whatever a library prints.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest free number, this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding does not have


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(args: list[str]) -> int:
    command = args[0] if args else "--help"
    if command in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(USAGE.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())), end="")
        return 0
    if command in ("-V", "--version"):
        from normbench import __version__

        print(f"normbench {__version__}")
        return 0
    if command == "train":
        from normbench import app

        return app.train(args[1:])
    if command == "compare":
        from normbench import compare

        return compare.main(args[1:])
    if command == "report":
        from normbench import report

        return report.main(args[1:])
    if command == "reproduce":
        from normbench import reproduce

        return reproduce.main(args[1:])
    if command == "export":
        from normbench import export

        return export.main(args[1:])
    if command == "evaluate":
        from normbench import evaluate

        return evaluate.main(args[1:])
    if command == "verify":
        from normbench import verify

        return verify.main(args[1:])
    if command == "status":
        from normbench import status

        return status.main(args[1:])
    if command == "clean":
        from normbench import clean

        return clean.main(args[1:])
    if command == "list":
        from normbench import catalog

        return catalog.main(args[1:])
    if command == "data":
        from normbench import data

        return data.main(args[1:])
    if command in ("-sc", "--shell-completion"):
        from normbench import app

        return app.complete(args)
    return unknown(command)


def unknown(command: str) -> int:
    from difflib import get_close_matches

    near = get_close_matches(command, COMMANDS, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    if "=" in command or command in ("-m", "--multirun"):
        hint = f"did you mean normbench train {command}{' ...' if command[0] == '-' else ''}? "
    print(f"normbench: unknown command {command!r}; {hint}there are: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
