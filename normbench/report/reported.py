"""The runs that arms are reported by, for figures, and words with which captions tell of them. Pure."""

from collections.abc import Collection

import pandas as pd

from normbench.report import tables
from normbench.report.facets import Row, rows
from normbench.report.study import Study


def runs(study: Study) -> pd.DataFrame:
    """The used runs that arms are reported by: each at its own best."""
    ids = {run_id for arm in study.arms for run_id in arm.reported.values()}
    return study.used[study.used["run_id"].isin(ids)]


def tuning(study: Study) -> pd.DataFrame:
    """The used runs that settings are chosen by, with `score`."""
    if not study.arms:
        return study.used
    found = pd.concat([arm.runs for arm in study.arms])
    chosen = study.options.tune_seeds
    return found if chosen is None else found[found["seed"].astype(int).isin(chosen)]


def facets(study: Study, some: pd.DataFrame, without: Collection[str] = ()) -> list[Row]:
    """`facets.rows` of some of the used runs, by what tells arms apart."""
    keys = [key for key in study.keys if key not in without]
    return rows(some, tables.settings(study.used).loc[some.index, keys]) if len(some) else []


def crosses(some: pd.DataFrame) -> str:
    """What the crosses of the diverged among these runs are, where means end there; "" where there are none."""
    lost = int((some["state"] == "diverged").sum())
    return f"Crosses: {several(lost, 'diverged run')}, at the last finite point; means end there." if lost else ""


def left_out(study: Study) -> str:
    """Arms that have no reported run, and why; "" where there are none."""
    said = [f"{study.name(arm)} ({arm.why})" for arm in study.arms if not arm.reported]
    return f"Not shown: {'; '.join(said)}." if said else ""


def seeds(counts: Collection[int]) -> str:
    """As in "3 seeds" or "2 to 5 seeds"."""
    low, high = min(counts), max(counts)
    return several(high, "seed") if low == high else f"{low} to {high} seeds"


def several(count: int, noun: str) -> str:
    """As in "1 seed", "3 seeds"."""
    return f"{count} {noun}{'s' * (count != 1)}"
