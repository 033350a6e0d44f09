"""From the table of runs to the arms that are compared, and the setting each is reported at. Pure.

An arm is what is left of a run's settings without its seed and what is tuned, the learning rate if nothing else is
said: each arm is reported at its own best (`selection`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from normbench.claim import Claim
from normbench.plan import Arm as PlannedArm
from normbench.plan import Plan, Range
from normbench.report import selection, tables
from normbench.report.selection import LR, Selection

Setting = dict[str, Any]  # key -> value; "" where the arm has no such key


@dataclass(frozen=True)
class Options:
    """What the reader asks for.

    target: accuracy to reach; None: chosen after the fact. baseline: (key, value), as in ("norm", "none").
    x: `step`, `examples` or `train_s`, in which a time is counted. tune_seeds: the seeds that choose what is tuned, the
    others are reported; None: each seed is reported at the setting that the others choose. tuned: the keys of it.
    plan: of the comparison that made the runs, for the ranges that were searched. claim: that the runs put to the test.
    """

    target: float | None = None
    baseline: tuple[str, str] | None = None
    x: str = "step"
    tune_seeds: frozenset[int] | None = None
    tuned: tuple[str, ...] = (LR,)
    plan: Plan | None = None
    claim: Claim | None = None


@dataclass(frozen=True)
class Arm:
    """Runs that differ in seed and tuned settings alone.

    setting: what tells it from the other arms. runs: one row a run, as `collect` gives them, with the tuned settings by
    their keys, `score`, the final validation accuracy, and `test_score`; a diverged run is scored as guessing.
    selection: None where no setting can be chosen, `why` says why.
    """

    setting: Setting
    runs: pd.DataFrame
    selection: Selection | None
    why: str = ""

    @property
    def norm(self) -> str:
        return str(self.setting["norm"])

    @property
    def optimizer(self) -> str:
        return str(self.setting["optimizer"])

    @cached_property
    def reported(self) -> dict[int, str]:
        """Seed -> run_id of the run that is reported for it."""
        return self._at(self.selection.chosen) if self.selection else {}

    def at(self, tuned: tuple) -> dict[int, str]:
        """The same seeds, all at this setting of what is tuned."""
        return self._at(dict.fromkeys(self.selection.chosen, tuned)) if self.selection else {}

    @cached_property
    def tuning(self) -> dict[int, str]:
        """Seed that chose -> run_id of its run at the setting that all of them chose together."""
        if self.selection is None:
            return {}
        choosing = set(self.runs["seed"].astype(int)) - set(self.selection.chosen) or set(self.selection.chosen)
        return self._at(dict.fromkeys(choosing, self.selection.best))

    def _at(self, chosen: Mapping[int, tuple]) -> dict[int, str]:
        tuned = self.runs[list(self.selection.tune)] if self.selection else pd.DataFrame(index=self.runs.index)
        rows = zip(self.runs["seed"], tuned.itertuples(index=False, name=None), self.runs["run_id"], strict=True)
        found = {int(seed): str(run_id) for seed, setting, run_id in rows if chosen.get(int(seed)) == setting}
        return dict(sorted(found.items()))

    def column(self, name: str, run_ids: Mapping[int, str]) -> dict[int, float]:
        """Seed -> value of that column, where there is one."""
        values = dict(zip(self.runs["run_id"], self.runs[name].astype(float), strict=True))
        return {seed: values[i] for seed, i in run_ids.items() if math.isfinite(values[i])}

    @cached_property
    def _states(self) -> dict[str, str]:
        return dict(zip(self.runs["run_id"], self.runs["state"], strict=True))

    def diverged(self, run_ids: Mapping[int, str]) -> int:
        return sum(self._states[i] == "diverged" for i in run_ids.values())


def arms(runs: pd.DataFrame, setting: pd.DataFrame, options: Options) -> list[Arm]:
    """setting: what tells the used runs apart, one row a run, without what is tuned."""
    used = runs[runs["used"].astype(bool)]
    lr = used["lr"].astype(float).fillna(0.0)  # an optimizer without one has one rate, too
    guess = 1 / used["n_classes"].astype(float)
    lost = used["state"] == "diverged"
    tuned = {key: lr if key == LR else _setting(used, key) for key in options.tuned}
    full = used.assign(lr=lr, score=used["val_acc"].astype(float).where(~lost, guess), **tuned)
    full["test_score"] = used["test_acc"].astype(float).where(~lost, guess)
    lost_runs = runs[runs["state"] == "failed"]
    found = []
    for cell, part in full.groupby([setting[key] for key in setting], sort=False):
        values = dict(zip(map(str, setting), cell, strict=True))
        part = part.sort_values(["lr", "seed", "run_id"])
        try:
            found.append(Arm(values, part, _given(_selected(part, options), part, lost_runs, options)))
        except ValueError as error:
            found.append(Arm(values, part, None, str(error)))
    return sorted(found, key=lambda arm: tables.natural(arm.setting.values()))


def _setting(used: pd.DataFrame, key: str) -> pd.Series:
    """What the runs have of a key; "" where an arm has no such key."""
    column = f"cfg.{key}"
    return used[column].astype(object).where(used[column].notna(), "") if column in used else pd.Series("", used.index)


def _selected(runs: pd.DataFrame, options: Options) -> Selection:
    how: Any = {"tune": options.tuned, "ranges": _ranges(runs, options.plan)}
    if options.tune_seeds is not None:
        seeds = set(map(int, runs["seed"]))
        how |= {"tune_seeds": seeds & options.tune_seeds, "confirm_seeds": seeds - options.tune_seeds}
    return selection.choose(runs, "val_acc", **how)


def _given(found: Selection, runs: pd.DataFrame, failed: pd.DataFrame, options: Options) -> Selection:
    """With the settings that the arm was given: those that failed too, and all trials of its plan."""
    tried = dict.fromkeys([*found.tried, *_failed(runs, failed, options)])
    found = replace(found, tried=tuple(tried), n_settings=len(tried))
    plan = options.plan
    if plan is None or not plan.tuned or _planned(runs, plan) is None:
        return found
    n_settings = max(plan.trials, len(tried))  # more: somebody trained others, too
    if not plan.halving or n_settings == 1:
        return replace(found, n_settings=n_settings)
    # what halving stopped has been tried all the same, by one rule for every arm; one that is left was chosen
    how = "tune/confirm" if found.how == "one setting" else found.how
    return replace(found, n_settings=n_settings, n_finished=n_settings, how=how, halved=True)


def _failed(runs: pd.DataFrame, failed: pd.DataFrame, options: Options) -> list[tuple]:
    """What failed of the settings of the arm that has these runs."""
    if not len(failed):
        return []
    if options.tune_seeds is not None:
        failed = failed[failed["seed"].astype(int).isin(options.tune_seeds)]
    left = ("seed", *options.tuned)
    own = [key for key in map(str, failed) if key.startswith("cfg.") and key[4:] not in left]
    same = failed[(failed[own].astype(str) == runs.iloc[0][own].astype(str)).all(axis=1)]
    values = [same["lr"].astype(float).fillna(0.0) if key == LR else _setting(same, key) for key in options.tuned]
    return list(zip(*values, strict=True))


def _planned(runs: pd.DataFrame, plan: Plan | None) -> PlannedArm | None:
    """The arm of the plan that these runs are of."""
    for arm in plan.arms if plan else ():
        known = {key: runs.get(f"cfg.{key}.name", runs.get(f"cfg.{key}")) for key in arm.choices}
        if all(values is not None and str(values.iloc[0]) == arm.choices[key] for key, values in known.items()):
            return arm
    return None


def _ranges(runs: pd.DataFrame, plan: Plan | None) -> dict[str, Range]:
    """Where the settings of this arm were searched."""
    arm = _planned(runs, plan)
    return plan.ranges(arm) if plan and arm else {}
