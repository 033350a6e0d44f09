"""`normbench report FOLDER...`: comparison plots and tables of the runs below some folders. Never imports torch."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from normbench import records

if TYPE_CHECKING:
    import pandas as pd

TRAIN = "train some: normbench train -m norm=none,bn seed=0,1,2"
EPILOG = """\
Only complete and diverged runs give numbers; every other run is listed with the reason.
Exit codes: 0 done; 2 bad input (no such folder, no runs, nowhere to write)."""


class InputError(ValueError):
    """The command cannot be carried out as typed; the message says what to type instead."""


def main(args: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="normbench report",
        description="Compare the runs below some folders: curves, a table of means and spreads, the data behind them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Path("results/runs")
    parser.add_argument("folders", metavar="FOLDER", nargs="*", type=Path, help=f"where runs are (default: {default})")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the report goes (default: FIRST_FOLDER/report)")
    options = parser.parse_args(args)
    folders = options.folders or [default]
    os.environ.pop("MPLBACKEND", None)  # notebooks set it to one of their own; the figures need none
    try:
        return _report(folders, options.out or folders[0] / "report")
    except InputError as error:
        print(f"normbench report: {error}", file=sys.stderr)
        return 2


def _report(folders: list[Path], out: Path) -> int:
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"FOLDER must be an existing folder, given {str(folder)!r}; {TRAIN}")
    from normbench.report.collect import collect  # pandas: not for a mistyped folder, nor for --help

    runs, metrics = collect(folders)
    if not len(runs):
        places = ", ".join(map(str, folders))
        raise InputError(f"no runs found under {places} (looked for run.json); {TRAIN}")
    files = _files(runs, metrics)
    try:
        _write(out, files)
    except OSError as error:
        raise InputError(f"the report must go to a folder that can be written ({error}); type --out DIR") from None
    used = int(runs["used"].sum())
    print(f"{used} of {len(runs)} runs used" + (", the others are listed" if used < len(runs) else ""))
    print(f"wrote {out / 'report.md'}")
    return 0


def _files(runs: "pd.DataFrame", metrics: "pd.DataFrame") -> dict[str, bytes]:
    """Every file of the report by its path inside the report's folder."""
    from normbench.report import page, style, tables
    from normbench.report.figures import NotDrawn, curves

    used = runs[runs["used"].astype(bool)]
    files = {"data/runs.csv": tables.as_csv(runs), "data/metrics.csv": tables.as_csv(metrics)}
    table = tables.summary(used, metrics) if len(used) else runs.iloc[:0]
    if len(used):
        files["tables/summary.csv"] = tables.as_csv(table)
        files["tables/summary.md"] = tables.summary_markdown(table).encode()
    drawn, notes = [], []
    try:
        drawn = curves.curves(used, tables.settings(used), metrics)
    except NotDrawn as reason:
        notes.append(f"curves: not drawn: {reason}")
    for item in drawn:
        rendered = style.rendered(item.figure, item.name, item.caption)
        files |= {f"figures/{item.name}.{kind}": data for kind, data in rendered.items()}
    text = page.page(runs, metrics, table, [(item.name, item.caption) for item in drawn], notes)
    return files | {"report.md": text.encode()}


def _write(out: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != data:
            records.write(path, data)
    # what an earlier report of other runs left behind would pass for a part of this one
    for stale in [*out.glob("figures/curves*.*"), *out.glob("tables/summary.*")]:
        if stale.relative_to(out).as_posix() not in files:
            stale.unlink()
