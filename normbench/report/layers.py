"""What probes measured in the used runs, as one table; read only where a run had a probe."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from normbench import records
from normbench.report.collect import FRONT

COLUMNS = (*FRONT, *records.LAYERS)


def has_probes(runs: pd.DataFrame) -> bool:
    """Whether any of these runs, as `collect` gives them, had a probe."""
    return "cfg.probe.name" in runs and bool(runs.loc[runs["used"].astype(bool), "cfg.probe.name"].notna().any())


def read(roots: Sequence[Path], runs: pd.DataFrame) -> pd.DataFrame:
    """Every row of the used runs' layers.csv, with FRONT before it; in the order of `runs`, which are collect's.

    Their checksums were compared when the runs were collected.

    Raises:
        Damaged: a file that is not as it should be, though it is what was written.
    """
    rows: list[tuple] = []
    for run in runs[runs["used"].astype(bool) & runs["cfg.probe.name"].notna()].to_dict("records"):
        path = _folder(roots, run["folder"], run["run_id"]) / "layers.csv"
        front = [run[key] for key in FRONT]
        rows += [(*front, *row) for row in records.read_layers(path)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _folder(roots: Sequence[Path], place: str, run_id: str) -> Path:
    """Where the run is: below one of the roots, or a root itself."""
    for folder in (folder for root in roots for folder in (root / place, root)):
        if (folder / "layers.csv").is_file() and records.read_run(folder)["run_id"] == run_id:
            return folder
    raise records.Damaged(f"{place}: its layers.csv has gone")
