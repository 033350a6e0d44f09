"""`lr_sensitivity`: does a norm widen the range of learning rates that work? Final loss against the learning rate."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes

from normbench.report import panels, stats
from normbench.report.arms import Arm
from normbench.report.captions import dots_drawn, first
from normbench.report.figures import Drawn, NotDrawn, _arms, _sheet
from normbench.report.search import WITHIN, usable_range
from normbench.report.selection import LR, scored_loss
from normbench.report.study import Study
from normbench.report.style import MOST_NAMED, RC, line_looks, mean_look, norm_looks

HEIGHT, FOOT, LEFT = 1.7, 0.4, 0.42  # inches, around a panel
COLUMNS, MOST_PANELS = 2, 8  # a page
FEWEST_RATES = 3
GREY = "#555555"
CHOSEN = {"linestyle": "none", "marker": "*", "markersize": 11, "markeredgecolor": "white", "markeredgewidth": 0.6}
SOME = {"linestyle": "none", "marker": "*", "markersize": 9, "markerfacecolor": "white", "markeredgewidth": 0.8}
EDGE = {"linestyle": "none", "marker": "o", "markersize": 14, "markerfacecolor": "none", "markeredgewidth": 0.8}
LOST = {"linestyle": "none", "marker": "x", "markersize": 3.5, "markeredgewidth": 0.9}
RUN = {"linestyle": "none", "marker": "o", "markersize": 2.6, "markeredgewidth": 0}
Looks = Mapping[str, tuple[str, str]]  # name of a line -> its colour and marker


def draw(study: Study) -> list[Drawn]:
    """A panel for each optimizer (and what else varies), a line a norm; of one norm all in one panel, a line each.

    Raises:
        NotDrawn: no arm has FEWEST_RATES learning rates, or something else is tuned, too.
    """
    if others := [key for key in study.options.tuned if key != LR]:
        raise NotDrawn(f"needs the learning rate alone to be tuned, found {', '.join(others)}, too; see search")
    most = max((len(_rates(arm)) for arm in study.arms), default=0)
    if most < FEWEST_RATES:
        raise NotDrawn(f"needs >={FEWEST_RATES} learning rates, found {most}")
    every = _arms.groups(study, study.arms, LR)
    found = [g for g in every if any(len(_rates(arm)) >= FEWEST_RATES for _, line in g[1] for arm in line)]
    starts = study.metrics[["run_id", "step", "val_loss"]].sort_values("step").drop_duplicates("run_id")
    before = dict(zip(starts["run_id"], starts["val_loss"].astype(float), strict=True))
    points = {id(arm): _points(arm, before) for arm in study.arms}
    left_out = [title for title, _ in every if title not in {title for title, _ in found}]
    found, looks = _joined(found) or (found, norm_looks(study.norms))
    made = []
    with rc_context(RC):
        for name, page in _sheet.pages("lr_sensitivity", found, MOST_PANELS, "panels"):
            made.append(_page(study, name, page, points, left_out, looks))
    return made


def _joined(found: Sequence[_arms.Group]) -> tuple[list[_arms.Group], Looks] | None:
    """One panel with a line for each of these, named by its title; None where they compare norms, or are many."""
    lines = [(title, line) for title, own in found for _, line in own]
    if len({arm.norm for _, line in lines for arm in line}) > 1 or not 1 < len(lines) <= MOST_NAMED:
        return None
    names = _arms.without_key([title for title, _ in lines])
    return [("", list(zip(names, [line for _, line in lines], strict=True)))], line_looks(names)


def _rates(arm: Arm) -> list[float]:
    """Those that a log axis can show."""
    return sorted({float(lr) for lr in arm.runs["lr"] if lr > 0})


def _points(arm: Arm, before: Mapping[str, float]) -> pd.DataFrame:
    """One row a run: its final loss, no worse than `before` training; a diverged run counts as untrained."""
    runs = arm.runs[arm.runs["lr"].astype(float) > 0]
    first = [before[i] for i in runs["run_id"]]
    lost = (runs["state"] == "diverged").to_numpy()
    last = runs["val_loss"].astype(float).where(~lost, math.nan)
    chosen = Counter((seed, lr) for seed, (lr,) in arm.selection.chosen.items()) if arm.selection else Counter()
    best = arm.selection.best[0] if arm.selection and arm.selection.n_settings > 1 else math.nan
    edges = {edge.value for edge in arm.selection.edges} if arm.selection else set()
    front = {key: [arm.setting[key]] * len(runs) for key in arm.setting}
    return pd.DataFrame(
        front
        | {
            "lr": runs["lr"].astype(float).to_numpy(), "seed": runs["seed"].astype(int).to_numpy(),
            "run_id": runs["run_id"].to_numpy(), "state": runs["state"].to_numpy(),
            "final_val_loss": runs["val_loss"].astype(float).to_numpy(), "init_val_loss": first,
            "loss": [scored_loss(a, b) for a, b in zip(last, first, strict=True)],
            "reported": [chosen[int(s), lr] > 0 for s, lr in zip(runs["seed"], runs["lr"], strict=True)],
            "best_lr": [lr == best for lr in runs["lr"]], "at_edge": [lr in edges for lr in runs["lr"]],
        }
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- drawing


def _page(
    study: Study, name: str, page: Sequence[_arms.Group], points: Mapping[int, pd.DataFrame],
    left_out: Sequence[str], looks: Looks,
) -> Drawn:  # fmt: skip
    shown = {id(arm): points[id(arm)] for _, lines in page for _, line in lines for arm in line}  # once, if repeated
    every = pd.concat(shown.values(), ignore_index=True)
    names = list(dict.fromkeys(name for _, lines in page for name, _ in lines))
    seen = [
        ("chosen rate", CHOSEN, every["best_lr"]),
        ("chosen for some seeds", SOME, every["reported"] & _not_best(every)),
        ("chosen, at the edge", EDGE | {"markersize": 8}, every["at_edge"]), ("diverged run", LOST, _lost(every)),
    ]  # fmt: skip
    marks = {text: {"color": GREY} | look for text, look, found in seen if found.any()}
    blocks = [{name: mean_look(name, looks) for name in names}, marks]
    strips = [_strip(lines, points, looks) for _, lines in page]
    sheet = _arms.strip_sheet(page, strips, blocks, columns=COLUMNS, height=HEIGHT, left=LEFT, foot=FOOT)
    x, y = _limits(every["lr"], 0.06), _limits(every["loss"], 0.07)
    for axis, (_, lines), strip in zip(sheet.axes, page, strips, strict=True):
        axis.set(xscale="log", yscale="log", xlim=x, ylim=y)
        panels.plain_log_ticks(axis, "y")
        panels.plain_log_ticks(axis, "x", 2, 8)
        if axis in sheet.last:
            axis.set_xlabel("Learning rate (log scale)", labelpad=2)
        axis.set_ylabel("Final validation loss (log scale)", rotation=0, ha="left", va="bottom")
        for named, line in lines:
            for arm in line:
                _draw(axis, points[id(arm)], named, looks, _few(shown.values()))
        _arms.draw_strip(axis, strip, sheet.left)
    return Drawn(name, sheet.figure, _caption(study, page, every, left_out, _few(shown.values())), every)


def _few(points: Collection[pd.DataFrame]) -> int:
    """How many seeds of an arm have their dots drawn."""
    return dots_drawn([rows["seed"].nunique() for rows in points], max(rows["lr"].nunique() for rows in points))


def _not_best(points: pd.DataFrame) -> pd.Series:
    return ~points["best_lr"].astype(bool)


def _lost(points: pd.DataFrame) -> pd.Series:
    return points["state"] == "diverged"


def _strip(lines: Sequence, points: Mapping[int, pd.DataFrame], looks: Looks) -> _arms.Strip:
    found = [(name, _arms.diverged_counts(points[id(arm)], "lr")) for name, line in lines for arm in line]
    return [(name, looks[name][0], counts) for name, counts in found if counts]


def _limits(values: pd.Series, room: float) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    factor = max((high / low) ** room, 1.05)
    return low / factor, high * factor


def _draw(axis: Axes, rows: pd.DataFrame, name: str, looks: Looks, few: int) -> None:
    """Dots: runs of the first `few` seeds; line: the mean of all at each rate; star: the chosen rate."""
    color = looks[name][0]
    drawn = rows[rows["seed"].isin(sorted(set(rows["seed"]))[:few])]
    for bad, part in drawn.groupby(_lost(drawn)):
        axis.plot(part["lr"], part["loss"], color=color, alpha=0.55, zorder=2, clip_on=False,
                  label=f"_{'diverged' if bad else 'runs'} {name}", **(LOST if bad else RUN))  # fmt: skip
    mean = rows.groupby("lr")["loss"].mean()
    axis.plot(mean.index, mean.to_numpy(), **mean_look(name, looks), zorder=3, label=name)
    if not rows["best_lr"].any():
        return  # one rate, or none that every seed has finished: nothing was chosen
    for kind, look, found in (
        ("some", SOME, rows["reported"] & _not_best(rows)), ("chosen", CHOSEN, rows["best_lr"]),
        ("edge", EDGE, rows["at_edge"]),
    ):  # fmt: skip
        for lr in sorted(set(rows.loc[found, "lr"])):
            axis.plot(lr, mean[lr], **{"color": color, **look}, zorder=5, clip_on=False, label=f"_{kind} {name}")


# --------------------------------------------------------------------------------------------------------------- words


def _caption(study: Study, page: Sequence[_arms.Group], every: pd.DataFrame, left_out: Sequence[str], few: int) -> str:
    arms = list({id(a): a for _, lines in page for _, line in lines for a in line}.values())
    n = _arms.counted(every.groupby([*study.keys, "lr"]).size())
    lost = int(_lost(every).sum())
    dots, mean = "single seeds", "their mean"
    crosses = f"{lost} diverged {'run' if lost == 1 else 'runs'}, at the initial loss; they are in the mean."
    if every.groupby(list(study.keys))["seed"].nunique().max() > few:
        dots, mean = f"{first(few, 'seed')} of a line", "the mean of all"
        crosses = f"those that diverged, at the initial loss; all {lost} diverged runs are in the mean."
    parts = [
        "Validation loss after the last step against the learning rate, no worse than before training: min(last, "
        f"initial). Dots: {dots} (n = {n} a rate, {_arms.seeds(every['seed'])}); lines: {mean}."
    ]
    if lost:
        parts.append(f"Crosses: {crosses} Above each panel: how many of how many diverged, where any did.")
    if every["best_lr"].any():
        parts.append("Stars: the rate with the highest mean final validation accuracy over the seeds that choose.")
    if (every["reported"] & _not_best(every)).any() and every["best_lr"].any():
        parts.append("Open stars: rates that are reported for some seeds, each chosen on the other seeds.")
    if every["at_edge"].any():
        wider = sorted({edge.wider for arm in arms if arm.selection for edge in arm.selection.edges})
        parts.append(
            "Rings: the smallest or largest rate tried was chosen, better ones may lie beyond; also try "
            f"{' and '.join(wider)}."
        )
    if ranges := _usable(page):
        parts.append(
            f"Usable range, within {100 * WITHIN:g} pp of each seed's best validation accuracy, mean over seeds: "
            f"{ranges}."
        )
    if left_out:
        parts.append(f"Not drawn, with fewer than {FEWEST_RATES} learning rates: {', '.join(left_out)}.")
    return " ".join(text for text in (*parts, _arms.repeated(page), _arms.scope(study, arms)) if text)


def _usable(page: Sequence[_arms.Group]) -> str:
    """Decades of learning rate of each line, where all can be told apart by name alone."""
    named = [(name, arm) for _, lines in page for name, line in lines for arm in line]
    if len({name for name, _ in named}) < len(named):
        return ""
    said = []
    for name, arm in ((name, arm) for name, arm in named if not (arm.runs["state"] == "diverged").all()):
        found = usable_range(arm.runs)
        if len(found) and len(_rates(arm)) >= FEWEST_RATES and min(arm.runs["lr"].astype(float)) > 0:
            ends = "at least " * bool((found["at_low"] | found["at_high"]).any())
            said.append(f"{name} {ends}{stats.mean(found['decades']).estimate:.1f} decades")
    return ", ".join(said)
