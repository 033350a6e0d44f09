"""What a claim measures inside the network, from layers.csv (docs/probes.md): a number a seed. Pure.

A value that is not finite is left out, and a seed that has none left, or whose run had no such probe, has no number.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from normbench.report.study import Study

Seeds = dict[int, float]
Points = Mapping[Any, Mapping[int, Mapping[str, Any]]]
TINY = 1e-38  # a norm of 0 counts as the smallest that float32 tells from it: 38 decades below 1


def _of_each(read: Callable[[pd.DataFrame], float], kind: str) -> Callable[[Study, Points], Seeds]:
    """`read` of each run's finite rows of this kind (or these, with spaces between), seed by seed."""
    kinds = kind.split()

    def of(study: Study, points: Points) -> Seeds:
        (runs,) = points.values()
        table = study.layers
        if not len(table):
            return {}
        table = table[table["kind"].isin(kinds) & np.isfinite(table["value"].astype(float))]
        found = {}
        for seed, row in runs.items():
            own = table[table["run_id"] == row["run_id"]]
            value = read(own) if len(own) else math.nan
            if math.isfinite(value):
                found[seed] = value
        return found

    return of


def _by_step(rows: pd.DataFrame, layer: int) -> pd.DataFrame:
    """The stats of one layer, a row a step; of the steps at which all were finite. layer: 0 the first, -1 the last."""
    index = sorted(set(rows["layer_index"]))[layer]
    own = rows[rows["layer_index"] == index]
    return own.pivot(index="step", columns="stat", values="value").astype(float).dropna()


def _decades(value: float) -> float:
    return math.log10(max(value, TINY))


def _gradient_gap(rows: pd.DataFrame) -> float:
    """Median over the evaluations of |log10(gradient norm of the first layer / that of the last)|."""
    first, last = (_by_step(rows, layer)["norm_mean"] for layer in (0, -1))
    both = pd.concat([first, last], axis=1, join="inner").to_numpy()
    return float(np.median([abs(_decades(a) - _decades(b)) for a, b in both])) if len(both) else math.nan


def _gradient_kept(rows: pd.DataFrame) -> float:
    """log10(gradient norm of the first layer / that of the last), as last told."""
    first, last = (_by_step(rows, layer)["norm_mean"] for layer in (0, -1))
    return _decades(first.iloc[-1]) - _decades(last.iloc[-1]) if len(first) and len(last) else math.nan


def _first_gradient(rows: pd.DataFrame) -> float:
    """log10 of the first layer's gradient norm, as first told."""
    norms = _by_step(rows, 0)["norm_mean"]
    return _decades(norms.iloc[0]) if len(norms) else math.nan


def _scaled_gradient(rows: pd.DataFrame) -> float:
    """log10 of the first layer's gradient norm times its weights' norm, as first told."""
    found = [_by_step(rows[rows["kind"] == kind], 0)["norm_mean"] for kind in ("grad", "weight")]
    return _decades(found[0].iloc[0]) + _decades(found[1].iloc[0]) if all(map(len, found)) else math.nan


def _growth(rows: pd.DataFrame) -> float:
    """log10 of how much the weights' norm has grown from the first to the last telling, in the layer of most growth."""
    found = [math.nan]
    for _, own in rows[rows["stat"] == "norm_mean"].groupby("layer_index"):
        values = own.sort_values("step")["value"].astype(float).tolist()
        found.append(_decades(values[-1]) - _decades(values[0]))
    return float(np.nanmax(found)) if len(found) > 1 else math.nan


def _median_drift(rows: pd.DataFrame) -> float:
    """Mean of |p50 now - p50 at the evaluation before| / (p85 - p15 before), of the unit in the last layer."""
    unit = _by_step(rows, -1)
    spread = (unit["unit_p85"] - unit["unit_p15"]).to_numpy()
    moved = np.abs(np.diff(unit["unit_p50"].to_numpy()))
    kept = spread[:-1] > 0
    return float(np.mean(moved[kept] / spread[:-1][kept])) if kept.any() else math.nan


def _spread_drift(rows: pd.DataFrame) -> float:
    """Mean of |log10 of (p85 - p15) now / at the evaluation before|, of the unit in the last layer."""
    unit = _by_step(rows, -1)
    spread = (unit["unit_p85"] - unit["unit_p15"]).to_numpy()
    changes = np.abs(np.diff(np.log10(spread[spread > 0])))
    return float(np.mean(changes)) if len(changes) else math.nan


def _share(stat: str) -> Callable[[pd.DataFrame], float]:
    """Percent at the last evaluation, mean over the layers."""

    def read(rows: pd.DataFrame) -> float:
        own = rows[(rows["stat"] == stat) & (rows["step"] == rows["step"].max())]
        return 100 * float(own["value"].astype(float).mean()) if len(own) else math.nan

    return read


def _along_gradient(high: str, low: str = "") -> Callable[[pd.DataFrame], float]:
    """log10 of the median, over the evaluations after the first step, of `high` (less `low`)."""

    def read(rows: pd.DataFrame) -> float:
        stats = _by_step(rows, 0)
        stats = stats[stats.index > 0]
        values = stats[high] - stats[low] if low else stats[high]
        return _decades(float(values.median())) if len(values) else math.nan

    return read


READINGS = {  # name: words, margin, what is read, its kind
    "gradient_gap": ("decades between the gradient norms of the first and the last layer", 0.25, _gradient_gap, "grad"),
    "gradient_kept": (
        "gradient norm of the first layer against the last one's, in decades, at the end", 0.25, _gradient_kept, "grad",
    ),
    "first_gradient": ("log10 of the first layer's gradient norm at the start", 0.05, _first_gradient, "grad"),
    "scaled_gradient": (
        "log10 of gradient norm times weight norm of the first layer at the start", 0.05, _scaled_gradient,
        "grad weight",
    ),
    "weight_growth": ("log10 of the growth of the weights' norm", 0.1, _growth, "weight"),
    "median_drift": ("drift of a unit's median between evaluations, in its spreads", 0.02, _median_drift, "pre_act"),
    "spread_drift": ("change of a unit's spread between evaluations in decades", 0.01, _spread_drift, "pre_act"),
    "saturated": ("percent of saturated values at the end", 1.0, _share("saturated"), "act"),
    "dead": ("percent of dead units at the end", 1.0, _share("dead"), "act"),
    "loss_range": (
        "log10 of the range of the loss along the gradient", 0.1, _along_gradient("loss_max", "loss_min"), "landscape",
    ),
    "gradient_change": (
        "log10 of the largest change of the gradient along it", 0.1, _along_gradient("gdiff_max"), "landscape",
    ),
    "smoothness": ("log10 of the effective smoothness", 0.1, _along_gradient("beta_max"), "landscape"),
}  # fmt: skip


def measures(measure: Callable) -> dict[str, Any]:
    """Name -> `measure(words, margin, of)`, the class of all measures."""
    return {
        name: measure(words, margin, _of_each(read, kind)) for name, (words, margin, read, kind) in READINGS.items()
    }
