"""The picture of what scripts/benchmark.py measured: speeds of one run, and wall times of sweeps."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from benchmark_estimates import OURS, Line, chosen, everybody, fit, largest, models, points_of, values
from benchmark_processes import CHANNELS_LAST, Workload
from benchmark_tables import BATCH, label
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from normbench.report import style
from normbench.words import several

BLUE, GREY = "#0072B2", "#555555"
COLORS = {"hydra_basic": "#D55E00", "hydra_joblib": "#CC79A7", "careful_pool": "#000000", "jax_pool": "#009E73"}
DASHES = {
    "normbench serial": "-", "normbench stack": (0, (6, 2)), "normbench graph": (0, (6, 2, 1, 2)),
    CHANNELS_LAST: (0, (1, 1.5)),
}  # fmt: skip
SUBS = ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7))  # ticks of a log axis, times powers of ten


def picture(lines: Sequence[Line]) -> Figure:
    """Above, a panel a model: samples per second of one run; below, the sweeps that were measured."""
    ran, swept = models(lines, "run"), models(lines, "sweep")
    who = everybody(line for line in lines if line["part"] == "run")
    names = [name for name in who if any(values(chosen(lines, "run", m), name, "samples_per_s") for m in ran)]
    rows = [len(names) * 0.17 + 0.9] * bool(ran) + [2.6] * bool(swept)
    with matplotlib.rc_context(style.RC):
        figure = Figure(figsize=(style.WIDTH, sum(rows)), layout="constrained")
        parts: list[Any] = list(figure.subfigures(len(rows), 1, height_ratios=rows, squeeze=False).flat)
        if ran:
            panels: Any = parts.pop(0).subplots(1, len(ran), sharey=True, squeeze=False)[0]
            for axes, model in zip(panels, ran, strict=True):
                speeds(axes, lines, model, names)
            panels[0].set_yticks(range(len(names)), [label(name) for name in names][::-1])
        if swept:
            part = parts.pop(0)
            for axes, model in zip(part.subplots(1, len(swept), squeeze=False)[0], swept, strict=True):
                sweeps(axes, lines, model)
            part.axes[0].set_ylabel("wall time, s")
            shown = {
                text: line for axes in part.axes for line, text in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            part.legend(shown.values(), shown.keys(), loc="outside lower center", ncol=3, frameon=False, fontsize=7)
    return figure


def speeds(axes: Any, lines: Sequence[Line], model: str, names: Sequence[str]) -> None:
    """A dot is the median of the rounds, its line goes from the smallest to the largest."""
    its = chosen(lines, "run", model)
    for place, name in enumerate(reversed(names)):
        found = values(its, name, "samples_per_s")
        if found:
            color = BLUE if name.startswith(OURS) else GREY
            axes.plot([min(found), max(found)], [place, place], color=color)
            axes.plot(median(found), place, "o", color=color)
    floors = values(chosen(lines, "floor", model), "floor", "floor_s")
    if floors:
        axes.axvline(BATCH / min(floors), color="#D55E00", linestyle=(0, (6, 2)), linewidth=1)
        axes.annotate(
            "floor ", (BATCH / min(floors), 1), xycoords=("data", "axes fraction"), ha="right", va="bottom", fontsize=7
        )
    axes.set_xscale("log")
    plain(axes.xaxis, axes.get_xlim(), 2)
    axes.set_title(f"{model}, {several(len(its), 'round')}", fontsize=8, loc="left", pad=12)
    axes.set_xlabel("samples/s of one run")
    axes.grid(axis="y", visible=False)


def sweeps(axes: Any, lines: Sequence[Line], model: str) -> None:
    """Every round's points, and the line wall = a + b R through all of them; thin where it goes on to the largest R."""
    its = chosen(lines, "sweep", model)
    end = largest(its)
    for name in everybody(its):
        points = [point for line in its for point in points_of(line, name).items()]
        if not points:
            continue
        is_ours = name.startswith(OURS)
        look = {"color": BLUE if is_ours else COLORS[name], "linestyle": DASHES[name] if is_ours else "-"}
        axes.plot(*zip(*points, strict=True), "o", color=look["color"], markersize=2.5)
        means = {runs: median(wall for r, wall in points if r == runs) for runs, _ in points}
        line = fit(means)
        if line:
            measured = max(means)
            for start, stop, width, word in ((min(means), measured, 1.2, label(name)), (measured, end, 0.5, None)):
                runs = np.geomspace(start, stop, 50)
                axes.plot(runs, line.a + line.b * runs, label=word, linewidth=width, **look)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("runs in the sweep, R")
    plain(axes.yaxis, axes.get_ylim(), 3)
    images = Workload(**its[-1]["workload"]).words().split(" of ")[1]
    axes.set_title(f"{model}, {its[-1]['workload']['epochs']} x {images}", fontsize=8, loc="left")


def plain(axis: Any, limits: tuple[float, float], fewest: int) -> None:
    """Ticks of a log axis as plain numbers: 500, 2k; as few of SUBS as make this many."""
    for subs in SUBS:
        places = [sub * 10.0**power for power in range(-3, 9) for sub in subs]
        seen = [place for place in places if limits[0] <= place <= limits[1]]
        if len(seen) >= fewest:
            break
    axis.set_major_locator(FixedLocator(seen))
    axis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    axis.set_minor_locator(NullLocator())
