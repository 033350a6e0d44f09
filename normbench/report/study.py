"""What the figures, tables and pages of a report are made from: runs, arms, and contrasts with a baseline. Pure.

A contrast is two arms that differ in one group (norm, ...) and in nothing else; `contrasts` finds and judges them.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from normbench.report import tables, target, verdict
from normbench.report.arms import Arm, Options, Setting
from normbench.report.target import Crossing


@dataclass(frozen=True)
class Contrast:
    """A variant against the baseline. key: the group that is compared. where: what both arms have in common and other
    contrasts have not. crossings: of the reported runs of both arms. rows: its verdicts, the headline first.
    """

    key: str
    baseline: Arm
    variant: Arm
    where: Setting
    target: float | None
    post_hoc: bool
    crossings: tuple[dict[int, Crossing], dict[int, Crossing]]
    rows: tuple[verdict.Comparison, ...] = field(default=(), compare=False)


class _Rows(Mapping[str, pd.DataFrame]):
    """Takes a run's rows out of the table when asked for them: ten thousand tables would take seconds to make."""

    def __init__(self, metrics: pd.DataFrame):
        found = metrics.groupby("run_id", sort=False).indices.items()
        self._metrics, self._places = metrics, {str(run_id): np.asarray(own) for run_id, own in found}

    def __getitem__(self, run_id: str) -> pd.DataFrame:
        return self._metrics.take(self._places[run_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Study:
    """All that the figures, tables and pages of a report are made from.

    runs: every run found; metrics: the rows of the used ones. keys: the settings that tell arms apart.
    notes: what could not be compared, and why. layers: what probes measured, see `layers.read`; empty without one.
    metrics_csv: `collect.Collected.text`; empty where the study is of no files.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    options: Options
    keys: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    notes: tuple[str, ...] = ()
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics_csv: bytes = b""

    def but(self, **changes: Any) -> "Study":
        """The same runs, metrics and options, with these fields; what was worked out of the former is kept."""
        other = replace(self, **changes)
        vars(other).update({name: value for name, value in vars(self).items() if name not in vars(other)})
        return other

    @cached_property
    def used(self) -> pd.DataFrame:
        return self.runs[self.runs["used"].astype(bool)]

    @cached_property
    def setting(self) -> pd.DataFrame:
        """What tells the used runs apart, one row a run."""
        return tables.settings(self.used) if len(self.used) else pd.DataFrame(columns=["norm", "optimizer"])

    @cached_property
    def untrained(self) -> AbstractSet[str]:
        """The run_ids of complete runs that ended no better than they began."""
        return frozenset(self.used.loc[tables.untrained(self.used, self.metrics), "run_id"])

    @cached_property
    def norms(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.used["norm"])))

    @cached_property
    def optimizers(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.used["optimizer"])))

    @cached_property
    def rows_of(self) -> Mapping[str, pd.DataFrame]:
        """run_id -> its rows of metrics.csv."""
        return _Rows(self.metrics)

    @cached_property
    def start_losses(self) -> dict[str, float]:
        """run_id -> its validation loss before the first step."""
        starts = self.metrics[self.metrics["step"] == 0]
        return dict(zip(starts["run_id"], starts["val_loss"].astype(float), strict=True))

    @cached_property
    def track_of(self) -> Mapping[str, target.Track]:
        """run_id -> its way to its accuracy."""
        return target.Track.of_each(self.metrics)

    @cached_property
    def _budgets(self) -> dict[str, int]:
        return {str(i): int(n) for i, n in zip(self.used["run_id"], self.used["total_steps"], strict=True)}

    @cached_property
    def _crossings(self) -> dict[tuple[str, float], Crossing]:
        return {}

    def crossing(self, run_id: str, goal: float) -> Crossing:
        """When that run reached the accuracy `goal`."""
        if (run_id, goal) not in self._crossings:
            self._crossings[run_id, goal] = self.track_of[run_id].crossing(goal, self._budgets[run_id])
        return self._crossings[run_id, goal]

    def name(self, arm: Arm, without: Sequence[str] = ()) -> str:
        """The arm in words: norm and optimizer by value, the rest as key=value; what never varies is left out."""
        varies = [k for k in self.keys if k not in without and len({str(a.setting[k]) for a in self.arms}) > 1]
        plain = [str(arm.setting[k]) for k in varies if k in ("norm", "optimizer")]
        rest = [
            f"{k}={tables.cell_text(v)}"
            for k in varies
            if k not in ("norm", "optimizer") and (v := arm.setting[k]) != ""
        ]
        return ", ".join([*plain, *rest]) or arm.norm


class Refused(ValueError):
    """The options can't be; the message says what to type instead."""
