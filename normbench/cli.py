"""The first word of the command line. Imports only the standard library: `normbench --help` is instant."""

import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train one network, or a sweep with -m",
    "report": "figures and tables from the runs in a folder",
    "evaluate": "a finished run's network, evaluated with other statistics",
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
    try:
        return _dispatch(args)
    except BrokenPipeError:  # the reader has gone (normbench ... | head): say no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


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
    if command == "report":
        from normbench import report

        return report.main(args[1:])
    if command == "evaluate":
        from normbench import evaluate

        return evaluate.main(args[1:])
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
    print(f"normbench: unknown command {command!r}; {hint}there are: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
