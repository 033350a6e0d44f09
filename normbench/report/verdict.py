"""From an effect to a row of comparisons.csv: state, flags, and a sentence that can stand alone. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import pandas as pd

from normbench.report import sentence
from normbench.report.planning import FEWEST, LEVEL
from normbench.report.pvalue import holm
from normbench.report.selection import HOW, Selection, noun, words
from normbench.report.state import OF_TIMES, Flag, State, Subject, default_margin, gains, lowered, state_of
from normbench.report.stats import Effect
from normbench.report.tables import cell_text
from normbench.report.target import COARSE

ALPHA = 1 - LEVEL


@dataclass(frozen=True)
class Comparison:
    """One row of comparisons.csv. `flags`: names, joined by ";". Where there is no number, NaN."""

    metric: str
    baseline: str
    variant: str
    paired: bool
    n_pairs: int
    corr: float
    effect: float
    effect_kind: str
    ci_low: float
    ci_high: float
    ci_level: float
    p: float
    p_holm: float
    p_exact: float
    p_exact_floor: float
    wins: int
    censored_a: int
    censored_b: int
    state: State
    flags: str
    sentence: str


def table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """comparisons.csv, in the order given."""
    return pd.DataFrame([asdict(c) for c in comparisons], columns=[f.name for f in fields(Comparison)])


# --------------------------------------------------------------------------------------------------------------- flags


def tuning_flags(baseline: Selection, variant: Selection) -> dict[Flag, str]:
    """What two arms' tuning says against a verdict, each flag with its detail."""
    flags = {}
    edges = [(name, e) for name, s in (("baseline", baseline), ("variant", variant)) for e in s.edges]
    if edges:
        flags[Flag.LR_AT_EDGE] = "; ".join(f"{name}: {e.setting}={e.value:g}, also try {e.wider}" for name, e in edges)
    (a, done_a), (b, done_b) = [(s.n_settings, s.n_finished) for s in (baseline, variant)]
    if a == b and done_a != done_b:  # where not as many were tried there is no verdict: tuning_refusal
        flags[Flag.UNEQUAL_TUNING] = (
            f"{done_a} of {a} settings finished for the baseline, {done_b} of {b} for the variant"
        )
    if "same seeds" in (baseline.how, variant.how):
        flags[Flag.SAME_SEEDS] = "keep some seeds for the report alone"
    if any(s.how == "leave-one-seed-out" and s.unstable for s in (baseline, variant)):
        settings = [
            f"{name}: {len(s.counts)} setting{'s' * (len(s.counts) != 1)}"
            for name, s in (("baseline", baseline), ("variant", variant))
        ]
        flags[Flag.UNSTABLE_CHOICE] = f"{', '.join(settings)}; confirm on fresh seeds"
    return flags


def tuning_refusal(
    baseline: Selection, variant: Selection, names: tuple[str, str] = ("the baseline", "the variant")
) -> str:
    """Why two selections allow no verdict at all, and what to type for one; "" where they do.

    Better tuned is not better: an arm that was given more settings, more seeds to choose by, or, where epochs are
    tuned, more of them, wins against itself (docs/fair-comparison.md). What failed in an arm was given to it.
    """
    read = sorted({s.metric for s in (baseline, variant) if s.metric.startswith("test")})
    if read:
        return f"settings were chosen by {read[0]}: test data were read for the selection"
    both = list(zip((baseline, variant), names, strict=True))
    if baseline.n_settings != variant.n_settings:
        (less, few), (more, many) = sorted(both, key=lambda pair: pair[0].n_settings)
        what, short = noun((*less.tune, *more.tune)), more.n_settings - less.n_settings
        counts = f"{many} was tuned with {more.n_settings} {what} and {few} with {less.n_settings}"
        missing = [s for s in more.tried if s not in less.tried]
        which = _typed_settings(more.tune, missing) if len(missing) == short else f"{short} more {what}"
        return f"{counts}, and better tuned is not better; for a verdict train {few} with {which}, too"
    if baseline.n_settings > 1 and len(baseline.choosing) != len(variant.choosing):
        (less, few), (more, many) = sorted(both, key=lambda pair: len(pair[0].choosing))
        seeds = [",".join(map(str, s.choosing)) for s in (more, less)]
        missing = ",".join(str(seed) for seed in more.choosing if seed not in less.choosing)
        counts = f"{many} was tuned on the seeds {seeds[0]} and {few} on {seeds[1]}"
        return f"{counts}, and better tuned is not better; for a verdict train {few} with seed={missing}, too"
    spent = [_epochs(s) for s in (baseline, variant)]
    if spent[0] != spent[1]:
        counts = " and ".join(f"{name} with {epochs:g} epochs" for (_, name), epochs in zip(both, spent, strict=True))
        return f"{counts} over all settings, and better tuned is not better; for a verdict give both the same epochs"
    return ""


def _typed_settings(tune: Sequence[str], settings: Sequence[tuple]) -> str:
    """As one would type them."""
    if len(tune) == 1:
        return f"{tune[0]}={','.join(cell_text(setting[0]) for setting in settings)}"
    told = [words(tune, setting) for setting in settings[:3]]
    return "; ".join(told) + (f" and {len(settings) - 3} more" if len(settings) > 3 else "")


def _epochs(selection: Selection) -> float:
    """Of all its settings together, where they differ in it; else 0."""
    if "epochs" not in selection.tune:
        return 0.0
    place = selection.tune.index("epochs")
    return math.fsum(float(setting[place]) for setting in selection.tried)


def tuning_words(baseline: Selection, variant: Selection) -> str:
    """As in "each at its best of 7 learning rates (chosen on other seeds)"."""
    a, b = baseline.n_finished, variant.n_finished
    if a == b == 1:
        return "each at one setting, not tuned"
    what = noun((*baseline.tune, *variant.tune))
    ways = " and ".join(dict.fromkeys(text for s in (baseline, variant) if (text := HOW[s.how])))
    counts = f"each at its best of {a} {what}" if a == b else f"at the best of {a} and of {b} {what}"
    return f"{counts} ({ways})"


def adjusted(effects: Sequence[Effect], primary: int | None = None) -> list[float]:
    """Holm's p of every effect but the declared primary one, whose p stays as it is."""
    others = holm([math.nan if i == primary else e.p for i, e in enumerate(effects)])
    return [effects[i].p if i == primary else p for i, p in enumerate(others)]


# ------------------------------------------------------------------------------------------------------------- verdict


def judge(
    effect: Effect, subject: Subject, *, flags: Mapping[Flag, str] | None = None, refusal: str = "",
    p_holm: float = math.nan, margin: float | None = None, diverged: tuple[int, int] = (0, 0),
    learned: bool = True, beside: Sequence[tuple[str, str, Effect]] = (),
) -> Comparison:  # fmt: skip
    """The verdict on one effect: a row of comparisons.csv with its sentence.

    flags: what the caller knows (`tuning_flags`, MIXED_ORIGIN, POST_HOC_TARGET), each with a detail or "";
    COARSE_EVALUATION, DIVERGED_IN_WINNER and ONLY_UNADJUSTED are found here. diverged: runs of the baseline and of
    the variant. learned: whether any run of them ended better than it began. refusal: `tuning_refusal`. beside: (label,
    metric, effect) that the sentence quotes at its end.
    """
    if subject.target is not None and effect.kind != "ratio":
        raise ValueError(f"a time to target is compared by its ratio, given a {effect.kind}")
    margin = default_margin(effect, subject) if margin is None else margin
    raised = {f: text for f, text in (flags or {}).items() if effect.kind == "ratio" or f not in OF_TIMES}
    why = refused(effect, refusal, diverged, learned)
    if why:
        raw = state = State.REFUSED
    else:
        raw = state_of(effect, margin, subject.lower_is_better)
        raised |= _found(effect, raw, gains(effect, subject.lower_is_better), p_holm, diverged)
        state = lowered(raw, len(raised))
    raised = {f: raised[f] for f in Flag if f in raised}
    said = sentence.full(sentence.Case(effect, subject, margin, raw, state, why, raised, diverged), beside)
    i = effect.interval
    return Comparison(
        subject.column, subject.baseline, subject.variant, effect.paired, i.n if effect.paired else 0, effect.corr,
        i.estimate, effect.kind, i.low, i.high, i.level, effect.p, p_holm, effect.p_exact, effect.p_exact_floor,
        effect.wins, effect.censored_a, effect.censored_b, state, ";".join(raised), said,
    )  # fmt: skip


def refused(effect: Effect, refusal: str, diverged: tuple[int, int], learned: bool = True) -> str:
    """Why there is no verdict; "" where there is one."""
    n, what = effect.interval.n, "paired seeds" if effect.paired else "seeds in the smaller arm"
    if refusal or effect.refused:
        return refusal or effect.refused
    if n < FEWEST:
        return f"{n} {what.removesuffix('s') if n == 1 and effect.paired else what}; at least {FEWEST} are needed"
    if diverged == (effect.n_a, effect.n_b):
        return f"every run of both arms diverged ({effect.n_a} and {effect.n_b})"
    if not learned:
        return "no run of either arm ended better than it began; try other settings"
    return ""


def _found(
    effect: Effect, raw: State, gained: tuple[float, float], p_holm: float, diverged: tuple[int, int]
) -> dict[Flag, str]:
    found = {}
    if raw not in (State.SAME, State.UNCLEAR):
        ahead = 1 if gained[0] > 0 else 0
        if diverged[ahead]:
            n = (effect.n_a, effect.n_b)[ahead]
            found[Flag.DIVERGED_IN_WINNER] = f"{diverged[ahead]} of {n}"
        if effect.p < ALPHA <= p_holm:
            found[Flag.ONLY_UNADJUSTED] = f"p = {effect.p:.2g}, adjusted {p_holm:.2g}"
    if effect.kind == "ratio" and effect.resolution > COARSE + 1e-12:
        found[Flag.COARSE_EVALUATION] = f"{effect.resolution:.0%}; set a smaller eval.every_steps"
    return found
