"""The words of a verdict. One sentence that can stand alone: data set, model, budget, seeds, interval, reservations.

It never says "significant", "proves" or "always" (tests/test_verdict.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normbench.report.planning import seeds_needed, seeds_to_tell
from normbench.report.state import Flag, State, Subject
from normbench.report.stats import Effect
from normbench.report.target import UNITS

SPLITS = {"val": "validation", "test": "test", "train": "training"}
MEASURES = {"acc": "accuracy", "loss": "loss"}


@dataclass(frozen=True)
class Case:
    """All that a sentence speaks of. raw: the state before the flags; refused: why there is none."""

    effect: Effect
    subject: Subject
    margin: float
    raw: State
    state: State
    refused: str
    flags: Mapping[Flag, str]
    diverged: tuple[int, int]

    @property
    def ahead(self) -> bool:
        """Whether the variant is the one ahead."""
        estimate = self.effect.interval.estimate
        if self.effect.kind == "ratio":
            return estimate >= 1
        return (estimate <= 0) if self.subject.lower_is_better else (estimate >= 0)


def full(case: Case, beside: Sequence[tuple[str, str, Effect]] = ()) -> str:
    s = case.subject
    where = f"On {s.dataset} ({s.model}, {s.budget}): "
    if case.refused:
        return f"{where}no verdict on {_question(case)}: {case.refused}.{_reservations(case)}"
    claim = _ratio_claim(case) if case.effect.kind == "ratio" else _difference_claim(case)
    extra = "".join(f" {label}: {short(effect, metric, case.ahead)}." for label, metric, effect in beside)
    return f"{where}{claim} ({_evidence(case)}).{extra}{_reservations(case)}"


def footnote(effect: Effect) -> str:
    """The p values of an effect in words; "" where there are none."""
    if math.isnan(effect.p):
        return ""
    test = "paired t test" if effect.paired else "Welch's t test"
    exact = f"; exact sign-flip p = {effect.p_exact:.2g}" if not math.isnan(effect.p_exact) else ""
    if effect.p_exact_floor >= 0.05:
        exact += f" ({effect.interval.n} pairs cannot give less than {effect.p_exact_floor:.2g})"
    return f"{test} p = {effect.p:.2g}{exact}"


def metric_words(metric: str) -> str:
    split, _, measure = metric.rpartition("_")
    return f"{SPLITS.get(split, split)} {MEASURES.get(measure, measure)}".strip().replace("_", " ")


def short(effect: Effect, metric: str, ahead: bool = True) -> str:
    """As in "2.13x [1.89x, 2.40x]" or "+1.4 pp [+0.6, +2.2]"; ratios are inverted where `ahead` is False."""
    i = effect.interval
    if effect.refused or math.isnan(i.estimate):
        return "no estimate"
    if effect.kind == "ratio":
        middle, low, high, bound = _oriented(effect, ahead)
        text = {"low": "at least ", "high": "at most "}.get(bound, "") + f"{_times(middle)}"
        if math.isnan(i.low):
            return text
        ends = {"low": f"from {_times(low)}", "high": f"up to {_times(high)}"}
        return f"{text} [{ends.get(bound, f'{_times(low)}, {_times(high)}')}]"
    text = _amount(i.estimate, metric, signed=True)
    return text if math.isnan(i.low) else f"{text} [{_bare(i.low, metric)}, {_bare(i.high, metric)}]"


# -------------------------------------------------------------------------------------------------------------- claims


def _goal(subject: Subject) -> str:
    return f" to reach {100 * subject.target:g}% validation accuracy" if subject.target else ""


def _unit(subject: Subject) -> str:
    return UNITS.get(subject.metric, metric_words(subject.metric))


def _question(case: Case) -> str:
    s = case.subject
    if case.effect.kind == "ratio":
        return f"how many {_unit(s)} {s.variant} and {s.baseline} need{_goal(s)}"
    return f"the {metric_words(s.metric)} of {s.variant} against {s.baseline}"


def _ratio_claim(case: Case) -> str:
    s, unit, goal = case.subject, _unit(case.subject), _goal(case.subject)
    v, b, fewer = s.variant, s.baseline, case.ahead
    r = _oriented(case.effect, fewer)[0]
    least = "at least " if case.effect.bound else ""
    if case.state == State.PROBABLY:
        way = "fewer" if fewer else "more"
        return f"{v} probably needs {way} {unit} than {b}{goal}, {least}{_times(r)}{_small(case)}"
    if case.state == State.SAME:
        return f"{v} and {b} need the same {unit}{goal}, {_within(f'{case.margin:g}x')}"
    if case.state == State.UNCLEAR:
        return _unclear(case, f"whether {v} or {b} needs fewer {unit}{goal}", f"the ratio to {case.margin:g}x")
    if fewer:
        share = f"{'at most ' if least else ''}{100 / r:.0f}% of them"
        return f"{v} needs {least}{_times(r)} fewer {unit} than {b}{goal}, {share}"
    return f"{v} needs {least}{_times(r)} as many {unit} as {b}{goal}"


def _difference_claim(case: Case) -> str:
    s, estimate = case.subject, case.effect.interval.estimate
    v, b, name = s.variant, s.baseline, metric_words(s.metric)
    way, size = ("lower" if estimate < 0 else "higher"), _amount(abs(estimate), s.metric)
    margin = f"{100 * case.margin:g} pp" if s.metric.endswith("_acc") else f"{case.margin:g}"
    if case.state == State.PROBABLY:
        return f"{v} probably ends with {way} {name} than {b}, by {size}{_small(case)}"
    if case.state == State.SAME:
        return f"{v} and {b} end with the same {name}, {_within(margin)}"
    if case.state == State.UNCLEAR:
        return _unclear(case, f"whether {v} or {b} ends with the better {name}", f"the difference to {margin}")
    return f"{v} ends with {size} {way} {name} than {b}"


def _small(case: Case) -> str:
    return ", an amount that may be too small to matter" if case.raw == State.PROBABLY else ""


def _within(margin: str) -> str:
    return f"within {margin}: no difference that matters"


def _unclear(case: Case, question: str, precision: str) -> str:
    if case.raw != State.UNCLEAR:
        return f"it is unclear {question}: the seeds alone would say {case.raw}, the reservations below forbid it"
    e = case.effect
    seeds = f"{e.interval.n} seeds cannot tell {question}"
    width = math.log(case.margin) if e.kind == "ratio" else case.margin
    if math.isnan(e.sd) or e.bound:
        return seeds
    chosen_by: float = e.chosen_by or math.inf
    if Flag.UNSTABLE_CHOICE in case.flags:  # each is reported at what all others choose: with n they become more, too
        sd, chosen_by = e.sd * math.sqrt(2), math.inf
    else:
        sd = e.sd
    needed = seeds_needed(sd, width, chosen_by=chosen_by)
    if needed is not None and needed <= e.interval.n:  # narrow enough, but it holds both 0 and the margin
        precision = f"{precision.partition(' to ')[0]} to half the margin"
        needed = seeds_needed(sd, width / 2, chosen_by=chosen_by)
    seen = abs(math.log(e.interval.estimate) if e.kind == "ratio" else e.interval.estimate)
    enough = seeds_to_tell(seen, sd, chosen_by=chosen_by) if seen > width and sd > 0 else None
    if enough is not None and e.interval.n < enough < (needed or math.inf):
        return f"{seeds}; about {enough} would, if it is as large as it seems"
    if needed is None and chosen_by < math.inf:
        few = "1 seed" if chosen_by == 1 else f"{chosen_by} seeds"
        return f"{seeds}; nor can more, as {few} chose the settings and others might have chosen otherwise"
    if needed is None or needed <= e.interval.n:
        return seeds
    return f"{seeds}; about {needed} would be needed to know {precision}"


def _evidence(case: Case) -> str:
    e, s = case.effect, case.subject
    parts, wider = [], " (wider, as a choice hangs on one seed)" if e.chosen_by else ""
    if e.kind == "ratio":
        pair = (s.baseline, s.variant) if case.ahead else (s.variant, s.baseline)
        middle, low, high, bound = _oriented(e, case.ahead)
        mean = "geometric mean of per-seed ratios" if e.paired else "ratio of geometric means"
        ends = {"low": f"from {_times(low)} upward", "high": f"up to {_times(high)}"}
        interval = ends.get(bound, f"{_times(low)} to {_times(high)}")
        least = {"low": "at least ", "high": "at most "}.get(bound, "")
        parts.append(
            f"{mean}, {pair[0]} to {pair[1]}: {least}{_times(middle)}, {e.interval.level:.0%} CI {interval}{wider}"
        )
    else:
        mean = "mean of per-seed differences" if e.paired else "difference of means"
        ends = f"{_bare(e.interval.low, s.metric)} to {_amount(e.interval.high, s.metric, signed=True)}"
        parts.append(
            f"{mean} {_amount(e.interval.estimate, s.metric, signed=True)}, {e.interval.level:.0%} CI {ends}{wider}"
        )
    parts.append(f"{e.interval.n} paired seeds" if e.paired else f"{e.n_a} and {e.n_b} seeds, not paired")
    if e.left_out:
        parts.append(f"{e.left_out} {'seed' if e.left_out == 1 else 'seeds'} of only one arm left out")
    if s.tuning:
        parts.append(s.tuning)
    return ", ".join(parts) + f"; {_counted(case)}"


def _counted(case: Case) -> str:
    """How many runs the numbers come from, and how many of them failed."""
    e, s = case.effect, case.subject
    n = (e.interval.n, e.interval.n) if e.paired else (e.n_a, e.n_b)
    if e.kind == "ratio" and s.target:
        if not e.censored_a + e.censored_b:
            return f"{sum(n)}/{sum(n)} runs reached it"
        return (
            f"{s.baseline} reached it in {n[0] - e.censored_a}/{n[0]} runs, {s.variant} in {n[1] - e.censored_b}/{n[1]}"
        )
    if not sum(case.diverged):
        return f"{sum(n)}/{sum(n)} runs finished"
    a, b = case.diverged
    return f"diverged: {a}/{e.n_a} runs of {s.baseline}, {b}/{e.n_b} of {s.variant}, counted as untrained"


def _reservations(case: Case) -> str:
    if not case.flags:
        return ""
    said = "; ".join(f.sentence + (f" ({detail})" if detail else "") for f, detail in case.flags.items())
    head = f"Lowered from {case.raw}" if case.state != case.raw else "Reservations"
    return f" {head}: {said}."


# ------------------------------------------------------------------------------------------------------------- numbers


def _oriented(effect: Effect, ahead: bool) -> tuple[float, float, float, str]:
    """Estimate, low, high and bound of a ratio, inverted where the variant is behind."""
    i = effect.interval
    if ahead:
        return i.estimate, i.low, i.high, effect.bound
    low = math.inf if i.low == 0 else 1 / i.low
    return 1 / i.estimate, 1 / i.high, low, {"low": "high", "high": "low"}.get(effect.bound, "")


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.3g}x"


def _bare(value: float, metric: str) -> str:
    """A signed number in the metric's unit, without the unit's name."""
    value += 0.0  # no minus zero
    return f"{100 * value:+.2f}" if metric.endswith("_acc") else f"{value:+.3g}"


def _amount(value: float, metric: str, signed: bool = False) -> str:
    text = _bare(value, metric) if signed else _bare(value, metric).lstrip("+")
    return f"{text} pp" if metric.endswith("_acc") else text
