"""What the tables of tables/ are made of: cells and tables, arms in blocks, and how a number is written. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from normbench.report import exports
from normbench.report.arms import Arm
from normbench.report.selection import LR
from normbench.report.sentence import short
from normbench.report.stats import Effect, Interval
from normbench.report.study import Contrast, Study
from normbench.report.tables import cell_text
from normbench.report.target import Crossing
from normbench.report.verdict import Comparison

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """rows: of cells, one a header; the first `heads` cells of a row name it. values: the same in full precision."""

    name: str
    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    heads: int
    values: pd.DataFrame


def shown_keys(study: Study) -> list[str]:
    """The settings that vary among the arms; the norm where none does."""
    return [k for k in study.keys if len({str(arm.setting[k]) for arm in study.arms}) > 1] or ["norm"]


def effect_of(row: Comparison) -> Effect:
    """The effect that a row of comparisons.csv tells, as `sentence.short` wants it."""
    bound = "low" if row.ci_high == math.inf else "high" if row.effect_kind == "ratio" and row.ci_low == 0 else ""
    return Effect(row.effect_kind, Interval(row.effect, row.ci_low, row.ci_high, row.n_pairs, ""), bound=bound)


def effect_text(row: Comparison, ahead: bool = True) -> str:
    """ahead: False inverts a ratio."""
    return MISSING if math.isnan(row.effect) else short(effect_of(row), row.metric, ahead)


def rate_text(arm: Arm) -> str:
    """The learning rates, or whole settings, that the arm is reported at, the most frequent first."""
    if arm.selection is None:
        return MISSING
    counts, tune = arm.selection.counts, arm.selection.tune
    texts = [(_chosen_text(tune, setting), n) for setting, n in counts.items()]
    if len(texts) == 1:
        return texts[0][0]
    return ", ".join(f"{text} ({n}/{sum(counts.values())})" for text, n in texts)


def _chosen_text(tune: Sequence[str], setting: tuple) -> str:
    if tune == (LR,):
        return cell_text(float(setting[0])) if setting[0] else MISSING
    pairs = [(key, value) for key, value in zip(tune, setting, strict=True) if value != "" and (value or key != LR)]
    return " ".join(f"{key}={cell_text(value)}" for key, value in pairs) or MISSING


def by_block(study: Study) -> list[tuple[tuple[Contrast, ...], list[Arm]]]:
    """Arms that are compared with one baseline, each block with its contrasts; the other arms one by one."""
    blocks: dict[int, list[Contrast]] = {}
    for contrast in study.contrasts:
        blocks.setdefault(id(contrast.baseline), []).append(contrast)
    found = [((*own,), [own[0].baseline, *(c.variant for c in own)]) for own in blocks.values()]
    inside = {id(arm) for _, arms in found for arm in arms}
    return [*found, *(((), [arm]) for arm in study.arms if id(arm) not in inside)]


def by_seed(study: Study, arm: Arm, goals: Mapping[int, float]) -> dict[int, Crossing]:
    if id(arm) not in goals:
        return {}
    all_runs = exports.crossings(study, arm, goals[id(arm)])
    return {seed: all_runs[run_id] for seed, run_id in arm.reported.items()}


def crossed(study: Study, arm: Arm, goals: Mapping[int, float]) -> list[Crossing]:
    return list(by_seed(study, arm, goals).values())


def times_text(found: Sequence[Crossing], unit: str) -> str:
    if not found:
        return MISSING
    times = sorted(getattr(c, unit) if c.reached else math.inf for c in found)
    form = "{:,.1f}" if unit == "train_s" else "{:,.0f}"

    def text(value: float) -> str:
        return "never" if value == math.inf else form.format(value)

    if times[0] == math.inf:
        return "never"
    return text(median(times)) + (f" [{text(times[0])}, {text(times[-1])}]" if len(times) > 1 else "")


def percent(share: float) -> str:
    return f"{100 * share:g}%"


def ranges(seeds: Sequence[int]) -> str:
    """0, 1, 2, 5 -> "0-2, 5"."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ", ".join(f"{a}" if a == b else f"{a}, {b}" if b == a + 1 else f"{a}-{b}" for a, b in parts)


def named(study: Study, arm: Arm) -> dict[str, Any]:
    return {key: arm.setting[key] for key in study.keys}


def names(study: Study, arm: Arm) -> tuple[Cell, ...]:
    return tuple(Cell(cell_text(arm.setting[key])) for key in shown_keys(study))
