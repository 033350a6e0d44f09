"""The tables of data/: one row a run, an evaluation, a setting and metric, a time to target, a verdict. Pure.

docs/schema.md says what each column is; tests/test_report_json.py compares it with what is written.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from normbench.report import stats, target, verdict
from normbench.report.arms import Arm
from normbench.report.selection import LR, scored_accuracy, scored_loss
from normbench.report.study import Contrast, Study
from normbench.report.verdict import Comparison

SCORES = {"val_acc": "n_val", "test_acc": "n_test", "val_loss": None, "test_loss": None}  # and the images of its split
SUMMARY = (
    "metric", "n", "n_ok", "mean", "sd", "sem", "ci_low", "ci_high", "ci_method", "median", "min", "max",
)  # fmt: skip
OWN, SAME = "own_best", "same"  # lr_choice
EMPTY = pd.DataFrame()


def all_tables(study: Study) -> dict[str, pd.DataFrame]:
    """The tables by the names of their files, without `.csv`; metrics.csv is made where the runs are read."""
    found = {
        "runs": runs(study), "summary": summary(study), "time_to_target": time_to_target(study),
        "comparisons": comparisons(study),
    }  # fmt: skip
    return found | ({"layers": study.layers} if len(study.layers) else {})


def runs(study: Study) -> pd.DataFrame:
    """runs.csv: every run found; `reported` where it is one that its arm is judged by."""
    told = {run_id for arm in study.arms for run_id in arm.reported.values()}
    table = study.runs.copy()
    table.insert(list(table).index("used") + 1, "reported", [run_id in told and used for run_id, used in zip(
        table["run_id"], table["used"], strict=True)])  # fmt: skip
    return table


def summary(study: Study) -> pd.DataFrame:
    """summary.csv: one row a setting, tuned settings apart, and metric, over all its used runs."""
    rows, others = [], [key for key in study.options.tuned if key != LR]
    for arm in study.arms:
        for _, part in arm.runs.groupby([*others, "lr"], sort=True):
            setting = {**arm.setting, **{key: part[key].iloc[0] for key in others}}
            setting["lr"] = study.used.loc[part.index[0], "lr"]  # empty where there is none
            runs = {
                name: part[name].to_numpy() for name in ("run_id", "state", "n_classes", "n_val", "n_test", *SCORES)
            }
            rows += [setting | _summary(study, runs, metric) for metric in SCORES]
    return pd.DataFrame(rows, columns=[*study.keys, *others, "lr", *SUMMARY])


def _summary(study: Study, runs: Mapping[str, np.ndarray], metric: str) -> dict[str, object]:
    done = int((runs["state"] == "complete").sum())
    values = np.array(runs[metric], float)
    for i in np.flatnonzero(runs["state"] == "diverged"):
        values[i] = _scored(study, metric, float(values[i]), str(runs["run_id"][i]), int(runs["n_classes"][i]))
    if np.isnan(values).any():  # no mean is taken over those that happen to have it
        return {"metric": metric, "n": len(values), "n_ok": done}
    images = SCORES[metric]
    with np.errstate(over="ignore", invalid="ignore"):  # losses near 1e200 have no finite square
        return stats.summary(metric, values, n_ok=done, n_images=int(runs[images][0]) if images else None)


def _scored(study: Study, metric: str, value: float, run_id: str, n_classes: int) -> float:
    """A diverged run as guessing, or as the loss that it began with: the one on validation data, test is read once."""
    if metric.endswith("_acc"):
        return scored_accuracy(value, True, n_classes)
    start = study.start_losses.get(run_id)
    return math.nan if start is None else scored_loss(value, start)


def targets(study: Study) -> list[tuple[Arm, float]]:
    """The arms whose time to a target is told, each with it: the declared one, or that of its contrasts."""
    found: dict[int, float] = {}
    for contrast in study.contrasts:
        if contrast.target is not None:
            found |= {id(arm): contrast.target for arm in (contrast.baseline, contrast.variant)}
    declared = study.options.target
    goals = [(arm, found.get(id(arm), declared)) for arm in study.arms]
    return [(arm, goal) for arm, goal in goals if goal is not None]


def crossings(study: Study, arm: Arm, goal: float) -> dict[str, target.Crossing]:
    """run_id -> when it reached the goal, of every used run of an arm."""
    return {run_id: study.crossing(run_id, goal) for run_id in map(str, arm.runs["run_id"])}


def time_to_target(study: Study) -> pd.DataFrame:
    """time_to_target.csv: every used run of the arms that have a target."""
    found = {i: c for arm, goal in targets(study) for i, c in crossings(study, arm, goal).items()}
    return target.table(found)


def judged(contrast: Contrast) -> list[tuple[str, Comparison]]:
    """The verdicts of a contrast, each with how its learning rates were chosen.

    A contrast asks each question at the arms' own best rates first; what it asks again is asked at the same rate.
    """
    seen: set[str] = set()
    found = []
    for row in contrast.rows:
        found.append((SAME if row.metric in seen else OWN, row))
        seen.add(row.metric)
    return found


def comparisons(study: Study) -> pd.DataFrame:
    """comparisons.csv: every verdict, the headline of each contrast first; in front what tells where it belongs."""
    rows, wheres, choices = [], [], []
    for contrast in study.contrasts:
        for choice, row in judged(contrast):
            rows.append(row)
            wheres.append(where(contrast))
            choices.append(choice)
    table = verdict.table(rows)
    table.insert(0, "lr_choice", choices)
    table.insert(0, "where", wheres)
    return table


def where(contrast: Contrast) -> str:
    """The block's settings as one would type them: "optimizer=adam clip=none"; "" where there is one block."""
    return " ".join(f"{key}={value}" for key, value in contrast.where.items() if value != "")
