"""The tables beside the main one: time to target (T2), cost (T3), the tuning protocol (T4). Pure."""

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
import pandas as pd

from normbench.report import exports, target
from normbench.report.arms import Arm, Options
from normbench.report.paper import (
    MISSING,
    Cell,
    Table,
    by_block,
    crossed,
    named,
    names,
    percent,
    ranges,
    rate_text,
    shown_keys,
    times_text,
)  # fmt: skip
from normbench.report.selection import LR, Selection, noun
from normbench.report.study import Study
from normbench.report.tables import cell_text, natural

MOST_LISTED = 10  # learning rates one by one


def to_target(study: Study) -> Table:
    goals = {id(arm): goal for arm, goal in exports.targets(study)}
    rows, values = [], []
    for _, block in by_block(study):
        for arm in block:
            found = crossed(study, arm, goals)
            if not found:
                continue
            peaks = [float(np.fmax.reduce(study.track_of[i].value)) for i in arm.reported.values()]
            reached = sum(c.reached for c in found)
            texts = [percent(found[0].target), f"{reached}/{len(found)}",
                     *(times_text(found, unit) for unit in target.UNITS), f"{100 * max(peaks):.1f}"]  # fmt: skip
            rows.append((*names(study, arm), *map(Cell, texts)))
            medians = {
                f"{unit}_median": median(getattr(c, unit) if c.reached else math.inf for c in found)
                for unit in target.UNITS
            }
            told = {"target": found[0].target, "n_reached": reached, "n": len(found), **medians}
            values.append(named(study, arm) | told | {"highest_val_acc": max(peaks)})
    header = (
        *shown_keys(study),
        "Target",
        "Reached",
        "Steps",
        "Examples",
        "Seconds of training",
        "Highest accuracy, %",
    )
    caption = (
        "The way to the target: median [smallest, largest] over the seeds, of the first of two consecutive evaluations "
        "at or above it, in validation accuracy. A run that never reached it counts as slower than every one that did. "
        "Highest accuracy: of any evaluation of any run on the validation data, for orientation only: a maximum "
        "flatters, and no verdict uses it."
    )
    return Table("target", "Time to target", caption, header, tuple(rows), len(shown_keys(study)), pd.DataFrame(values))


# ------------------------------------------------------------------------------------------------------------ T3, cost


def cost(study: Study) -> Table:
    rows, values = [], []
    for contrasts, block in by_block(study):
        base = _seconds_a_step(contrasts[0].baseline) if contrasts else []
        for arm in block:
            paces = _seconds_a_step(arm)
            if not paces:
                continue
            first = arm.runs.iloc[0]
            middle, batch = median(paces), int(first["batch_size"])
            relative = middle / median(base) if base else math.nan
            texts = [f"{int(first['n_params']):,}", _range_text([1000 * s for s in paces]), f"{batch / middle:,.0f}",
                     MISSING if math.isnan(relative) else f"{relative:.2f}x", str(len(paces))]  # fmt: skip
            rows.append((*names(study, arm), *map(Cell, texts)))
            told = {"n_params": int(first["n_params"]), "s_per_step_median": middle, "s_per_step_min": min(paces),
                    "s_per_step_max": max(paces), "examples_per_s": batch / middle, "relative": relative,
                    "n": len(paces)}  # fmt: skip
            values.append(named(study, arm) | told)
    header = (*shown_keys(study), "Parameters", "ms a step", "Examples/s", "Against the baseline", "Runs")
    caption = (
        "Cost of training, without evaluations, over all complete runs of an arm: median [smallest, largest]; against "
        "the baseline: ratio of the medians. Seconds depend on the machine and on what else it did at the time."
    )
    return Table("cost", "Cost", caption, header, tuple(rows), len(shown_keys(study)), pd.DataFrame(values))


def _unstable(found: Selection) -> str:
    if found.how == "tune/confirm" and (found.halved or found.n_choosing < 2):
        return "not known"
    return "yes" if found.unstable else "no" if found.n_settings > 1 else ""


def _seconds_a_step(arm: Arm) -> list[float]:
    done = arm.runs[(arm.runs["state"] == "complete") & arm.runs["train_s"].notna()]
    return [s / n for s, n in zip(done["train_s"].astype(float), done["steps"].astype(float), strict=True) if n and s]


def _range_text(values: Sequence[float]) -> str:
    text = f"{median(values):.3g}"
    return text if len(values) == 1 else f"{text} [{min(values):.3g}, {max(values):.3g}]"


# ------------------------------------------------------------------------------------------------- T4, tuning protocol


def protocol(study: Study) -> Table:
    rows, values = [], []
    what = noun(study.options.tuned)
    for _, block in by_block(study):
        for arm in block:
            s = arm.selection
            seeds = sorted({int(seed) for seed in arm.runs["seed"]})
            tuned = sorted(study.options.tune_seeds & set(seeds)) if study.options.tune_seeds else seeds
            tried = arm.runs[arm.runs["seed"].astype(int).isin(tuned)]
            how = s.how if s else f"none: {arm.why}"
            told = {
                "tried": _tried(tried, study.options), "n_tried": s.n_settings if s else tried["lr"].nunique(),
                "n_finished": _ended(tried, study.options, len(tuned)) if s else None, "how": how,
                "tune_seeds": ranges(tuned) if s and s.how != "one setting" else "",
                "reported_seeds": ranges(sorted(arm.reported)), "chosen": rate_text(arm),
                "unstable": _unstable(s) if s else "",
                "at_edge": "; ".join(edge.wider for edge in s.edges) if s else "",
            }  # fmt: skip
            values.append(named(study, arm) | told)
            rows.append((*names(study, arm), *(Cell(MISSING if v in ("", None) else str(v)) for v in told.values())))
    header = (*shown_keys(study), what.capitalize(), "Tried", "Finished", "Chosen how", "Seeds that choose",
              "Seeds reported", "Chosen", "Would change", "At the edge: also try")  # fmt: skip
    caption = (
        f"How the {what[:-1]} of each arm was chosen: by the mean final validation accuracy over the seeds that "
        f"choose, a diverged run counting as guessing. Finished: {what} with a result for every such seed. "
        f"Leave-one-seed-out: each seed is reported at the {what[:-1]} that is best on all the others. Would change: "
        "whether leaving out one of the seeds that choose would have changed the choice; it is not known of a single "
        "seed, nor where settings were stopped early. Then, too, intervals are wider."
    )
    return Table(
        "protocol", "Tuning protocol", caption, header, tuple(rows), len(shown_keys(study)), pd.DataFrame(values)
    )


def _ended(runs: pd.DataFrame, options: Options, seeds: int) -> int:
    """How many settings have a result for every seed that chooses."""
    return int((runs[runs["score"].notna()].groupby(list(options.tuned))["seed"].nunique() == seeds).sum())


def _tried(runs: pd.DataFrame, options: Options) -> str:
    """What was tried: each learning rate, or how many values of each tuned setting, and between which."""
    if options.tuned == (LR,) and runs["lr"].nunique() <= MOST_LISTED:
        return ", ".join(cell_text(float(rate)) if rate else MISSING for rate in sorted(set(runs["lr"].astype(float))))
    told = []
    for key in options.tuned:
        values = sorted((v for v in set(runs[key]) if v != ""), key=lambda value: natural([value]))
        if values:
            some = cell_text(values[0]) if len(values) == 1 else f"{cell_text(values[0])} to {cell_text(values[-1])}"
            told.append(f"{key}: {len(values)} from {some}" if len(values) > 1 else f"{key}: {some}")
    return "; ".join(told) or MISSING
