"""What the runs answer to the questions of a claim: supported, contradicted, in part or undecided. Pure.

Each question has one number a seed for both sides, from the runs that their arms are reported by; the difference or the
ratio is judged as every comparison is (`verdict.judge`). In the direction that was expected, an interval that excludes
no effect supports it; one in the other direction, or wholly within the margins, contradicts it; the rest is undecided.

A time is asked about at every target of the claim, an answer each. One that can't be told at a target (too few runs
reach it, or the first evaluations do) says nothing, as long as another target tells something.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from normbench.claim import TIMES, Claim, Question
from normbench.report import paper, searched, selection, shares, stats, target, verdict
from normbench.report.arms import Arm
from normbench.report.contrasts import budget_words, origins
from normbench.report.measures import FOUND, IMPORTANCE, MEASURES, WORDS, Points, Seeds
from normbench.report.selection import LR
from normbench.report.state import Flag, State, Subject, gains
from normbench.report.stats import Effect, Interval
from normbench.report.study import Refused, Study
from normbench.report.tables import cell_text, natural

SUPPORTED, CONTRADICTED, IN_PART, UNDECIDED = "supported", "contradicted", "in part", "undecided"
TESTED = {SUPPORTED: "✓", CONTRADICTED: "✗", IN_PART: "✓✗", UNDECIDED: "?"}


@dataclass(frozen=True)
class Answer:
    """where: what else the runs share. sides: the numbers a seed of `of` and `than`; those that never got to the target
    of a time are missing. margin: the smallest difference that matters, NaN of times. why: it is not supported, or
    what is to be said against it all the same.
    """

    question: Question
    where: str
    row: verdict.Comparison
    verdict: str
    sides: tuple[Seeds, Seeds]
    margin: float
    why: str = ""

    @property
    def effect(self) -> str:
        """The effect with its interval; of times how much sooner, or later."""
        ratio = self.row.effect
        if self.row.effect_kind != "ratio" or not math.isfinite(ratio):
            return paper.effect_text(self.row)
        text = paper.effect_text(self.row, ratio >= 1)
        return text if ratio == 1 else f"{text} {'sooner' if ratio > 1 else 'later'}"


@dataclass(frozen=True)
class _Side:
    """The arms that a side names, and what it says of settings that are tuned: the runs with these values alone."""

    words: str
    arms: tuple[Arm, ...]
    tuned: Mapping[str, str]

    @property
    def first(self) -> Arm:
        return self.arms[0]


def with_reason(verdict: str, why: str) -> str:
    """As in `undecided: 6 seeds cannot tell` and `supported, though a chosen setting lies at an end ...`."""
    return f"{verdict}{', ' if why.startswith('though') else ': ' if why else ''}{why}"


def overall(answers: Sequence[Answer]) -> str:
    """Supported only if every answer is; contradicted if one of them is, or in part if another is supported."""
    asked: dict[tuple[Question, str], list[Answer]] = {}
    for answer in answers:
        asked.setdefault((answer.question, answer.where), []).append(answer)
    verdicts = {answer.verdict for own in asked.values() for answer in _told(own)}
    if CONTRADICTED in verdicts:
        return IN_PART if SUPPORTED in verdicts else CONTRADICTED
    return SUPPORTED if verdicts == {SUPPORTED} else UNDECIDED


def _told(answers: Sequence[Answer]) -> Sequence[Answer]:
    """Of the answers at several targets those that tell anything; all of them where none does."""
    return [answer for answer in answers if answer.row.state != State.REFUSED] or answers


def answers(study: Study, claim: Claim) -> list[Answer]:
    """In the order asked.

    Raises:
        Refused: a question names a measure that is not there, or settings that no run has.
    """
    return [found for question in claim.asks for found in _answered(study, question, claim.targets)]


def _answered(study: Study, question: Question, targets: Sequence[float]) -> list[Answer]:
    where = dict(part.split("=", 1) for part in question.where)
    if question.measure in (FOUND, IMPORTANCE):  # both sides look at the same runs
        arms = list(study.arms) if question.measure == FOUND else arms_where(study, question.where)
        cell = where if question.measure == IMPORTANCE else {}
        return [_answer(study, question, cell, (_Side("", (arm,), {}), _Side("", (arm,), {}))) for arm in arms]
    if question.measure not in MEASURES and question.measure not in TIMES:
        known = ", ".join(sorted([*MEASURES, *TIMES, FOUND, IMPORTANCE]))
        raise Refused(f"measure must be one of {known}, given {question.measure!r}")
    goals = (targets or [None]) if question.measure in TIMES else [None]
    return [
        _answer(study, question, cell, sides, goal) for cell, sides in _cells(study, question, where) for goal in goals
    ]


def arms_where(study: Study, where: Sequence[str]) -> list[Arm]:
    """The arms with these settings, as typed.

    Raises:
        Refused: there are none.
    """
    wanted = dict(part.split("=", 1) for part in where)
    if not (found := [arm for arm in study.arms if _has(arm, wanted)]):
        raise Refused(f"no runs have {' '.join(where)}")
    return found


def varied_cells(
    study: Study, question: Question
) -> list[tuple[dict[str, Any], tuple[tuple[str, tuple[Arm, ...]], ...]]]:
    """For each value of what else varies the sides of a question, in words and as arms."""
    where = dict(part.split("=", 1) for part in question.where)
    return [(cell, tuple((side.words, side.arms) for side in sides)) for cell, sides in _cells(study, question, where)]


def _cells(
    study: Study, question: Question, where: Mapping[str, str]
) -> list[tuple[dict[str, Any], tuple[_Side, _Side]]]:
    """The arms of both sides, for each value of what else varies."""
    wanted = [dict(part.split("=", 1) for part in side.split()) for side in (question.of, question.than)]
    tuned = [{key: side.pop(key) for key in list(side) if key in study.options.tuned} for side in wanted]
    named = {*wanted[0], *wanted[1]}
    own = {*named, *where, question.along}
    varied = [k for k in study.keys if k not in own and k.partition(".")[0] not in named
              and len({str(arm.setting[k]) for arm in study.arms}) > 1]  # fmt: skip
    cells: dict[tuple, tuple[list[Arm], list[Arm]]] = {}
    for arm in study.arms:
        if not _has(arm, where):
            continue
        cell = tuple(arm.setting[k] for k in varied)
        for side, settings in enumerate(wanted):
            if _has(arm, settings):
                cells.setdefault(cell, ([], []))[side].append(arm)
    found = []
    for cell in sorted((cell for cell, sides in cells.items() if all(sides)), key=natural):
        of, than = (
            _Side(words, tuple(arms), values)
            for words, arms, values in zip((question.of, question.than), cells[cell], tuned, strict=True)
        )
        found.append((dict(zip(varied, cell, strict=True)), (of, than)))
    if not found:
        raise Refused(f"no runs have both {question.of} and {question.than}")
    return found


def _has(arm: Arm, wanted: Mapping[str, str]) -> bool:
    first = arm.runs.iloc[0]
    return all(
        _text(arm.setting[key]) == _text(value) if key in arm.setting else has_value(first, key, value)
        for key, value in wanted.items()
    )


def has_value(run: Mapping[str, Any] | pd.Series, key: str, value: str) -> bool:
    """Whether a row of the runs' table has this value of a config key, as typed."""
    return _text(run.get(f"cfg.{key}.name", run.get(f"cfg.{key}"))) == _text(value)


def _text(value: Any) -> str:
    """0.10, "0.1" and 0.1 are one value; so are [64, 64] and [64,64], of which one word can be typed."""
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value).replace(" ", "")


def _answer(
    study: Study, question: Question, where: Mapping[str, Any], sides: tuple[_Side, _Side], goal: float | None = None
) -> Answer:
    of, than = sides
    where = _shown(question, where)
    if question.measure in TIMES:
        numbers, effect, subject = _time(study, question, of, than, goal)
        margin = question.margin
    elif question.measure in (FOUND, IMPORTANCE):
        look = searched if question.measure == FOUND else shares
        numbers = look.sides(question, of.first.runs)
        subject = Subject(WORDS[question.measure], "", "", "", "", "", less_is_better=question.expect == "lower")
        effect = stats.difference(numbers[1], numbers[0], paired=True)
        margin = look.margin(question)
    else:
        measure = MEASURES[question.measure]
        if bool(question.along) != measure.along:
            raise Refused(f"{question.measure} {'needs' if measure.along else 'takes no'} along: a key")
        points = _points(question, of), _points(question, than)
        numbers = measure.of(study, points[0]), measure.of(study, points[1])
        grain = max(map(measure.grain, points))
        if question.measure == "test_acc":
            grain = 1 / float(of.first.runs["n_test"].iloc[0])
        how: Any = {"paired": _paired(*numbers), "resolution": grain, "coarse": measure.along}
        effect = stats.difference(numbers[1], numbers[0], **how)
        margin = measure.margin if question.margin is None else question.margin
        margin *= abs(_mean(numbers[1])) if measure.relative and question.margin is None else 1.0
        subject = Subject(measure.words, "", "", "", "", "", less_is_better=question.expect == "lower")
    subject = replace(
        subject, baseline=question.than, variant=question.of, dataset=str(of.first.runs["dataset"].iloc[0]),
        model=_place(of.first, where), budget=budget_words(of.first), tuning=_tuning(of, than, question),
    )  # fmt: skip
    lost = [0, 0] if question.along else [sum(_lost(side, arm) for arm in side.arms) for side in (than, of)]
    flags, refusal = _flags(study, question, of, than, goal), _refusal(question, of, than)
    diverged = lost[0], lost[1]
    row = verdict.judge(effect, subject, flags=flags, refusal=refusal, margin=margin, diverged=diverged)
    came = _verdict(effect, row.state, subject, question.expect)
    why = _why(row, came, verdict.refused(effect, refusal, diverged))
    return Answer(question, _words(where), row, came, numbers, math.nan if margin is None else margin, why)


def _why(row: verdict.Comparison, came: str, refused: str) -> str:
    """In a few words, why a question is not supported, and what is to be said against the answer; "" if nothing is."""
    if refused:
        return refused
    reservations = [Flag(name).sentence for name in row.flags.split(";") if name]
    if came == UNDECIDED:
        none = 1.0 if row.effect_kind == "ratio" else 0.0
        told = [] if row.ci_low > none or row.ci_high < none else [f"{row.n_pairs} seeds cannot tell"]
        return "; ".join([*told, *reservations]) or "too small to tell"
    though = [f"though {'; '.join(reservations)}"] if reservations else []
    other = "no difference that matters" if row.state == State.SAME else "it is the other way"
    return ", ".join([*([other] if came == CONTRADICTED else []), *though])


def _lost(side: _Side, arm: Arm) -> int:
    return arm.diverged(_reported(side, arm))


def _flags(study: Study, question: Question, of: _Side, than: _Side, goal: float | None) -> dict[Flag, str]:
    flags: dict[Flag, str] = {}
    picked = than.first.selection, of.first.selection
    chosen = not question.along and not (of.tuned or than.tuned)
    if chosen and picked[0] and picked[1] and (question.measure in TIMES or MEASURES[question.measure].tuned):
        flags = verdict.tuning_flags(picked[0], picked[1])
    if question.measure in TIMES and goal is None and study.options.target is None:
        flags[Flag.POST_HOC_TARGET] = ""
    if origin := origins([*than.arms, *of.arms]):
        flags[Flag.MIXED_ORIGIN] = origin
    return flags


def _refusal(question: Question, of: _Side, than: _Side) -> str:
    picked = than.first.selection, of.first.selection
    if question.along or not picked[0] or not picked[1] or of.tuned or than.tuned:
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
    study: Study, question: Question, of: _Side, than: _Side, goal: float | None
) -> tuple[tuple[Seeds, Seeds], Effect, Subject]:
    """Time to the target: the claim's, else that of the options, else the automatic one of the runs compared with."""
    if question.along or any(len(side.arms) != 1 for side in (of, than)):
        raise Refused(f"{question.measure} is of one arm on each side; name what else they differ in, in where")
    runs = [_reported(side, side.first) for side in (of, than)]
    goal = goal or study.options.target
    if goal is None:
        goal = target.automatic_target(study.track_of[i] for i in runs[1].values())
    blank = Subject(question.measure, "", "", "", "", "", target=goal or 1.0)
    if goal is None:
        gone = Interval(math.nan, math.nan, math.nan, 0, "none")
        return ({}, {}), Effect("ratio", gone, True, 0, 0, refused="no target that its runs reach"), blank
    crossed = [{seed: study.crossing(i, goal) for seed, i in own.items()} for own in runs]
    picked = [side.first.selection for side in (than, of)]
    free = picked[0] and picked[1] and not (of.tuned or than.tuned)
    moved = selection.reselected(picked[0], picked[1]) if free else 0  # pyright: ignore[reportArgumentType]
    effect = target.compare(crossed[1], crossed[0], question.measure, paired=_paired(*crossed), reselected=moved)
    if effect.resolution >= 1 and not effect.refused:
        effect = replace(effect, refused=f"{goal:g} was reached by the first evaluation, so nobody knows when")
    numbers = [{s: float(getattr(c, question.measure)) for s, c in side.items() if c.reached} for side in crossed]
    return (numbers[0], numbers[1]), effect, blank


def _reported(side: _Side, arm: Arm) -> dict[int, str]:
    """Seed -> run_id: of the runs that the arm is reported by, or of those with the values that the side names."""
    if not side.tuned:
        return arm.reported
    return {int(row["seed"]): str(row["run_id"]) for row in _rows(side, arm).values()}


def _rows(side: _Side, arm: Arm) -> dict[str, Any]:
    """run_id -> the row of each of the arm's runs that has the values that the side names."""
    rows = {str(row["run_id"]): row for row in arm.runs.to_dict("records")}
    found = {i: row for i, row in rows.items() if all(_text(row[k]) == _text(v) for k, v in side.tuned.items())}
    if not found:
        raise Refused(f"no runs have {side.words}")
    return found


def _points(question: Question, side: _Side) -> Points:
    """The runs that each arm is reported by; along the learning rate, or what else is tuned, all of them."""
    found: Points = {}
    for arm in side.arms:
        rows = _rows(side, arm)
        if question.along and question.along in (arm.selection.tune if arm.selection else (LR,)):
            placed = [(row.get(question.along, row["lr"]), row) for row in rows.values()]
        else:
            at = arm.setting.get(question.along, arm.runs.iloc[0].get(f"cfg.{question.along}"))
            placed = [(at if question.along else None, rows[i]) for i in _reported(side, arm).values()]
        for at, row in placed:
            if (seed := int(row["seed"])) in found.setdefault(at, {}):
                raise Refused(f"{question.measure}: {side.words} names several arms; name what else they differ in, "
                              "in of, than or where")  # fmt: skip
            found[at][seed] = row
    return {at: found[at] for at in sorted(found, key=lambda value: natural([value]))}


def _paired(a: Mapping[int, Any], b: Mapping[int, Any]) -> bool:
    return bool(a.keys() & b.keys())


def _mean(values: Seeds) -> float:
    return math.fsum(values.values()) / len(values) if values else math.nan


def _place(arm: Arm, where: Mapping[str, Any]) -> str:
    told = {key: value for key, value in where.items() if key not in ("model", "dataset")}  # said already
    return ", ".join(text for text in (str(arm.runs["model"].iloc[0]), _words(told)) if text)


def _shown(question: Question, cell: Mapping[str, Any]) -> dict[str, Any]:
    """What both sides share, as typed and as it varies. Not what was measured by: a probe changes no number."""
    typed = dict(part.split("=", 1) for part in question.where)
    return {key: value for key, value in {**typed, **cell}.items() if key != "probe"}


def _words(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={cell_text(v)}" for k, v in where.items() if v != "")


def _tuning(of: _Side, than: _Side, question: Question) -> str:
    if question.along or of.tuned or than.tuned or of.first.selection is None or than.first.selection is None:
        return ""
    return verdict.tuning_words(than.first.selection, of.first.selection)
