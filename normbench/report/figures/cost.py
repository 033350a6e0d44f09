"""`cost`: faster in steps, but in seconds? Examples per second, and the time of a step against the baseline's."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from normbench.report import reported, stats
from normbench.report.arms import Arm
from normbench.report.captions import dots_drawn, first, scope
from normbench.report.facets import even
from normbench.report.figures import Drawn, NotDrawn
from normbench.report.sheet import TALLEST, Sheet, page_names, wrapped
from normbench.report.study import Study
from normbench.report.style import HOLLOW, RC, WIDTH, norm_looks, text_width

COLUMNS = ["arm", "norm", "run_id", "seed", "lr", "examples_per_s", "s_per_step", "baseline", "relative_s_per_step"]
ROW, APART, LINE, HEAD, FOOT, GUTTER, RIGHT, WIDEST = 0.2, 0.1, 0.12, 0.24, 0.42, 0.25, 0.15, 2.2  # inches


def draw(study: Study) -> list[Drawn]:
    """A row an arm: examples per second of every complete run, and its seconds per step over the baseline's median.

    Arms that differ in settings of the optimizer alone share a row.

    Raises:
        NotDrawn: no complete run has a training time.
    """
    table = _table(study)
    if not len(table):
        raise NotDrawn("needs a complete run with a training time, found none")
    chunks = _chunks(list(dict.fromkeys(table["arm"])))
    found = []
    with matplotlib.rc_context(RC):
        for name, chunk in zip(page_names("cost", len(chunks)), chunks, strict=True):
            own = table[table["arm"].isin(chunk)]
            figure = _page(own, table, norm_looks(study.norms)).figure
            found.append(Drawn(name, figure, _caption(study, own), own.reset_index(drop=True)))
    return found


def _table(study: Study) -> pd.DataFrame:
    """One row a complete run, by what it costs: settings of the optimizer alone, as its lr, do not tell rows apart."""
    names = {id(arm): _name(study, arm) for arm in study.arms}
    order = list(dict.fromkeys(names.values()))
    base = {names[id(c.baseline)]: names[id(c.baseline)] for c in study.contrasts}
    base |= {names[id(c.variant)]: names[id(c.baseline)] for c in study.contrasts}
    rows = [_timed(arm).assign(arm=names[id(arm)]) for arm in study.arms]
    table = pd.concat(rows) if rows else pd.DataFrame()
    if not len(table):
        return table
    units = {name: stats.median(part["s_per_step"]).estimate for name, part in table.groupby("arm")}
    table["baseline"] = [base.get(name, "") for name in table["arm"]]
    table["relative_s_per_step"] = table["s_per_step"] / table["baseline"].map(units).astype(float)
    # what is compared stands together
    place = {name: (order.index(base.get(name, name)), order.index(name)) for name in order}
    table["place"] = table["arm"].map(place)
    return table.sort_values(["place", "seed", "lr", "run_id"], ignore_index=True)[COLUMNS]


def _name(study: Study, arm: Arm) -> str:
    return study.name(arm, without=[key for key in study.keys if key.startswith("optimizer.")])


def _timed(arm: Arm) -> pd.DataFrame:
    """The complete runs that took time, in order of seed, with examples_per_s and s_per_step."""
    runs = arm.runs[arm.runs["state"] == "complete"]
    seconds, steps = runs["train_s"].astype(float), runs["steps"].astype(float)
    full = runs.assign(s_per_step=seconds / steps, examples_per_s=steps * runs["batch_size"].astype(float) / seconds)
    return full[(seconds > 0) & (steps > 0)]


# -------------------------------------------------------------------------------------------------------------- figure


def _labels(names: Sequence[str]) -> list[str]:
    return ["\n".join(wrapped(name, WIDEST, 7)) for name in names]


def _chunks(names: list[str]) -> list[list[str]]:
    """The rows of each figure, so that none is too high."""
    rows = sum(ROW + APART + LINE * label.count("\n") for label in _labels(names))
    return even(names, max(1, int(len(names) * (TALLEST - HEAD - FOOT) / rows))) if rows > TALLEST else [names]


def _page(own: pd.DataFrame, table: pd.DataFrame, looks: Mapping[str, tuple[str, str]]) -> Sheet:
    names = list(dict.fromkeys(own["arm"]))
    labels = _labels(names)
    left = 0.12 + max(text_width(line, 7) for label in labels for line in label.split("\n"))
    bases = dict(zip(own["arm"], own["baseline"], strict=True))
    apart = [0.0, *(APART * (bases[a] != bases[b]) for a, b in itertools.pairwise(names))]
    heights = [ROW + LINE * label.count("\n") + space for label, space in zip(labels, apart, strict=True)]
    columns = [("examples_per_s", "Examples per second (log)")]
    if table["relative_s_per_step"].notna().any():
        columns.append(("relative_s_per_step", "Step time ÷ baseline's (log)"))
    width = (WIDTH - left - RIGHT - GUTTER * (len(columns) - 1)) / len(columns)
    sheet = Sheet(HEAD + sum(heights) + FOOT - 0.2)
    centers = np.cumsum(heights) - (np.array(heights) - np.array(apart)) / 2
    for number, (column, title) in enumerate(columns):
        axis = sheet.axes(left + number * (width + GUTTER), HEAD, width, sum(heights))
        axis.set_ylim(sum(heights), 0)
        axis.set_yticks(centers, labels if number == 0 else [])
        axis.tick_params(axis="y", length=0)
        axis.set_ylabel(title, rotation=0, ha="left", va="bottom")
        axis.yaxis.set_label_coords(0, 1 + 0.06 / sum(heights))
        _limits(axis, table[column].dropna().astype(float))
        if column.startswith("relative"):
            axis.axvline(1, color="#555555", linewidth=0.8, zorder=1)
        for name, center in zip(names, centers, strict=True):
            part = own[own["arm"] == name]
            values, norm = part[column].dropna().to_numpy(float), part["norm"].iloc[0]
            _dots(axis, values, float(center), looks[norm], norm in HOLLOW, _few(own))
    return sheet


def _limits(axis: Axes, values: pd.Series) -> None:
    axis.set_xscale("log")
    low, high = values.min(), values.max()
    if axis.get_ylabel().startswith("Step time"):
        low, high = min(low, 1.0), max(high, 1.0)
    if high / low < 1.5:
        low, high = (low * high / 1.5) ** 0.5, (low * high * 1.5) ** 0.5
    room = (high / low) ** 0.05
    axis.set_xlim(float(low / room), float(high * room))
    near = high / low < 6
    locator = ticker.MaxNLocator(5, steps=[1, 2, 5, 10]) if near else ticker.LogLocator(subs=(1, 2, 5), numticks=6)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.xaxis.set_minor_locator(ticker.NullLocator())


def _few(own: pd.DataFrame) -> int:
    """How many runs of a row are drawn."""
    return dots_drawn(own["arm"].value_counts().tolist(), 2)


def _dots(axis: Axes, values: np.ndarray, at: float, look: tuple[str, str], hollow: bool, few: int) -> None:
    if not len(values):
        return
    color, marker = look
    face = "white" if hollow else color
    style: dict[str, Any] = {"markersize": 3.2, "markerfacecolor": face, "markeredgewidth": 0.6}
    style["alpha"] = 0.55 if len(values) > 1 else 1
    drawn = values[:few]
    axis.plot(drawn, [at] * len(drawn), marker, color=color, **style, zorder=3)
    if len(values) == 1:
        return
    middle = stats.median(values).estimate
    axis.plot([middle] * 2, [at - 0.075, at + 0.075], color=color, linewidth=1.6, zorder=4, label="_median")


def _caption(study: Study, own: pd.DataFrame) -> str:
    used = study.used[study.used["run_id"].isin(own["run_id"])]
    counts = [len(part) for _, part in own.groupby("arm")]
    bases = sorted(set(own["baseline"]) - {""})
    n = f"{counts[0]:,}" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,}"
    dots, bars = f"complete runs ({n} a row", "their median"
    if max(counts) > (few := _few(own)):
        dots, bars = f"{first(few, 'complete run')} of a row (of {n}", "the median of all"
    machines = [str(device) for device in sorted(set(used["device"].dropna()))]
    machines += [reported.several(int(threads), "thread") for threads in sorted(set(used["threads"].dropna()))]
    parts = [
        "Examples per second of training"
        + (" (left) and seconds per step over the median of the baseline's (right)" if bases else "")
        + f"; dots: {dots}, of every seed and every setting of the optimizer), bars: {bars}. "
        "Only training is timed, its first step included, evaluation not.",
        f"Baseline: {bases[0]}." if len(bases) == 1 else f"Baselines: {'; '.join(bases)}." if bases else "",
        scope(used),
        f"On {', '.join(machines)}." if machines else "",
        "Runs that share a machine slow each other.",
    ]
    return " ".join(part for part in parts if part)
