"""What the runs answer to the questions of a claim: supported, contradicted or undecided. Pure.

Each question has one number a seed for both sides, from the runs that their arms are reported by; the difference or the
ratio is judged as every comparison is (`verdict.judge`). In the direction that was expected, an interval that excludes
no effect supports it; one in the other direction, or wholly within the margins, contradicts it; the rest is undecided.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normbench.claim import Claim, Question
from normbench.report import searched, selection, stats, target, verdict
from normbench.report.measures import FOUND, MEASURES, Points, Seeds
from normbench.report.selection import LR
from normbench.report.state import ACCURACY_MARGIN, Flag, State, Subject, gains
from normbench.report.stats import Effect, Interval
from normbench.report.study import Arm, Refused, Study, budget_words, origins
from normbench.report.tables import cell_text, natural

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"


@dataclass(frozen=True)
class Answer:
    """where: what else the runs share. sides: the numbers a seed of `of` and `than`."""

    question: Question
    where: str
    row: verdict.Comparison
    verdict: str
    sides: tuple[Seeds, Seeds]


def overall(answers: Sequence[Answer]) -> str:
    """Supported only if every answer is; contradicted if one of them is; else undecided."""
    found = {answer.verdict for answer in answers}
    if CONTRADICTED in found:
        return CONTRADICTED
    return SUPPORTED if found == {SUPPORTED} else UNDECIDED


def answers(study: Study, claim: Claim) -> list[Answer]:
    """In the order asked.

    Raises:
        Refused: a question names a measure that is not there, or settings that no run has.
    """
    return [found for question in claim.asks for found in _answered(study, question)]


def _answered(study: Study, question: Question) -> list[Answer]:
    if question.measure == FOUND:
        return [_answer(study, question, {}, ([arm], [arm])) for arm in study.arms]
    if question.measure not in MEASURES and question.measure not in target.UNITS:
        known = ", ".join(sorted([*MEASURES, *target.UNITS, FOUND]))
        raise Refused(f"measure must be one of {known}, given {question.measure!r}")
    of, than = (dict(part.split("=", 1) for part in side.split()) for side in (question.of, question.than))
    where = dict(part.split("=", 1) for part in question.where)
    own = {*of, *than, *where, question.along}
    varied = [k for k in study.keys if k not in own and k.partition(".")[0] not in {*of, *than}
              and len({str(arm.setting[k]) for arm in study.arms}) > 1]  # fmt: skip
    cells: dict[tuple, tuple[list[Arm], list[Arm]]] = {}
    for arm in study.arms:
        if not _has(arm, where):
            continue
        cell = tuple(arm.setting[k] for k in varied)
        for side, wanted in enumerate((of, than)):
            if _has(arm, wanted):
                cells.setdefault(cell, ([], []))[side].append(arm)
    both = {cell: sides for cell, sides in cells.items() if all(sides)}
    if not both:
        raise Refused(f"no runs have both {question.of} and {question.than}")
    return [
        _answer(study, question, dict(zip(varied, cell, strict=True)), both[cell]) for cell in sorted(both, key=natural)
    ]


def _has(arm: Arm, wanted: Mapping[str, str]) -> bool:
    first = arm.runs.iloc[0]
    for key, value in wanted.items():
        found = arm.setting.get(key, first.get(f"cfg.{key}.name", first.get(f"cfg.{key}")))
        if _text(found) != _text(value):
            return False
    return True


def _text(value: Any) -> str:
    """0.10, "0.1" and 0.1 are one value; so are [64, 64] and [64,64], of which one word can be typed."""
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value).replace(" ", "")


def _answer(study: Study, question: Question, where: Mapping[str, Any], sides: tuple[list[Arm], list[Arm]]) -> Answer:
    of, than = sides
    if question.measure in target.UNITS:
        numbers, effect, subject = _time(study, question, of, than)
        margin = question.margin
    elif question.measure == FOUND:
        numbers, subject = searched.sides(question, of[0].runs), Subject("test_acc", "", "", "", "", "")
        effect, margin = stats.difference(numbers[1], numbers[0], paired=True), question.margin or ACCURACY_MARGIN
    else:
        measure = MEASURES[question.measure]
        if bool(question.along) != measure.along:
            raise Refused(f"{question.measure} {'needs' if measure.along else 'takes no'} along: a key")
        numbers = measure.of(study, _points(question, of)), measure.of(study, _points(question, than))
        grain = 1 / float(of[0].runs["n_test"].iloc[0]) if question.measure == "test_acc" else 0.0
        effect = stats.difference(numbers[1], numbers[0], paired=_paired(*numbers), resolution=grain)
        margin = measure.margin if question.margin is None else question.margin
        margin *= abs(_mean(numbers[1])) if measure.relative and question.margin is None else 1.0
        subject = Subject(measure.words, "", "", "", "", "", less_is_better=question.expect == "lower")
    subject = replace(
        subject, baseline=question.than, variant=question.of, dataset=str(of[0].runs["dataset"].iloc[0]),
        model=_place(of[0], where), budget=budget_words(of[0]), tuning=_tuning(of[0], than[0], question),
    )  # fmt: skip
    lost = tuple(sum(arm.diverged(arm.reported) for arm in arms) for arms in (than, of))
    diverged = (0, 0) if question.along else (lost[0], lost[1])
    row = verdict.judge(
        effect, subject, flags=_flags(study, question, of, than), refusal=_refusal(question, of, than), margin=margin,
        diverged=diverged,
    )  # fmt: skip
    return Answer(question, _words(where), row, _verdict(effect, row.state, subject, question.expect), numbers)


def _flags(study: Study, question: Question, of: Sequence[Arm], than: Sequence[Arm]) -> dict[Flag, str]:
    flags: dict[Flag, str] = {}
    picked = than[0].selection, of[0].selection
    if not question.along and picked[0] and picked[1]:
        flags = verdict.tuning_flags(picked[0], picked[1])
    if question.measure in target.UNITS and study.options.target is None:
        flags[Flag.POST_HOC_TARGET] = ""
    if origin := origins([*than, *of]):
        flags[Flag.MIXED_ORIGIN] = origin
    return flags


def _refusal(question: Question, of: Sequence[Arm], than: Sequence[Arm]) -> str:
    picked = than[0].selection, of[0].selection
    if question.along or not picked[0] or not picked[1]:
        return ""
    return verdict.tuning_refusal(picked[0], picked[1], (question.than, question.of))


def _verdict(effect: Effect, state: State, subject: Subject, expect: str) -> str:
    if state in (State.REFUSED, State.UNCLEAR):
        return UNDECIDED
    if state == State.SAME:
        return SUPPORTED if expect == "same" else CONTRADICTED
    if expect == "same":
        return UNDECIDED if state == State.PROBABLY else CONTRADICTED
    low, high = gains(effect, subject.lower_is_better)  # above 0: as expected; of times, below 0 if expected longer
    if effect.kind == "ratio" and expect == "higher":
        low, high = -high, -low
    return SUPPORTED if low > 0 else CONTRADICTED if high < 0 else UNDECIDED


def _time(
    study: Study, question: Question, of: Sequence[Arm], than: Sequence[Arm]
) -> tuple[tuple[Seeds, Seeds], Effect, Subject]:
    """Time to the target: that of the options, else the automatic one of the runs compared with."""
    _alone(question, (of, than))
    goal = study.options.target
    if goal is None:
        goal = target.automatic_target(study.track_of[i] for i in than[0].reported.values())
    blank = Subject(question.measure, "", "", "", "", "", target=goal or 1.0)
    if goal is None:
        gone = Interval(math.nan, math.nan, math.nan, 0, "none")
        return ({}, {}), Effect("ratio", gone, True, 0, 0, refused="no target that its runs reach"), blank
    crossed = [{s: study.crossing(i, goal) for s, i in side[0].reported.items()} for side in (of, than)]
    picked = [side[0].selection for side in (than, of)]
    moved = selection.reselected(picked[0], picked[1]) if picked[0] and picked[1] else 0
    effect = target.compare(crossed[1], crossed[0], question.measure, paired=_paired(*crossed), reselected=moved)
    numbers = [{s: float(getattr(c, question.measure)) for s, c in side.items()} for side in crossed]
    return (numbers[0], numbers[1]), effect, blank


def _points(question: Question, arms: Sequence[Arm]) -> Points:
    """The runs that each arm is reported by; along the learning rate, or what else is tuned, all of them."""
    found: Points = {}
    for arm in arms:
        rows: dict[str, Any] = {str(row["run_id"]): row for row in arm.runs.to_dict("records")}
        if question.along and question.along in (arm.selection.tune if arm.selection else (LR,)):
            for row in rows.values():
                found.setdefault(row.get(question.along, row["lr"]), {})[int(row["seed"])] = row
            continue
        at = arm.setting.get(question.along, arm.runs.iloc[0].get(f"cfg.{question.along}")) if question.along else None
        if not question.along and found:
            raise Refused(f"{question.measure}: {question.of} and {question.than} are several arms; name what else "
                             "they differ in, in where or along")  # fmt: skip
        found.setdefault(at, {}).update({seed: rows[i] for seed, i in arm.reported.items()})
    return {at: found[at] for at in sorted(found, key=lambda value: natural([value]))}


def _alone(question: Question, sides: Sequence[Sequence[Arm]]) -> None:
    if question.along or any(len(side) != 1 for side in sides):
        raise Refused(f"{question.measure} is of one arm on each side; name what else they differ in, in where")


def _paired(a: Mapping[int, Any], b: Mapping[int, Any]) -> bool:
    return bool(a.keys() & b.keys())


def _mean(values: Seeds) -> float:
    return math.fsum(values.values()) / len(values) if values else math.nan


def _place(arm: Arm, where: Mapping[str, Any]) -> str:
    told = {key: value for key, value in where.items() if key not in ("model", "dataset")}  # said already
    return ", ".join(text for text in (str(arm.runs["model"].iloc[0]), _words(told)) if text)


def _words(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={cell_text(v)}" for k, v in where.items() if v != "")


def _tuning(of: Arm, than: Arm, question: Question) -> str:
    if question.along or of.selection is None or than.selection is None:
        return ""
    return verdict.tuning_words(than.selection, of.selection)
