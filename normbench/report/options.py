"""What is typed after `normbench report`, and what of it can't be. Imports the standard library alone."""

import argparse
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

UNITS = {"steps": "step", "examples": "examples", "seconds": "train_s"}
FORMATS = ("html", "md", "json", "tex", "csv", "svg", "pdf", "png")
DEFAULT = Path("results/runs")
EPILOG = """\
Only complete and diverged runs give numbers; every other run is listed with the reason. Each comparison has one
headline verdict, its first; where nothing is compared, --fail-on REFUSED fails.
Exit codes: 0 done; 1 a headline verdict has a state of --fail-on; 2 bad input (no such folder, no runs, an option that
can't be, nowhere to write); 4 --strict, and a run is damaged. The report is written for 1 and 4 too."""


class InputError(ValueError):
    """The command cannot be carried out as typed; the message says what to type instead."""


@dataclass(frozen=True)
class Request:
    """The command as typed: `x` as a column of metrics.csv."""

    folders: tuple[Path, ...]
    out: Path
    target: float | None = None
    baseline: tuple[str, str] | None = None
    x: str = "step"
    tune_seeds: frozenset[int] | None = None
    tune: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    formats: tuple[str, ...] = FORMATS
    fail_on: tuple[str, ...] = ()
    strict: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; normbench report --help tells more")


def parse(args: list[str]) -> Request:
    """Raises InputError; `--help` prints and exits."""
    given = _parser().parse_args(args)
    folders = tuple(given.folders or [DEFAULT])
    return Request(
        folders=folders,
        out=given.out or folders[0] / "report",
        target=_target(given.target),
        baseline=_baseline(given.baseline),
        x=UNITS[given.x],
        tune_seeds=_seeds(given.tune_seeds),
        tune=None if given.tune is None else _keys(given.tune),
        only=None if given.only is None else _listed(given.only),
        formats=_formats(given.format),
        fail_on=_states(given.fail_on),
        strict=given.strict,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="normbench report",
        description="Compare the runs below some folders: a verdict for each contrast, figures, tables, and the data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folders", metavar="FOLDER", nargs="*", type=Path, help=f"where runs are (default: {DEFAULT})")
    add("--out", metavar="DIR", type=Path, help="where the report goes (default: FIRST_FOLDER/report)")
    add("--target", metavar="ACC", help="validation accuracy to reach, as 0.85, declared before the runs were made "
        "(default: found from the baseline's runs, which lowers the verdict)")  # fmt: skip
    add("--baseline", metavar="KEY=VALUE", help="what the others are compared with, as norm=none "
        "(default: the first value, none first, of the first of norm, clip, optimizer that varies)")  # fmt: skip
    add("--x", choices=UNITS, default="steps", help="in what the way to the target is counted (default: steps)")
    add("--tune", metavar="KEY,...", help="the settings that were tuned, as optimizer.lr,optimizer.momentum: each arm "
        "is reported at its best of them (default: those of compare.json, else optimizer.lr)")  # fmt: skip
    add("--tune-seeds", metavar="0,1,2", help="the seeds that choose what is tuned; the others are reported (default: "
        "those of compare.json, else each seed is reported at what the other seeds choose)")  # fmt: skip
    add("--only", metavar="KEY,...", help="draw only these figures, as curves,paired")
    add(
        "--format",
        metavar="KIND,...",
        help=f"write only these of {','.join(FORMATS)}; md brings its png (default: all)",
    )
    add(
        "--fail-on",
        metavar="STATE,...",
        help="exit with 1 if a headline verdict has one of these states, as WORSE,SLOWER",
    )
    add("--strict", action="store_true", help="exit with 4 if a run is damaged")
    return parser


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip())) if text else ()


def _target(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        percent = re.fullmatch(r"(\d{1,2}(?:\.\d+)?)%?", text)
        instead = f"{float(percent[1]) / 100:g}" if percent and float(percent[1]) else "0.85"
        raise InputError(f"--target must be an accuracy above 0 and at most 1, given {text!r}; type --target {instead}")
    return value


def _baseline(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise InputError(f"--baseline must be KEY=VALUE, given {text!r}; type --baseline norm=none")
    return key, value


def _seeds(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    try:
        seeds = frozenset(int(part) for part in _listed(text))
    except ValueError:
        seeds = frozenset()
    if not seeds:
        raise InputError(f"--tune-seeds must be whole numbers, given {text!r}; type --tune-seeds 0,1,2")
    return seeds


def _keys(text: str) -> tuple[str, ...]:
    keys = _listed(text)
    if not keys or {"norm", "optimizer"} & set(keys):
        raise InputError(
            f"--tune must be keys of numbers, norm and optimizer tell arms apart, given {text!r}; "
            "type --tune optimizer.lr,optimizer.weight_decay"
        )
    return keys


def _formats(text: str | None) -> tuple[str, ...]:
    if text is None:
        return FORMATS
    wanted = _chosen("--format", _listed(text), FORMATS)
    return tuple(kind for kind in FORMATS if kind in wanted or (kind == "png" and "md" in wanted))


def _states(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    from normbench.report.state import State  # scipy: only where it is asked for

    return _chosen("--fail-on", tuple(s.upper().replace("_", " ") for s in _listed(text)), tuple(State))


def _chosen(option: str, given: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        raise InputError(f"{option} takes {', '.join(known)}, given {', '.join(unknown) or 'nothing'}")
    return given


def check_only(only: tuple[str, ...] | None, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The figures to draw, in the report's order."""
    wanted = keys if only is None else _chosen("--only", only, keys)
    return tuple(key for key in keys if key in wanted)


def check_tuned(tune: tuple[str, ...] | None, known: set[str]) -> None:
    """known: the config keys that some run has."""
    for key in tune or ():
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else "type --tune optimizer.lr"
            raise InputError(f"--tune: no run has a setting {key}; {hint}")


def check_seeds(tune: frozenset[int] | None, found: set[int]) -> None:
    if tune is None or not found:
        return
    listed = ", ".join(map(str, sorted(found)))
    if missing := sorted(tune - found):
        raise InputError(f"--tune-seeds: no used run has seed {', '.join(map(str, missing))}; the runs have {listed}")
    if not found - tune:
        raise InputError(f"--tune-seeds must leave seeds to report; the runs have {listed}, name fewer or train others")
