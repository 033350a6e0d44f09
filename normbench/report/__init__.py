"""`normbench report FOLDER...`: verdicts, figures and tables of the runs below some folders. Never imports torch."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench import claim, plan, records
from normbench.report.options import InputError, Request, check_only, check_seeds, check_tuned, parse

if TYPE_CHECKING:
    from normbench.report.cache import Cache
    from normbench.report.study import Study

TRAIN = "train some: normbench train -m norm=none,bn seed=0,1,2"
FAILED, BAD_INPUT, DAMAGED = 1, 2, 4
LR = "optimizer.lr"  # what is tuned if nothing else is said


def main(args: list[str]) -> int:
    os.environ.pop("MPLBACKEND", None)  # notebooks set it to one of their own; the figures need none
    try:
        return _report(parse(args))
    except InputError as error:
        print(f"normbench report: {error}", file=sys.stderr)
        return BAD_INPUT


def _report(request: Request) -> int:
    for folder in request.folders:
        if not folder.is_dir():
            raise InputError(f"FOLDER must be an existing folder, given {str(folder)!r}; {TRAIN}")
    from normbench.report.cache import NAME, Cache  # numpy, as below: not for a mistyped folder, nor for --help

    cache = Cache(request.out / NAME)
    study = _study(request, cache)
    from normbench.report import output
    from normbench.report.study import Refused

    try:
        files = output.files(study, request.formats, _keys(request, study))
    except Refused as error:  # a claim whose questions do not fit these runs
        raise InputError(str(error)) from None
    try:
        _write(request.out, files)
        cache.write()
    except OSError as error:
        raise InputError(f"the report must go to a folder that can be written ({error}); type --out DIR") from None
    used = len(study.used)
    print(f"{used} of {len(study.runs)} runs used" + (", the others are listed" if used < len(study.runs) else ""))
    pages = [name for name in ("report.html", "report.md", "report.json") if name in files]
    print(f"wrote {request.out / pages[0] if pages else request.out}")
    return _exit_code(request, study)


def _study(request: Request, cache: "Cache") -> "Study":
    from normbench.report.collect import collected

    found = collected(request.folders, cache)
    runs = found.runs
    if not len(runs):
        places = ", ".join(map(str, request.folders))
        raise InputError(f"no runs found under {places} (looked for run.json); {TRAIN}")
    from normbench.report.arms import Options
    from normbench.report.contrasts import study
    from normbench.report.figures import KEYS  # matplotlib, which makes a cache: not where there is nothing to draw
    from normbench.report.layers import has_probes, read
    from normbench.report.study import Refused

    check_only(request.only, KEYS)
    check_seeds(request.tune_seeds, set(map(int, runs.loc[runs["used"].astype(bool), "seed"])))
    check_tuned(request.tune, {str(name)[4:] for name in runs if str(name).startswith("cfg.")})
    try:
        options = Options(request.target, request.baseline, request.x, **_tuning(request))
        made = study(runs, found.metrics, options).but(metrics_csv=found.text)
        return made.but(layers=read(request.folders, runs)) if has_probes(runs) else made
    except (Refused, records.Damaged) as error:
        raise InputError(str(error)) from None


def _keys(request: Request, study: "Study") -> tuple[str, ...]:
    """The figures to draw: those asked for, else all that these runs can have."""
    from normbench.report.figures import CLAIMED, KEYS

    keys = check_only(request.only, KEYS)
    return keys if request.only or study.options.claim else tuple(key for key in keys if key not in CLAIMED)


def _tuning(request: Request) -> dict[str, Any]:
    """What was tuned and by which seeds: as typed, else by the plan of a comparison, if it made these runs. The claim
    that they test.
    """
    try:
        plans = [found for folder in request.folders if (found := plan.read(folder)) is not None]
        claims = [found for folder in request.folders if (found := claim.read(folder)) is not None]
    except records.Damaged as error:
        raise InputError(f"{error}; remove it; what a plan said can be typed, --tune and --tune-seeds") from None
    made = plans[0] if len(plans) == len(request.folders) == 1 else None
    claimed = claims[0] if len(claims) == len(request.folders) == 1 else None
    tuned = request.tune or (made.tuned if made else ()) or (LR,)
    seeds = frozenset(made.tune_seeds) if made and request.tune_seeds is None else request.tune_seeds
    return {"tuned": tuned, "tune_seeds": seeds, "plan": made, "claim": claimed}


def _exit_code(request: Request, study: "Study") -> int:
    damaged = list(study.runs.loc[study.runs["state"] == "damaged", "run_id"])
    if request.strict and damaged:
        print(f"normbench report: --strict: {len(damaged)} damaged: {', '.join(damaged)}", file=sys.stderr)
        return DAMAGED
    states = [str(contrast.rows[0].state) for contrast in study.contrasts] or ["REFUSED"]
    hit = [state for state in states if state in request.fail_on]
    if hit:
        print(f"normbench report: --fail-on: a headline verdict is {', '.join(dict.fromkeys(hit))}", file=sys.stderr)
        return FAILED
    return 0


def _write(out: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != data:
            records.write(path, data)
    # what an earlier report of other runs, or with other options, left behind would pass for a part of this one
    from normbench.report.output import OURS

    for folder in (out, out / "data", out / "figures", out / "tables"):
        for path in sorted(folder.glob("*.*")):
            name = path.relative_to(out).as_posix()
            if name not in files and re.fullmatch(OURS, name) and path.is_file():
                path.unlink()
