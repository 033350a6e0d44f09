"""One panel of `search`: scores against one number that varied, and the best of each bin."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from normbench.report.style import HOLLOW, WIDTH, text_width
from normbench.report.tables import cell_text, natural

FEW = 8  # values of a number: as many or fewer stand side by side, as typed; more lie on an axis
BINS = 6  # of an axis, for the best of each
CROWDED = 0.2  # an axis is logarithmic if half of the values lie in this part of it, next to zero
MOST_SHARES = 4  # norms whose shares stand over a panel; the data have them all


@dataclass(frozen=True)
class Knob:
    """A number that varied, and where its values lie on the panel's x axis."""

    key: str
    values: tuple[float, ...]

    @property
    def listed(self) -> bool:
        return len(self.values) <= FEW

    @property
    def log(self) -> bool:
        return not self.listed and self.values[0] > 0 and float(np.median(self.values)) < CROWDED * self.values[-1]

    def at(self, values: pd.Series) -> np.ndarray:
        """Listed values by their number, others as they are."""
        return (
            np.searchsorted(self.values, values.to_numpy(float)).astype(float)
            if self.listed
            else values.to_numpy(float)
        )

    @property
    def edges(self) -> np.ndarray:
        """Of the bins in which the best is shown."""
        if self.listed:
            return np.arange(len(self.values) + 1) - 0.5
        space = np.geomspace if self.log else np.linspace
        return space(self.values[0], self.values[-1], BINS + 1)


def look(norm: str, looks: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    color, marker = looks[norm]
    face = "white" if norm in HOLLOW else color
    return {"color": color, "marker": marker, "markersize": 3.2, "markerfacecolor": face, "markeredgewidth": 0.6}


def panel(axis: Axes, part: pd.DataFrame, knob: Knob, limits: tuple[float, float], looks: Mapping) -> None:
    low, high = limits
    axis.set_ylim(low, high)
    axis.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    _x_axis(axis, knob)
    norms = sorted(set(part["norm"]), key=lambda norm: natural([norm]))
    shares = []
    for number, norm in enumerate(norms):
        own = part[(part["norm"] == norm) & part[knob.key].notna()]
        if not len(own):
            continue
        shift = (number - (len(norms) - 1) / 2) * 0.6 / len(norms) if knob.listed else 0.0
        x, y = knob.at(own[knob.key]), own["val_acc_mean"].to_numpy(float)
        lost = own["n_diverged"].to_numpy(int) > 0
        style: dict[str, Any] = look(norm, looks) | {"linestyle": "none", "clip_on": False}
        axis.plot(x[~lost] + shift, np.maximum(y[~lost], low), **style, alpha=0.6, zorder=3, label=norm)
        style["marker"] = "x"
        axis.plot(x[lost] + shift, np.maximum(y[lost], low), **style, zorder=3, label="_diverged")
        axis.stairs(_best(knob, x, y), knob.edges, baseline=None, color=looks[norm][0], linewidth=1.2, zorder=2)
        share = own.get(f"share.{knob.key}", pd.Series([np.nan])).iloc[0]
        shares += [f"{norm} {max(100 * share, 0):.0f} %"] if np.isfinite(share) else []
    if shares and len(norms) <= MOST_SHARES:
        axis.text(1, 1.03, ", ".join(shares), transform=axis.transAxes, ha="right", va="bottom", fontsize=7)


def _best(knob: Knob, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The highest score in each bin, NaN where it is empty."""
    bins = np.clip(np.searchsorted(knob.edges, x, side="right") - 1, 0, len(knob.edges) - 2)
    return np.array([y[bins == i].max() if (bins == i).any() else np.nan for i in range(len(knob.edges) - 1)])


def _x_axis(axis: Axes, knob: Knob) -> None:
    axis.set_xlabel(knob.key + (" (log)" if knob.log else ""), labelpad=2)
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    if knob.listed:
        texts = [cell_text(value) for value in knob.values]
        wide = max(text_width(text, 7) for text in texts) + 0.06
        every = max(1, int(np.ceil(wide * len(texts) / (axis.get_position().width * WIDTH))))
        axis.set_xlim(-0.6, len(texts) - 0.4)
        axis.set_xticks(range(0, len(texts), every), texts[::every])
        return
    first, last = knob.values[0], knob.values[-1]
    if knob.log:
        axis.set_xscale("log")
        axis.set_xlim(first / (last / first) ** 0.04, last * (last / first) ** 0.04)
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1,) if last / first > 50 else (1, 2, 5), numticks=5))
    else:
        axis.set_xlim(first - 0.04 * (last - first), last + 0.04 * (last - first))
        axis.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(ticker.NullLocator())
