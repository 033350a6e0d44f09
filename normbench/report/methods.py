"""The methods paragraph: what was done, in words to paste into a paper, made from the runs themselves. Pure."""

from collections.abc import Iterable

import pandas as pd

from normbench.report.paper import ranges
from normbench.report.planning import FEWEST
from normbench.report.selection import LR, Selection, noun
from normbench.report.state import ACCURACY_MARGIN, TIME_MARGIN
from normbench.report.study import Study
from normbench.report.tables import cell_text, natural
from normbench.report.target import SUSTAIN, UNITS


def paragraph(study: Study) -> str:
    """Nothing is said without an arm."""
    if not study.arms:
        return ""
    parts = [
        _compared(study),
        _budget(study.used),
        _tuning(study),
        _measures(study),
        _statistics(study),
        _failed(study),
    ]
    return " ".join(part for part in [*parts, _made_with(study.used)] if part)


def _compared(study: Study) -> str:
    data = _listed(study.used["dataset"])
    models = _listed(study.used["model"])
    if not study.contrasts:
        return f"We trained {models} on {data}; no two arms differ in one group alone, so none are compared."
    key = study.contrasts[0].key
    base = cell_text(study.contrasts[0].baseline.setting[key])
    variants = _listed(contrast.variant.setting[key] for contrast in study.contrasts)
    text = f"We compared {key}={variants} with the baseline {key}={base} ({models} on {data})"
    within = [
        f"{k}={_listed(c.where[k] for c in study.contrasts if c.where[k] != '')}" for k in study.contrasts[0].where
    ]
    return text + (f", within each of {'; '.join(within)}" if within else "") + "."


def _budget(used: pd.DataFrame) -> str:
    epochs, steps = _listed(used["epochs"]), _listed(f"{int(n):,}" for n in used["total_steps"])
    sizes = _listed(used["batch_size"])
    return f"Each run trained for {epochs} epoch{'s' * (epochs != '1')} ({steps} steps) with batches of {sizes}."


def _tuning(study: Study) -> str:
    selections = [arm.selection for arm in study.arms if arm.selection]
    what = noun(study.options.tuned)
    if not selections:
        return f"No {what[:-1]} could be chosen."
    hows = {s.how for s in selections} - {"one setting"}
    if not hows:
        return f"Every arm had one {what[:-1]}; it was not tuned."
    seeds = ranges(sorted({int(seed) for seed in study.used["seed"]}))
    ways = {
        "leave-one-seed-out": f"for each of the seeds {seeds} as the one with the highest final validation accuracy on "
        "average over all the other seeds",
        "tune/confirm": f"as the one with the highest final validation accuracy on average over the seeds "
        f"{ranges(sorted(study.options.tune_seeds or ()))}; only runs of other seeds are reported",
        "same seeds": "as the one with the highest final validation accuracy, on the very seeds that are reported, "
        "which flatters it",
    }
    text = "; for other arms ".join(ways[how] for how in ways if how in hows)
    if study.options.plan is not None:
        text += (
            ". The intervals hold for the settings that were chosen; other trials (search_seed) may find better ones"
        )
    tuned = "learning rate" if what == "learning rates" else f"setting ({_listed(study.options.tuned)})"
    return f"The {tuned} of each arm was chosen {_from(study)}: {text}.{_widened(selections)}"


def _from(study: Study) -> str:
    plan = study.options.plan
    if plan is not None:
        spans = {tuple(map(str, arm.ranges)) for arm in plan.arms}
        over = " and ".join(next(iter(spans))) if len(spans) == 1 else "ranges of its own given in the tuning protocol"
        more = f" ({'; '.join(plan.more)})" if plan.more else ""
        return f"by {plan.search} search over {over}, {plan.trials} trials for every arm{more}"
    grids = {tuple(sorted({float(lr) for lr in arm.runs["lr"]})) for arm in study.arms}
    if len(grids) > 1 or study.options.tuned != (LR,):
        return "from those of its own given in the tuning protocol"
    return f"from {len(next(iter(grids)))} values ({', '.join(f'{lr:g}' for lr in next(iter(grids)))})"


def _widened(selections: Iterable[Selection]) -> str:
    if not any(s.unstable for s in selections):
        return ""
    return (
        " Where leaving out a single one of the seeds that choose would have changed a choice, or where that can't be "
        "known (a single seed chose, or settings were stopped early), the intervals are wider by the variance of that "
        "choice (as for cross-validation, Nadeau & Bengio 2003)."
    )


def _measures(study: Study) -> str:
    text = "Test accuracy was measured once, after the last step; no choice was made by it."
    goals = sorted({contrast.target for contrast in study.contrasts if contrast.target is not None})
    if not goals:
        return text
    round_value = "the highest round value that at least half of the baseline's runs reach"
    told = "declared beforehand" if study.options.target is not None else f"chosen after the runs: {round_value}"
    if study.options.target is None and not any(contrast.post_hoc for contrast in study.contrasts):
        told = f"from the runs of the seeds that choose, which are not reported: {round_value}"
    percents = _listed(f"{100 * goal:g}%" for goal in goals)
    return (
        f"{text} Time to target is counted in {UNITS[study.options.x]} up to the first of {SUSTAIN} consecutive "
        f"evaluations at or above {percents} validation accuracy ({told}), without smoothing or interpolation."
    )


def _statistics(study: Study) -> str:
    rows = [row for contrast in study.contrasts for row in contrast.rows]
    if not rows:
        return ""
    ways = {row.paired for row in rows}
    pairs = (
        "Runs with the same seed see the same batches and start from the same weights where they share layers; they "
        "are compared in pairs: "
    )
    if True not in ways:
        pairs = "The arms share no seed and are compared unpaired (Welch): "
    kinds = {row.effect_kind for row in rows}
    means = ["accuracies by the mean of the differences"] if "difference" in kinds else []
    means += ["times to target by the geometric mean of the ratios"] if "ratio" in kinds else []
    text = f"{pairs}{' and '.join(means)}, with 95% t intervals"
    number = len(study.contrasts)
    text += (
        f" and p values adjusted by Holm's method over the {number} comparisons of one question" if number > 1 else ""
    )
    return (
        f"{text}; below {FEWEST} seeds there is no interval and no verdict. Differences within "
        f"{100 * ACCURACY_MARGIN:g} pp of accuracy or a factor of {TIME_MARGIN:g} in time count as no difference that "
        "matters."
    )


def _failed(study: Study) -> str:
    lost = int((study.used["state"] == "diverged").sum())
    if not lost:
        return f"All {len(study.used)} runs finished."
    return (
        f"{lost} of {len(study.used)} runs diverged; they count as guessing (one over the number of classes) and as "
        "never having reached a target."
    )


def _made_with(used: pd.DataFrame) -> str:
    parts = [f"normbench {_listed(used['normbench_version'])}", f"torch {_listed(used['torch_version'])}"]
    return f"Made with {' and '.join(parts)} on {_listed(used['device'])}."


def _listed(values: Iterable[object]) -> str:
    """Different values, in natural order, as "a, b and c"."""
    known = {cell_text(value) for value in values if value is not None and value == value}
    texts = sorted(known, key=lambda text: natural([text])) or ["unknown"]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
