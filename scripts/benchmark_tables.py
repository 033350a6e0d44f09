"""From the lines that scripts/benchmark.py measured to tables; pure.

A line is one round: {part, model, quick, round, workload, results: {who: what}, machine, load, at}.
"""

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np
from benchmark_estimates import (
    MARGIN,
    OURS,
    Line,
    accuracies,
    chosen,
    difference,
    everybody,
    fastest,
    fit,
    largest,
    models,
    points_of,
    ratios,
    sweep_ratios,
    values,
    wall_at,
)  # fmt: skip
from benchmark_processes import PEERS, SWEEPS, Workload, way_of

from normbench.words import several

BATCH = 64
FEWEST_SEEDS = 5  # of timed runs, from which on their accuracies tell anything
GOALS = {  # (part, model, who): how many times as fast; see issue 9
    ("steady", "mlp", "examples"): 6.5, ("steady", "mlp", "careful"): 1.0, ("wall", "mlp", "examples"): 4.0,
    ("steady", "lenet", "examples"): 1.5, ("steady", "cnn", "examples"): 1.0, ("steady", "resnet", "examples"): 1.0,
    ("sweep", "mlp", "hydra_basic"): 15.0, ("sweep", "mlp", "careful_pool"): 1.3,
    ("sweep", "lenet", "hydra_basic"): 3.0, ("sweep", "cnn", "hydra_basic"): 1.6,
    ("sweep", "resnet", "hydra_basic"): 1.6,
} | {("steady", model, peer): 1.0 for model in ("mlp", "lenet", "cnn", "resnet")
     for peer in ("lightning", "lightning_stripped", "keras_torch")}  # fmt: skip


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_text(table: Table) -> str:
    lines = [table.header, *table.rows] if any(table.header) else list(table.rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([table.title, *(f"  {line}".rstrip() for line in cells)])


def as_markdown(table: Table) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join([f"**{table.title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


# -------------------------------------------------------------------------------------------------------- machine


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def load_average() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


def machine_table(lines: Sequence[Line]) -> Table:
    """Of all lines, which must come from one machine.

    Raises:
        ValueError: they come from several.
    """
    machines = {str(sorted(line["machine"].items())): line["machine"] for line in lines}
    if len(machines) != 1:
        raise ValueError(f"the lines must come from one machine, these come from {len(machines)}: give --out another")
    (machine,) = machines.values()
    versions: dict[str, set[str]] = {}
    for line in lines:
        for result in line["results"].values():
            for package, version in result.get("versions", {}).items():
                versions.setdefault(package, set()).add(version)
    loads = [float(load.split()[0]) for line in lines for load in line["load"] if load != "unknown"]
    days = sorted({line["at"][:10] for line in lines})
    return Table(
        "Machine",
        ("", ""),
        [
            *machine.items(),
            ("versions", ", ".join(f"{name} {' and '.join(sorted(its))}" for name, its in sorted(versions.items()))),
            ("load average while measuring", f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown"),
            ("measured", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"),
        ],
    )


# -------------------------------------------------------------------------------------------------------- choosing


def label(who: str) -> str:
    if who.startswith(OURS):
        engine, more = way_of(who)
        return ", ".join(["normbench", *(more or [f"engine={engine}"])])
    return (PEERS | SWEEPS)[who].label


def absent(lines: Sequence[Line], who: str) -> str | None:
    """Why nothing was measured."""
    results = [line["results"][who] for line in lines if who in line["results"]]
    if any("missing" not in result and "refused" not in result for result in results):
        return None
    if any("refused" in result for result in results):
        return "refused"
    return f"not installed ({results[-1]['missing']})" if results else "not asked for"


def spread(found: Sequence[float], sign: str = "") -> str:
    """`7.1 [6.8, 7.4]`: the median over the rounds, the smallest and the largest."""
    if not found:
        return "–"
    low, middle, high = (f"{sign}{value:.3g}" for value in (min(found), median(found), max(found)))
    return f"{middle} [{low}, {high}]" if len(found) > 1 else middle


# ----------------------------------------------------------------------------------------------------------- runs


def run_table(lines: Sequence[Line], model: str) -> Table:
    its = chosen(lines, "run", model)
    floors = values(chosen(lines, "floor", model), "floor", "floor_s")
    header = (
        "",
        "samples/s",
        "of the floor",
        f"{OURS} (serial) is ... times as fast",
        "command to prompt, s",
        "times as fast",
    )
    rows = []
    for who in everybody(its):
        why = absent(its, who)
        if why:
            rows.append((label(who), why, *["–"] * 4))
            continue
        speeds, walls = values(its, who, "samples_per_s"), values(its, who, "wall_s")
        share = f"{median(speeds) * min(floors) / BATCH:.0%}" if floors else "–"
        one = who == OURS
        steady, wall = ("1", "1") if one else (spread(ratios(its, OURS, who, k)) for k in ("samples_per_s", "wall_s"))
        rows.append((label(who), f"{median(speeds):,.0f}", share, steady, f"{median(walls):.1f}", wall))
    words = Workload(**its[-1]["workload"]).words()
    return Table(f"{model}: one run on one core, {words}; {several(len(its), 'round')}", header, rows)


def floor_table(lines: Sequence[Line]) -> Table:
    rows = []
    for model in models(lines, "floor"):
        its = chosen(lines, "floor", model)
        products, copied, floor = (min(values(its, "floor", key)) for key in ("products_s", "copy_s", "floor_s"))
        moved = values(its, "floor", "bytes")[-1]
        rows.append(
            (
                model,
                f"{products * 1e6:,.0f} us",
                f"{moved / 1e6:.2f} MB",
                f"{moved / copied / 1e9:.1f} GB/s",
                f"{copied * 1e6:,.0f} us",
                f"{BATCH / floor:,.0f}",
            )
        )
    header = ("model", "products of a step", "bytes of a step", "copy rate", "copying them", "floor, samples/s")
    return Table("Floor: the larger of the two (scripts/benchmark_floor.py)", header, rows)


def same_table(lines: Sequence[Line]) -> Table:
    """From equal weights on equal batches: how far a peer's loss is from normbench's."""
    rows = []
    for model in models(lines, "same"):
        results = chosen(lines, "same", model)[-1]["results"]
        ours = np.array(results[OURS]["losses"])
        for who, result in results.items():
            if "losses" not in result:
                rows.append((model, label(who), absent([{"results": results}], who) or "", "", ""))
                continue
            its = np.array(result["losses"])
            off = np.abs(its / ours - 1)
            rows.append((model, label(who), f"{result['parameters']:,}", f"{off[0]:.0e}", f"{off.max():.0e}"))
    steps = {len(line["results"][OURS]["losses"]) for line in lines if line["part"] == "same"}
    title = (
        f"The same work: the loss of the first {max(steps, default=0)} steps, from the same weights on the same batches"
    )
    return Table(title, ("model", "", "parameters", "off by, first step", "at most"), rows)


def accuracy_table(lines: Sequence[Line]) -> Table:
    rows = []
    for part in ("accuracy", "run"):
        for model in models(lines, part):
            its = chosen(lines, part, model)
            ours = values(its, OURS, "test_acc")
            if part == "run" and len(ours) < FEWEST_SEEDS:
                continue
            workload = Workload(**its[-1]["workload"])
            for who in everybody(its):
                found = values(its, who, "test_acc")
                if found:
                    told = "" if who == OURS else difference(found, ours)
                    rows.append((model, workload.words(), label(who), str(len(found)), f"{fmean(found):.4f}", told))
    title = f"The same work: test accuracy over seeds; equal: the interval is inside ±{100 * MARGIN:.1f} pp"
    return Table(title, ("model", "trained", "", "seeds", "mean", "minus normbench's, pp [95 % CI]"), rows)


# --------------------------------------------------------------------------------------------------------- sweeps


def sweep_table(lines: Sequence[Line], model: str) -> Table:
    its = chosen(lines, "sweep", model)
    runs = largest(its)
    best = fastest(its, runs)
    ours = accuracies(its, f"{OURS} serial") or accuracies(its, best or "")
    rows = []
    for who in everybody(its):
        why = absent(its, who)
        if why:
            rows.append((label(who), why, *["–"] * 6))
            continue
        found = [points_of(line, who) for line in its]
        sizes = sorted({size for points in found for size in points})
        fits = [f for points in found if (f := fit(points))]
        wall = median([w for points in found if (w := wall_at(points, runs))] or [math.nan])
        about = "" if runs in sizes else "≈ "
        law = (
            f"{median(f.a for f in fits):.1f} {median(f.b for f in fits):+.2f} R".replace(" +", " + ").replace(
                " -", " - "
            )
            if fits
            else "–"
        )
        off = f" (within {max(f.off for f in fits):.0%})" if fits and len(sizes) > 2 else ""
        told = "" if who == f"{OURS} serial" else difference(accuracies(its, who), ours)
        times = "1" if who == best else about + spread(sweep_ratios(its, best or "", who, runs))
        rows.append(
            (
                label(who),
                ", ".join(map(str, sizes)),
                law + off,
                f"{about}{wall:.1f}",
                f"{about}{3600 * runs / wall:,.0f}",
                times,
                f"{fmean(accuracies(its, who)):.4f}",
                told,
            )
        )
    header = (
        "",
        "R measured",
        "wall, s",
        f"R = {runs}, s",
        "runs an hour",
        f"{label(best or OURS)} is ... times as fast",
        "test accuracy",
        "minus serial's, pp [95 % CI]",
    )
    words = Workload(**its[-1]["workload"]).words()
    return Table(
        f"{model}: sweep of R runs on all cores, {words}; {several(len(its), 'round')}; ≈: read off the line",
        header,
        rows,
    )


# ---------------------------------------------------------------------------------------------------------- goals


def goals_table(lines: Sequence[Line]) -> Table:
    rows = []
    for (what, model, who), goal in GOALS.items():
        part = "sweep" if what == "sweep" else "run"
        its = chosen(lines, part, model)
        for engine in [who for who in everybody(its) if who.startswith(OURS)]:
            if what == "sweep":
                found = sweep_ratios(its, engine, who, largest(its))
            else:
                found = ratios(its, engine, who, "wall_s" if what == "wall" else "samples_per_s")
            if found:
                verdict = "PASS" if median(found) >= goal else "below"
                rows.append((what, model, label(engine), label(who), spread(found), f">= {goal:g}", verdict))
    return Table("Goals (median of the rounds' ratios)", ("", "model", "", "times as fast as", "", "goal", ""), rows)


def start_table(lines: Sequence[Line]) -> Table:
    its, rows = [line for line in lines if line["part"] == "startup"], []
    for who in everybody(its):
        found, goal = values(its, who, "wall_s"), values(its, who, "goal")[-1]
        rows.append((who, f"{median(found):.3f} s", f"< {goal} s", "PASS" if median(found) < goal else "below"))
    return Table(f"Start-up (median of {len(its)})", ("command", "wall time", "goal", ""), rows)


def tables(lines: Sequence[Line]) -> list[Table]:
    """All that the lines allow."""
    found = [machine_table(lines)]
    found += [run_table(lines, model) for model in models(lines, "run")]
    found += [sweep_table(lines, model) for model in models(lines, "sweep")]
    if models(lines, "floor"):
        found.append(floor_table(lines))
    if models(lines, "same"):
        found.append(same_table(lines))
    found += [table for table in (accuracy_table(lines), goals_table(lines), start_table(lines)) if table.rows]
    return found
