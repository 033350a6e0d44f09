"""From the tables of runs to what is compared: arms, the setting each is reported at, contrasts with a baseline. Pure.

An arm is what is left of a run's settings without its seed and what is tuned, the learning rate if nothing else is
said: each arm is reported at its own best (`selection`). A contrast is two arms that differ in one group (norm, ...)
and in nothing else.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from normbench.claim import Claim
from normbench.plan import Arm as PlannedArm
from normbench.plan import Plan, Range
from normbench.report import selection, stats, tables, target, verdict
from normbench.report.selection import LR, Selection
from normbench.report.state import Flag, Subject
from normbench.report.stats import Effect
from normbench.report.target import Crossing

BASELINES = (
    "norm",
    "clip",
    "optimizer",
    "batch_size",
)  # in which of them to compare, if nothing is said: the first that varies
UNTOLD = 0.5  # evaluation interval / time to target from which on a time is hardly told at all
ORIGIN = ("git_commit", "torch_version", "normbench_version", "device")
Setting = dict[str, Any]  # key -> value; "" where the arm has no such key


@dataclass(frozen=True)
class Options:
    """What the reader asks for.

    target: accuracy to reach; None: chosen after the fact. baseline: (key, value), as in ("norm", "none").
    x: `step`, `examples` or `train_s`, in which a time is counted. tune_seeds: the seeds that choose what is tuned, the
    others are reported; None: each seed is reported at the setting that the others choose. tuned: the keys of it.
    plan: of the comparison that made the runs, for the ranges that were searched. claim: that the runs put to the test.
    """

    target: float | None = None
    baseline: tuple[str, str] | None = None
    x: str = "step"
    tune_seeds: frozenset[int] | None = None
    tuned: tuple[str, ...] = (LR,)
    plan: Plan | None = None
    claim: Claim | None = None


@dataclass(frozen=True)
class Arm:
    """Runs that differ in seed and tuned settings alone.

    setting: what tells it from the other arms. runs: one row a run, as `collect` gives them, with the tuned settings by
    their keys, `score`, the final validation accuracy, and `test_score`; a diverged run is scored as guessing.
    selection: None where no setting can be chosen, `why` says why.
    """

    setting: Setting
    runs: pd.DataFrame
    selection: Selection | None
    why: str = ""

    @property
    def norm(self) -> str:
        return str(self.setting["norm"])

    @property
    def optimizer(self) -> str:
        return str(self.setting["optimizer"])

    @cached_property
    def reported(self) -> dict[int, str]:
        """Seed -> run_id of the run that is reported for it."""
        return self._at(self.selection.chosen) if self.selection else {}

    def at(self, tuned: tuple) -> dict[int, str]:
        """The same seeds, all at this setting of what is tuned."""
        return self._at(dict.fromkeys(self.selection.chosen, tuned)) if self.selection else {}

    @cached_property
    def tuning(self) -> dict[int, str]:
        """Seed that chose -> run_id of its run at the setting that all of them chose together."""
        if self.selection is None:
            return {}
        choosing = set(self.runs["seed"].astype(int)) - set(self.selection.chosen) or set(self.selection.chosen)
        return self._at(dict.fromkeys(choosing, self.selection.best))

    def _at(self, chosen: Mapping[int, tuple]) -> dict[int, str]:
        tuned = self.runs[list(self.selection.tune)] if self.selection else pd.DataFrame(index=self.runs.index)
        rows = zip(self.runs["seed"], tuned.itertuples(index=False, name=None), self.runs["run_id"], strict=True)
        found = {int(seed): str(run_id) for seed, setting, run_id in rows if chosen.get(int(seed)) == setting}
        return dict(sorted(found.items()))

    def column(self, name: str, run_ids: Mapping[int, str]) -> dict[int, float]:
        """Seed -> value of that column, where there is one."""
        values = dict(zip(self.runs["run_id"], self.runs[name].astype(float), strict=True))
        return {seed: values[i] for seed, i in run_ids.items() if math.isfinite(values[i])}

    @cached_property
    def _states(self) -> dict[str, str]:
        return dict(zip(self.runs["run_id"], self.runs["state"], strict=True))

    def diverged(self, run_ids: Mapping[int, str]) -> int:
        return sum(self._states[i] == "diverged" for i in run_ids.values())


@dataclass(frozen=True)
class Contrast:
    """A variant against the baseline. key: the group that is compared. where: what both arms have in common and other
    contrasts have not. crossings: of the reported runs of both arms. rows: its verdicts, the headline first.
    """

    key: str
    baseline: Arm
    variant: Arm
    where: Setting
    target: float | None
    post_hoc: bool
    crossings: tuple[dict[int, Crossing], dict[int, Crossing]]
    rows: tuple[verdict.Comparison, ...] = field(default=(), compare=False)


class _Rows(Mapping[str, pd.DataFrame]):
    """Takes a run's rows out of the table when asked for them: ten thousand tables would take seconds to make."""

    def __init__(self, metrics: pd.DataFrame):
        found = metrics.groupby("run_id", sort=False).indices.items()
        self._metrics, self._places = metrics, {str(run_id): np.asarray(own) for run_id, own in found}

    def __getitem__(self, run_id: str) -> pd.DataFrame:
        return self._metrics.take(self._places[run_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Study:
    """All that the figures, tables and pages of a report are made from.

    runs: every run found; metrics: the rows of the used ones. keys: the settings that tell arms apart.
    notes: what could not be compared, and why. layers: what probes measured, see `layers.read`; empty without one.
    metrics_csv: `collect.Collected.text`; empty where the study is of no files.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    options: Options
    keys: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    notes: tuple[str, ...] = ()
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics_csv: bytes = b""

    def but(self, **changes: Any) -> "Study":
        """The same runs, metrics and options, with these fields; what was worked out of the former is kept."""
        other = replace(self, **changes)
        vars(other).update({name: value for name, value in vars(self).items() if name not in vars(other)})
        return other

    @cached_property
    def used(self) -> pd.DataFrame:
        return self.runs[self.runs["used"].astype(bool)]

    @cached_property
    def setting(self) -> pd.DataFrame:
        """What tells the used runs apart, one row a run."""
        return tables.settings(self.used) if len(self.used) else pd.DataFrame(columns=["norm", "optimizer"])

    @cached_property
    def untrained(self) -> AbstractSet[str]:
        """The run_ids of complete runs that ended no better than they began."""
        return frozenset(self.used.loc[tables.untrained(self.used, self.metrics), "run_id"])

    @cached_property
    def norms(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.used["norm"])))

    @cached_property
    def optimizers(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.used["optimizer"])))

    @cached_property
    def rows_of(self) -> Mapping[str, pd.DataFrame]:
        """run_id -> its rows of metrics.csv."""
        return _Rows(self.metrics)

    @cached_property
    def start_losses(self) -> dict[str, float]:
        """run_id -> its validation loss before the first step."""
        starts = self.metrics[self.metrics["step"] == 0]
        return dict(zip(starts["run_id"], starts["val_loss"].astype(float), strict=True))

    @cached_property
    def track_of(self) -> Mapping[str, target.Track]:
        """run_id -> its way to its accuracy."""
        return target.Track.of_each(self.metrics)

    @cached_property
    def _budgets(self) -> dict[str, int]:
        return {str(i): int(n) for i, n in zip(self.used["run_id"], self.used["total_steps"], strict=True)}

    @cached_property
    def _crossings(self) -> dict[tuple[str, float], Crossing]:
        return {}

    def crossing(self, run_id: str, goal: float) -> Crossing:
        """When that run reached the accuracy `goal`."""
        if (run_id, goal) not in self._crossings:
            self._crossings[run_id, goal] = self.track_of[run_id].crossing(goal, self._budgets[run_id])
        return self._crossings[run_id, goal]

    def name(self, arm: Arm, without: Sequence[str] = ()) -> str:
        """The arm in words: norm and optimizer by value, the rest as key=value; what never varies is left out."""
        varies = [k for k in self.keys if k not in without and len({str(a.setting[k]) for a in self.arms}) > 1]
        plain = [str(arm.setting[k]) for k in varies if k in ("norm", "optimizer")]
        rest = [
            f"{k}={tables.cell_text(v)}"
            for k in varies
            if k not in ("norm", "optimizer") and (v := arm.setting[k]) != ""
        ]
        return ", ".join([*plain, *rest]) or arm.norm


class Refused(ValueError):
    """The options can't be; the message says what to type instead."""


def study(runs: pd.DataFrame, metrics: pd.DataFrame, options: Options) -> Study:
    """Find the arms, choose what is tuned, compare.

    Raises:
        Refused: a baseline that no run has.
    """
    made = Study(runs, metrics, options)
    keys = tuple(str(key) for key in made.setting if key not in options.tuned)
    arms = tuple(_arms(runs, made.setting[list(keys)], options)) if len(made.used) else ()
    made = made.but(keys=keys, arms=arms)
    contrasts, notes = _contrasts(made)
    return made.but(contrasts=tuple(contrasts), notes=tuple(notes))


def _arms(runs: pd.DataFrame, setting: pd.DataFrame, options: Options) -> list[Arm]:
    used = runs[runs["used"].astype(bool)]
    lr = used["lr"].astype(float).fillna(0.0)  # an optimizer without one has one rate, too
    guess = 1 / used["n_classes"].astype(float)
    lost = used["state"] == "diverged"
    tuned = {key: lr if key == LR else _setting(used, key) for key in options.tuned}
    full = used.assign(lr=lr, score=used["val_acc"].astype(float).where(~lost, guess), **tuned)
    full["test_score"] = used["test_acc"].astype(float).where(~lost, guess)
    lost_runs = runs[runs["state"] == "failed"]
    found = []
    for cell, part in full.groupby([setting[key] for key in setting], sort=False):
        values = dict(zip(map(str, setting), cell, strict=True))
        part = part.sort_values(["lr", "seed", "run_id"])
        try:
            found.append(Arm(values, part, _given(_selected(part, options), part, lost_runs, options)))
        except ValueError as error:
            found.append(Arm(values, part, None, str(error)))
    return sorted(found, key=lambda arm: tables.natural(arm.setting.values()))


def _setting(used: pd.DataFrame, key: str) -> pd.Series:
    """What the runs have of a key; "" where an arm has no such key."""
    column = f"cfg.{key}"
    return used[column].astype(object).where(used[column].notna(), "") if column in used else pd.Series("", used.index)


def _selected(runs: pd.DataFrame, options: Options) -> Selection:
    how: Any = {"tune": options.tuned, "ranges": _ranges(runs, options.plan)}
    if options.tune_seeds is not None:
        seeds = set(map(int, runs["seed"]))
        how |= {"tune_seeds": seeds & options.tune_seeds, "confirm_seeds": seeds - options.tune_seeds}
    return selection.choose(runs, "val_acc", **how)


def _given(found: Selection, runs: pd.DataFrame, failed: pd.DataFrame, options: Options) -> Selection:
    """With the settings that the arm was given: those that failed too, and all trials of its plan."""
    tried = dict.fromkeys([*found.tried, *_failed(runs, failed, options)])
    found = replace(found, tried=tuple(tried), n_settings=len(tried))
    plan = options.plan
    if plan is None or not plan.tuned or _planned(runs, plan) is None:
        return found
    n_settings = max(plan.trials, len(tried))  # more: somebody trained others, too
    if not plan.halving or n_settings == 1:
        return replace(found, n_settings=n_settings)
    # what halving stopped has been tried all the same, by one rule for every arm; one that is left was chosen
    how = "tune/confirm" if found.how == "one setting" else found.how
    return replace(found, n_settings=n_settings, n_finished=n_settings, how=how, halved=True)


def _failed(runs: pd.DataFrame, failed: pd.DataFrame, options: Options) -> list[tuple]:
    """What failed of the settings of the arm that has these runs."""
    if not len(failed):
        return []
    if options.tune_seeds is not None:
        failed = failed[failed["seed"].astype(int).isin(options.tune_seeds)]
    left = ("seed", *options.tuned)
    own = [key for key in map(str, failed) if key.startswith("cfg.") and key[4:] not in left]
    same = failed[(failed[own].astype(str) == runs.iloc[0][own].astype(str)).all(axis=1)]
    values = [same["lr"].astype(float).fillna(0.0) if key == LR else _setting(same, key) for key in options.tuned]
    return list(zip(*values, strict=True))


def _planned(runs: pd.DataFrame, plan: Plan | None) -> PlannedArm | None:
    """The arm of the plan that these runs are of."""
    for arm in plan.arms if plan else ():
        known = {key: runs.get(f"cfg.{key}.name", runs.get(f"cfg.{key}")) for key in arm.choices}
        if all(values is not None and str(values.iloc[0]) == arm.choices[key] for key, values in known.items()):
            return arm
    return None


def _ranges(runs: pd.DataFrame, plan: Plan | None) -> dict[str, Range]:
    """Where the settings of this arm were searched."""
    arm = _planned(runs, plan)
    return plan.ranges(arm) if plan and arm else {}


# ----------------------------------------------------------------------------------------------------------- contrasts


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
    for arms in blocks.values():
        bases = [arm for arm in arms if str(arm.setting[key]) == value]
        if len(bases) != 1:
            words = ", ".join(f"{k}={tables.cell_text(arms[0].setting[k])}" for k in varied) or "these runs"
            some = "no" if not bases else "more than one"
            notes.append(f"No comparison for {words}: there is {some} baseline {key}={value} among them.")
            continue
        where = {k: arms[0].setting[k] for k in varied}
        found += [_contrast(made, key, bases[0], arm, where) for arm in arms if arm is not bases[0]]
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
    """One row to be: which effect, of what, and what counts against its verdict."""

    metric: str
    effect: Effect
    same_rate: bool
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
    return _Question(unit, effect, same_rate, (base.diverged(a), variant.diverged(b)))


def _reselected(a: Arm, b: Arm) -> int:
    return selection.reselected(a.selection, b.selection) if a.selection and b.selection else 0


def _accuracy(a: Arm, b: Arm, runs_a: Mapping[int, str], runs_b: Mapping[int, str], same_rate: bool) -> _Question:
    scores = a.column("test_score", runs_a), b.column("test_score", runs_b)
    how: Any = {"paired": _paired(runs_a, runs_b), "reselected": 0 if same_rate else _reselected(a, b)}
    effect = stats.difference(*scores, resolution=1 / float(a.runs["n_test"].iloc[0]), **how)
    return _Question("test_acc", effect, same_rate, (a.diverged(runs_a), b.diverged(runs_b)))


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
        learned=bool({*a.reported.values(), *b.reported.values()} - weak), beside=beside,
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
