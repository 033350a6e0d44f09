"""The tables of tables/: the main one (T1), time to target (T2), cost (T3), the tuning protocol (T4). Pure.

Each holds its numbers twice: in full precision for the CSV, and as a reader wants them for Markdown, HTML and LaTeX.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from normbench.report import exports, stats, target
from normbench.report.planning import FEWEST
from normbench.report.sentence import short
from normbench.report.stats import Effect, Interval
from normbench.report.study import Arm, Contrast, Study
from normbench.report.tables import cell_text, decimals, natural, untrained
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


def tables(study: Study) -> list[Table]:
    """Those that there is something to say in; none without a used run."""
    if not study.arms:
        return []
    made = [main(study), to_target(study), cost(study), protocol(study)]
    return [table for table in made if table.rows]


def shown_keys(study: Study) -> list[str]:
    """The settings that vary among the arms; the norm where none does."""
    return [k for k in study.keys if len({str(arm.setting[k]) for arm in study.arms}) > 1] or ["norm"]


def effect_of(row: Comparison) -> Effect:
    """The effect that a row of comparisons.csv tells, as `sentence.short` wants it."""
    bound = "low" if row.ci_high == math.inf else "high" if row.effect_kind == "ratio" and row.ci_low == 0 else ""
    return Effect(row.effect_kind, Interval(row.effect, row.ci_low, row.ci_high, row.n_pairs, ""), bound=bound)


def effect_text(row: Comparison) -> str:
    return MISSING if math.isnan(row.effect) else short(effect_of(row), row.metric)


def rate_text(arm: Arm) -> str:
    """The learning rates that the arm is reported at, the most frequent first."""
    if arm.selection is None:
        return MISSING
    counts = arm.selection.counts
    texts = [(cell_text(float(rate)) if rate else MISSING, n) for (rate,), n in counts.items()]
    if len(texts) == 1:
        return texts[0][0]
    return ", ".join(f"{text} ({n}/{sum(counts.values())})" for text, n in texts)


def by_block(study: Study) -> list[tuple[tuple[Contrast, ...], list[Arm]]]:
    """Arms that are compared with one baseline, each block with its contrasts; the other arms one by one."""
    blocks: dict[int, list[Contrast]] = {}
    for contrast in study.contrasts:
        blocks.setdefault(id(contrast.baseline), []).append(contrast)
    found = [((*own,), [own[0].baseline, *(c.variant for c in own)]) for own in blocks.values()]
    inside = {id(arm) for _, arms in found for arm in arms}
    return [*found, *(((), [arm]) for arm in study.arms if id(arm) not in inside)]


# ------------------------------------------------------------------------------------------------------------ T1, main


def main(study: Study) -> Table:
    bad = _untrained(study)
    arms = [(contrasts, arms, arm) for contrasts, arms in by_block(study) for arm in arms if arm.reported]
    scores = {id(arm): arm.column("test_score", arm.reported) for _, _, arm in arms}
    known = [values for values in scores.values() if len(values) > 1]
    digits = max(0, decimals(float(pd.Series(v).std()) for v in known) - 2) if known else 1
    goals = {id(arm): goal for arm, goal in exports.targets(study)}
    rows, values = [], []
    for contrasts, block, arm in arms:
        best, quick = _bold_accuracy(arm, block, scores), _bold_time(study, arm, block, goals)
        rows_of = {row.metric: row for c in contrasts if c.variant is arm for way, row in exports.judged(c) if way == exports.OWN}
        effect = rows_of.get("test_acc")
        timed = next((row for row in rows_of.values() if row.effect_kind == "ratio"), None)
        found = _crossed(study, arm, goals)
        done = [arm.runs.set_index("run_id")["state"][i] == "complete" for i in arm.reported.values()]
        weak = sum(i in bad for i in arm.reported.values())
        cells = [
            Cell(rate_text(arm)),
            Cell(_mean_text(scores[id(arm)], len(arm.reported), digits), best),
            Cell(_interval_text(arm, scores[id(arm)], digits)),
            Cell(effect_text(effect) if effect else MISSING),
            Cell(_times_text(found, study.options.x), quick),
            Cell(effect_text(timed) if timed else MISSING),
            Cell(f"{sum(done)}/{len(done)}" + (f", {weak} untrained" if weak else "")),
        ]
        rows.append((*_names(study, arm), *cells))
        values.append(_named(study, arm) | _main_values(arm, scores[id(arm)], effect, timed, found, study.options.x, sum(done)))
    unit = {"step": "Steps", "examples": "Examples", "train_s": "Seconds"}[study.options.x]
    goal = _goal_text(goals.values())
    header = (*shown_keys(study), "Learning rate", "Test accuracy, %", "95% CI", "Against the baseline",
              f"{unit} to {goal}", "Ratio to the baseline", "Finished")  # fmt: skip
    used = (0, 1, 2, 3, 4, 5, 6) if any(_crossed(study, arm, goals) for _, _, arm in arms) else (0, 1, 2, 3, 6)
    heads = len(shown_keys(study))
    picked = [*range(heads), *(heads + i for i in used)]
    return Table("main", "Results", _main_caption(study, arms, len(used) == 7), tuple(header[i] for i in picked),
                 tuple(tuple(row[i] for i in picked) for row in rows), heads, pd.DataFrame(values))  # fmt: skip


def _main_caption(study: Study, arms: Sequence[tuple], timed: bool) -> str:
    counts = sorted({len(arm.reported) for _, _, arm in arms}) or [0]
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"Mean ± standard deviation over {n} {'seed' if counts == [1] else 'seeds'}, each arm at its own learning rate"
    text += " (how often each was chosen in brackets). " if study.arms and any(
        a.selection and len(a.selection.counts) > 1 for a in study.arms) else ". "  # fmt: skip
    text += "Test accuracy: measured once, after the last step; a diverged run counts as guessing. "
    if study.contrasts:
        base = study.contrasts[0]
        text += f"Against the baseline {base.key}={cell_text(base.baseline.setting[base.key])}: mean of the differences, in percentage points, with its 95% confidence interval. "
    if timed:
        text += "To the target: median [smallest, largest] over the seeds; ratio: how many times sooner than the baseline. "
    if study.contrasts and counts[0] >= FEWEST:
        text += "Bold: the best of the rows that share a baseline, and all that are not distinguishable from it (their 95% interval includes no difference). "
    return text.strip()


def _main_values(
    arm: Arm, scores: Mapping[int, float], effect: Comparison | None, timed: Comparison | None,
    found: Sequence[Crossing], unit: str, finished: int,
) -> dict[str, Any]:  # fmt: skip
    mean = _accuracy(arm, scores)
    times = [getattr(c, unit) if c.reached else math.inf for c in found]
    row: dict[str, Any] = {"lr": rate_text(arm), "n": len(arm.reported), "n_finished": finished}
    row |= {"test_acc_mean": mean.estimate, "test_acc_sd": float(pd.Series(scores, dtype=float).std())}
    row |= {"test_acc_ci_low": mean.low, "test_acc_ci_high": mean.high}
    for name, told in (("difference", effect), ("ratio", timed)):
        ends = (told.effect, told.ci_low, told.ci_high) if told else (math.nan,) * 3
        row |= dict(zip((name, f"{name}_ci_low", f"{name}_ci_high"), ends, strict=True))
    row |= {"target": found[0].target if found else math.nan, "n_reached": sum(c.reached for c in found) if found else None}
    return row | {f"{unit}_to_target_median": median(times) if found else math.nan}


def _untrained(study: Study) -> set[str]:
    return set(study.used.loc[untrained(study.used, study.metrics), "run_id"])


def _accuracy(arm: Arm, scores: Mapping[int, float]) -> Interval:
    if not scores:
        return Interval(math.nan, math.nan, math.nan, 0, "none")
    return stats.accuracy_mean(scores.values(), int(arm.runs["n_test"].iloc[0]))


def _mean_text(scores: Mapping[int, float], n: int, digits: int) -> str:
    if len(scores) < n or not scores:
        return f"{MISSING} (not measured in every run)" if scores else MISSING
    values = 100 * pd.Series(scores)
    return f"{values.mean():.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")


def _interval_text(arm: Arm, scores: Mapping[int, float], digits: int) -> str:
    i = _accuracy(arm, scores)
    return MISSING if math.isnan(i.low) else f"[{100 * i.low:.{digits}f}, {100 * i.high:.{digits}f}]"


def _bold_accuracy(arm: Arm, block: Sequence[Arm], scores: Mapping[int, Mapping[int, float]]) -> bool:
    """Whether the arm is the best of its block, or the interval of its difference from the best includes 0."""
    known = [a for a in block if scores.get(id(a))]
    if len(known) < 2 or arm not in known or min(len(scores[id(a)]) for a in known) < FEWEST:
        return False
    best = max(known, key=lambda a: math.fsum(scores[id(a)].values()) / len(scores[id(a)]))
    if arm is best:
        return True
    a, b, grid = scores[id(best)], scores[id(arm)], 1 / float(arm.runs["n_test"].iloc[0])
    i = stats.difference(a, b, paired=bool(a.keys() & b.keys()), resolution=grid).interval
    return i.low <= 0 <= i.high


def _bold_time(study: Study, arm: Arm, block: Sequence[Arm], goals: Mapping[int, float]) -> bool:
    unit = study.options.x
    seeds = {id(a): _by_seed(study, a, goals) for a in block}
    if len(block) < 2 or min(map(len, seeds.values())) < FEWEST or not any(c.reached for c in seeds[id(arm)].values()):
        return False

    def typical(a: Arm) -> float:
        return median(getattr(c, unit) if c.reached else math.inf for c in seeds[id(a)].values())

    best = min(block, key=typical)
    if typical(best) == math.inf or arm is best:
        return arm is best and typical(best) < math.inf
    a, b = seeds[id(best)], seeds[id(arm)]
    found = target.compare(a, b, unit, paired=bool(a.keys() & b.keys()))
    return not found.refused and found.interval.low <= 1 <= found.interval.high


# -------------------------------------------------------------------------------------------------- T2, time to target


def to_target(study: Study) -> Table:
    goals = {id(arm): goal for arm, goal in exports.targets(study)}
    rows, values = [], []
    for _, block in by_block(study):
        for arm in block:
            found = _crossed(study, arm, goals)
            if not found:
                continue
            peaks = [float(study.rows_of[i]["val_acc"].max()) for i in arm.reported.values()]
            reached = sum(c.reached for c in found)
            texts = [_percent(found[0].target), f"{reached}/{len(found)}",
                     *(_times_text(found, unit) for unit in target.UNITS), f"{100 * max(peaks):.1f}"]  # fmt: skip
            rows.append((*_names(study, arm), *map(Cell, texts)))
            medians = {
                f"{unit}_median": median(getattr(c, unit) if c.reached else math.inf for c in found)
                for unit in target.UNITS
            }
            told = {"target": found[0].target, "n_reached": reached, "n": len(found), **medians}
            values.append(_named(study, arm) | told | {"highest_val_acc": max(peaks)})
    header = (*shown_keys(study), "Target", "Reached", "Steps", "Examples", "Seconds of training", "Highest accuracy, %")
    caption = (
        "The way to the target: median [smallest, largest] over the seeds, of the first of two consecutive evaluations "
        "at or above it, in validation accuracy. A run that never reached it counts as slower than every one that did. "
        "Highest accuracy: of any evaluation of any run on the validation data, for orientation only: a maximum "
        "flatters, and no verdict uses it."
    )
    return Table("target", "Time to target", caption, header, tuple(rows), len(shown_keys(study)), pd.DataFrame(values))


def _by_seed(study: Study, arm: Arm, goals: Mapping[int, float]) -> dict[int, Crossing]:
    if id(arm) not in goals:
        return {}
    all_runs = exports.crossings(study, arm, goals[id(arm)])
    return {seed: all_runs[run_id] for seed, run_id in arm.reported.items()}


def _crossed(study: Study, arm: Arm, goals: Mapping[int, float]) -> list[Crossing]:
    return list(_by_seed(study, arm, goals).values())


def _times_text(found: Sequence[Crossing], unit: str) -> str:
    if not found:
        return MISSING
    times = sorted(getattr(c, unit) if c.reached else math.inf for c in found)
    form = "{:,.1f}" if unit == "train_s" else "{:,.0f}"

    def text(value: float) -> str:
        return "never" if value == math.inf else form.format(value)

    if times[0] == math.inf:
        return "never"
    return text(median(times)) + (f" [{text(times[0])}, {text(times[-1])}]" if len(times) > 1 else "")


def _percent(share: float) -> str:
    return f"{100 * share:g}%"


def _goal_text(goals: Any) -> str:
    different = {_percent(goal) for goal in goals}
    return different.pop() if len(different) == 1 else "the target"


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
            rows.append((*_names(study, arm), *map(Cell, texts)))
            told = {"n_params": int(first["n_params"]), "s_per_step_median": middle, "s_per_step_min": min(paces),
                    "s_per_step_max": max(paces), "examples_per_s": batch / middle, "relative": relative,
                    "n": len(paces)}  # fmt: skip
            values.append(_named(study, arm) | told)
    header = (*shown_keys(study), "Parameters", "ms a step", "Examples/s", "Against the baseline", "Runs")
    caption = (
        "Cost of training, without evaluations, over all complete runs of an arm: median [smallest, largest]; against "
        "the baseline: ratio of the medians. Seconds depend on the machine and on what else it did at the time."
    )
    return Table("cost", "Cost", caption, header, tuple(rows), len(shown_keys(study)), pd.DataFrame(values))


def _seconds_a_step(arm: Arm) -> list[float]:
    done = arm.runs[(arm.runs["state"] == "complete") & arm.runs["train_s"].notna()]
    return [s / n for s, n in zip(done["train_s"].astype(float), done["steps"].astype(float), strict=True) if n and s]


def _range_text(values: Sequence[float]) -> str:
    text = f"{median(values):.3g}"
    return text if len(values) == 1 else f"{text} [{min(values):.3g}, {max(values):.3g}]"


# ------------------------------------------------------------------------------------------------- T4, tuning protocol


def protocol(study: Study) -> Table:
    rows, values = [], []
    for _, block in by_block(study):
        for arm in block:
            rates = sorted({float(rate) for rate in arm.runs["lr"]})
            grid = ", ".join(cell_text(rate) if rate else MISSING for rate in rates)
            s = arm.selection
            seeds = sorted({int(seed) for seed in arm.runs["seed"]})
            tuned = sorted(study.options.tune_seeds & set(seeds)) if study.options.tune_seeds else seeds
            how = s.how if s else f"none: {arm.why}"
            told = {
                "learning_rates": grid, "n_tried": s.n_settings if s else len(rates),
                "n_finished": s.n_finished if s else None, "how": how,
                "tune_seeds": ranges(tuned) if s and s.how != "one setting" else "",
                "reported_seeds": ranges(sorted(arm.reported)), "chosen": rate_text(arm),
                "at_edge": "; ".join(edge.wider for edge in s.edges) if s else "",
            }  # fmt: skip
            values.append(_named(study, arm) | told)
            rows.append((*_names(study, arm), *(Cell(MISSING if v in ("", None) else str(v)) for v in told.values())))
    header = (*shown_keys(study), "Learning rates", "Tried", "Finished", "Chosen how", "Seeds that choose",
              "Seeds reported", "Chosen", "At the edge: also try")  # fmt: skip
    caption = (
        "How the learning rate of each arm was chosen: by the mean final validation accuracy over the seeds that "
        "choose, a diverged run counting as guessing. Finished: rates with a result for every such seed. "
        "Leave-one-seed-out: each seed is reported at the rate that is best on all the others."
    )
    return Table(
        "protocol", "Tuning protocol", caption, header, tuple(rows), len(shown_keys(study)), pd.DataFrame(values)
    )


def ranges(seeds: Sequence[int]) -> str:
    """0, 1, 2, 5 -> "0-2, 5"."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ", ".join(f"{a}" if a == b else f"{a}, {b}" if b == a + 1 else f"{a}-{b}" for a, b in parts)


def _named(study: Study, arm: Arm) -> dict[str, Any]:
    return {key: arm.setting[key] for key in study.keys}


def _names(study: Study, arm: Arm) -> tuple[Cell, ...]:
    return tuple(Cell(cell_text(arm.setting[key])) for key in shown_keys(study))
