"""From the tables of runs to a study: which arms are contrasted with which baseline, and the verdicts. Pure."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from normbench.report import selection, stats, tables, target, verdict
from normbench.report.arms import Arm, Options, Setting, arms
from normbench.report.state import Flag, Subject
from normbench.report.stats import Effect
from normbench.report.study import Contrast, Refused, Study
from normbench.report.target import Crossing

BASELINES = (
    "norm",
    "clip",
    "optimizer",
    "batch_size",
)  # in which of them to compare, if nothing is said: the first that varies
UNTOLD = 0.5  # evaluation interval / time to target from which on a time is hardly told at all
ORIGIN = ("git_commit", "torch_version", "normbench_version", "device")


def study(runs: pd.DataFrame, metrics: pd.DataFrame, options: Options) -> Study:
    """Find the arms, choose what is tuned, compare.

    Raises:
        Refused: a baseline that no run has.
    """
    made = Study(runs, metrics, options)
    keys = tuple(str(key) for key in made.setting if key not in options.tuned)
    found = tuple(arms(runs, made.setting[list(keys)], options)) if len(made.used) else ()
    made = made.but(keys=keys, arms=found)
    contrasts, notes = _contrasts(made)
    return made.but(contrasts=tuple(contrasts), notes=tuple(notes))


def _contrasts(made: Study) -> tuple[list[Contrast], list[str]]:
    key, value = _baseline(made)
    if key is None:
        what = selection.noun(made.options.tuned)
        return [], [f"There is nothing to compare: all runs have the same settings but for seeds and {what}."]
    own = [k for k in made.keys if k == key or k.startswith(f"{key}.")]
    blocks: dict[tuple, list[Arm]] = {}
    for arm in made.arms:
        blocks.setdefault(tuple(arm.setting[k] for k in made.keys if k not in own), []).append(arm)
    found, notes = [], []
    varied = [k for k in made.keys if k not in own and len({str(a.setting[k]) for a in made.arms}) > 1]
    for block in blocks.values():
        bases = [arm for arm in block if str(arm.setting[key]) == value]
        if len(bases) != 1:
            words = ", ".join(f"{k}={tables.cell_text(block[0].setting[k])}" for k in varied) or "these runs"
            some = "no" if not bases else "more than one"
            notes.append(f"No comparison for {words}: there is {some} baseline {key}={value} among them.")
            continue
        where = {k: block[0].setting[k] for k in varied}
        found += [_contrast(made, key, bases[0], arm, where) for arm in block if arm is not bases[0]]
    return _judged(made, found), notes


def _baseline(made: Study) -> tuple[str | None, str]:
    choices = {
        key: sorted({str(a.setting[key]) for a in made.arms}, key=lambda v: tables.natural([v])) for key in made.keys
    }
    if made.options.baseline:
        key, value = made.options.baseline
        if key not in choices and len(made.used) and key in made.used and made.used[key].nunique() == 1:
            if (only := str(made.used[key].iloc[0])) != value:
                raise Refused(f"--baseline {key}={value}: no run has it; {key} is {only} in all")
            return None, value
        if key not in choices:
            raise Refused(f"--baseline must be one of {', '.join(choices)} with a value, got {key}={value}")
        if value not in choices[key]:
            raise Refused(f"--baseline {key}={value}: no run has it; {key} is one of {', '.join(choices[key])}")
        return key, value
    ranked = sorted(choices, key=lambda key: BASELINES.index(key) if key in BASELINES else len(BASELINES))
    for key in ranked:
        if len(choices[key]) > 1 and "." not in key:
            return key, choices[key][0]
    return next(((key, choices[key][0]) for key in ranked if len(choices[key]) > 1), (None, ""))


def _contrast(made: Study, key: str, baseline: Arm, variant: Arm, where: Setting) -> Contrast:
    goal, post_hoc = made.options.target, made.options.target is None
    if post_hoc and baseline.reported:
        # the runs that chose the settings are none of those reported: a target from them is declared beforehand
        post_hoc = baseline.selection is None or baseline.selection.how != "tune/confirm"
        ids = baseline.reported if post_hoc else baseline.tuning
        goal = target.automatic_target(made.track_of[i] for i in ids.values())
    crossings = _crossings(made, baseline.reported, goal), _crossings(made, variant.reported, goal)
    return Contrast(key, baseline, variant, where, goal, post_hoc, crossings)


def _crossings(made: Study, run_ids: Mapping[int, str], goal: float | None) -> dict[int, Crossing]:
    return {seed: made.crossing(i, goal) for seed, i in run_ids.items()} if goal is not None else {}


@dataclass(frozen=True)
class _Question:
    """One row to be: which effect, of what, of which runs, and what counts against its verdict."""

    metric: str
    effect: Effect
    same_rate: bool
    run_ids: frozenset[str]
    diverged: tuple[int, int]


def _judged(made: Study, contrasts: Sequence[Contrast]) -> list[Contrast]:
    """With verdicts; p values of equal questions are adjusted (Holm) over all contrasts."""
    asked = [_questions(made, contrast) for contrast in contrasts]
    kinds = list(dict.fromkeys((q.metric, q.same_rate) for questions in asked for q in questions))
    adjusted: dict[int, float] = {}
    for kind in kinds:
        family = [q for questions in asked for q in questions if (q.metric, q.same_rate) == kind]
        adjusted |= {id(q): p for q, p in zip(family, verdict.adjusted([q.effect for q in family]), strict=True)}
    weak = made.untrained | set(made.used.loc[made.used["state"] == "diverged", "run_id"])
    return [
        replace(contrast, rows=tuple(_row(made, contrast, q, questions, adjusted[id(q)], weak) for q in questions))
        for contrast, questions in zip(contrasts, asked, strict=True)
    ]


def _questions(made: Study, contrast: Contrast) -> list[_Question]:
    """The headline first: the time to the target, or, if it is not asked for and can't be told (too many runs miss it,
    or evaluations are too far apart), the accuracy.
    """
    a, b, unit = contrast.baseline, contrast.variant, made.options.x
    found = []
    if contrast.target is not None:
        for metric in dict.fromkeys((unit, "train_s")):
            found.append(_times(made, contrast, metric, a.reported, b.reported, False))
    accuracy = _accuracy(a, b, a.reported, b.reported, False)
    asked_for = made.options.target is not None or made.options.x != "step"
    untold = bool(found) and not asked_for and (found[0].effect.resolution >= UNTOLD or bool(found[0].effect.refused))
    found.insert(0 if untold else len(found), accuracy)
    if a.selection and b.selection and max(a.selection.n_settings, b.selection.n_settings) > 1:
        same = a.at(a.selection.best), b.at(a.selection.best)
        if same[0] and same[1]:
            if contrast.target is not None:
                found.append(_times(made, contrast, unit, *same, True))
            found.append(_accuracy(a, b, *same, True))
    return found


def _times(
    made: Study, contrast: Contrast, unit: str, a: Mapping[int, str], b: Mapping[int, str], same_rate: bool
) -> _Question:
    base, variant = contrast.baseline, contrast.variant
    crossings = _crossings(made, a, contrast.target), _crossings(made, b, contrast.target)
    how: Any = {"paired": _paired(a, b), "reselected": 0 if same_rate else _reselected(base, variant)}
    effect = target.compare(*crossings, unit, **how)
    ids = frozenset((*a.values(), *b.values()))
    return _Question(unit, effect, same_rate, ids, (base.diverged(a), variant.diverged(b)))


def _reselected(a: Arm, b: Arm) -> int:
    return selection.reselected(a.selection, b.selection) if a.selection and b.selection else 0


def _accuracy(a: Arm, b: Arm, runs_a: Mapping[int, str], runs_b: Mapping[int, str], same_rate: bool) -> _Question:
    scores = a.column("test_score", runs_a), b.column("test_score", runs_b)
    how: Any = {"paired": _paired(runs_a, runs_b), "reselected": 0 if same_rate else _reselected(a, b)}
    effect = stats.difference(*scores, resolution=1 / float(a.runs["n_test"].iloc[0]), **how)
    ids = frozenset((*runs_a.values(), *runs_b.values()))
    return _Question("test_acc", effect, same_rate, ids, (a.diverged(runs_a), b.diverged(runs_b)))


def _paired(a: Mapping[int, str], b: Mapping[int, str]) -> bool:
    """Runs of one seed see the same batches: they are pairs, wherever there are any."""
    return bool(a.keys() & b.keys())


def _row(
    made: Study, contrast: Contrast, question: _Question, questions: Sequence[_Question], p_holm: float,
    weak: AbstractSet[str],
) -> verdict.Comparison:  # fmt: skip
    """weak: the runs that diverged, or ended no better than they began."""
    a, b = contrast.baseline, contrast.variant
    timed = question.metric != "test_acc"
    tuning, flags, refusal = "", {}, ""
    if a.selection and b.selection:
        what = selection.words(a.selection.tune, a.selection.best)
        same = f"both at {what}, the baseline's best"
        tuning = same if question.same_rate else verdict.tuning_words(a.selection, b.selection)
        if not question.same_rate:
            flags = verdict.tuning_flags(a.selection, b.selection)
            refusal = verdict.tuning_refusal(a.selection, b.selection, _names(contrast))
    else:
        refusal = a.why or b.why
    if timed and contrast.post_hoc:
        flags[Flag.POST_HOC_TARGET] = ""
    if origin := origins((a, b)):
        flags[Flag.MIXED_ORIGIN] = origin
    subject = Subject(
        question.metric, *_names(contrast), str(a.runs["dataset"].iloc[0]), _place(contrast),
        budget_words(a), tuning, contrast.target if timed else None,
    )  # fmt: skip
    first = question is questions[0]
    beside = [_beside(q, made.options.tuned) for q in questions[1:]] if first else []
    return verdict.judge(
        question.effect, subject, flags=flags, refusal=refusal, p_holm=p_holm, diverged=question.diverged,
        learned=bool(question.run_ids - weak), beside=beside,
    )  # fmt: skip


def _names(contrast: Contrast) -> tuple[str, str]:
    """The two arms by what they differ in."""
    own = [k for k in contrast.variant.setting if k == contrast.key or k.startswith(f"{contrast.key}.")]
    extra = [f"{k}={tables.cell_text(v)}" for k in own[1:] if (v := contrast.variant.setting[k]) != ""]
    names = [
        f"{contrast.key}={tables.cell_text(arm.setting[contrast.key])}" for arm in (contrast.baseline, contrast.variant)
    ]
    return names[0], " ".join([names[1], *extra])


def _place(contrast: Contrast) -> str:
    words = [
        f"{k}={tables.cell_text(v)}" for k, v in contrast.where.items() if v != "" and k not in ("model", "dataset")
    ]
    return ", ".join([str(contrast.baseline.runs["model"].iloc[0]), *words])


def budget_words(arm: Arm) -> str:
    first = arm.runs.iloc[0]
    return f"{int(first['epochs'])} epoch{'s' * (int(first['epochs']) != 1)}, {int(first['total_steps']):,} steps"


def _beside(question: _Question, tuned: tuple[str, ...]) -> tuple[str, str, Effect]:
    words = {"test_acc": "Test accuracy", "train_s": "In seconds of training"}.get(question.metric, "Steps")
    return (
        (f"At the same {selection.noun(tuned)[:-1]}, {words.lower()}" if question.same_rate else words),
        question.metric,
        question.effect,
    )


def origins(arms: Sequence[Arm]) -> str:
    """What the reported runs do not share of where they were made; "" where they share all."""
    runs = pd.concat([arm.runs.loc[arm.runs["run_id"].isin(list(arm.reported.values())), list(ORIGIN)] for arm in arms])
    several = [f"{runs[key].nunique()} values of {key}" for key in ORIGIN if runs[key].nunique() > 1]
    dirty = runs["git_commit"].astype(str).str.endswith("-dirty").any()
    return ", ".join([*several, *(["uncommitted code"] if dirty else [])])
