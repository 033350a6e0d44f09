"""`tuning_budget`: better, or better tuned? The expected best validation accuracy of k settings tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from normbench.report import multiples, panels, reported, search, stats
from normbench.report.captions import scope
from normbench.report.facets import Line, Row
from normbench.report.figures import Drawn, NotDrawn
from normbench.report.figures.curves import line_names
from normbench.report.sheet import page_names
from normbench.report.study import Study
from normbench.report.style import RC, mean_look, norm_looks, optimizer_dashes

FEWEST = 5  # settings an arm
TUNED = "optimizer."  # what is tuned; all else tells arms apart
NARROWEST = 0.02  # of the y axis: below it noise would fill the panel


@dataclass(frozen=True)
class Tried:
    """Of one line: the mean final validation accuracy of each setting that has one for every seed."""

    scores: tuple[float, ...]
    seeds: int
    unfinished: int

    @cached_property
    def best(self) -> panels.Points:
        return np.arange(1.0, len(self.scores) + 1), search.expected_best(self.scores)


def draw(study: Study) -> list[Drawn]:
    """Expected best final validation accuracy against the number of settings tried; a line an arm.

    An arm is here what differs in anything but the seed and the optimizer's numbers.

    Raises:
        NotDrawn: no arm has FEWEST settings with a score for every seed, or there are too many facets.
    """
    runs = reported.tuning(study)
    setting = study.setting.loc[runs.index] if len(runs) else pd.DataFrame()
    tuned = [str(key) for key in setting if str(key).startswith(TUNED)]
    facets = reported.facets(study, runs, without=tuned)
    tried = {line: _tried(runs[runs["run_id"].isin(line.run_ids)], setting[tuned]) for f in facets for line in f.lines}
    enough = {line: found for line, found in tried.items() if len(found.scores) >= FEWEST}
    if not enough:
        most = max((len(found.scores) for found in tried.values()), default=0)
        raise NotDrawn(f"needs >={FEWEST} configs per arm, found {most}")
    kept = [Row(row.title, lines) for row in facets if (lines := tuple(line for line in row.lines if line in enough))]
    looks = multiples.Looks(line_names(set(tried), runs), norm_looks(study.norms), optimizer_dashes(study.optimizers))
    part = multiples.Part(
        "Expected best validation accuracy", 1.7, lambda axis, row, _: _panel(axis, row, enough, looks)
    )
    pages = multiples.pages(kept, [part])
    with matplotlib.rc_context(RC):
        return [
            Drawn(
                name,
                multiples.figure(page, [part], looks, "Settings tried (log scale)"),
                _caption(page, enough, tuned, runs, len(set(tried) - set(enough))),
                _data(page, enough),
            )
            for name, page in zip(page_names("tuning_budget", len(pages)), pages, strict=True)
        ]


def _tried(runs: pd.DataFrame, tuned: pd.DataFrame) -> Tried:
    own = tuned.loc[runs.index]
    keys = [own[key] for key in own] or [runs["optimizer"]]
    groups = [part["score"].to_numpy(float) for _, part in runs.groupby(keys, sort=False)]
    seeds = runs["seed"].nunique()
    full = [scores for scores in groups if len(scores) == seeds and np.isfinite(scores).all()]
    means = sorted(stats.mean(sorted(scores)).estimate for scores in full)
    return Tried(tuple(means), seeds, len(groups) - len(full))


def _panel(axis: Axes, row: Row, tried: Mapping[Line, Tried], looks: multiples.Looks) -> Mapping[Line, panels.Points]:
    most = max(len(found.scores) for found in tried.values())
    values = np.concatenate([found.best[1] for found in tried.values()])  # every panel has the same axes
    low, high = float(values.min()), float(values.max())
    room = max(NARROWEST - (high - low), 0.0) / 2 + 0.06 * (high - low)
    axis.set_ylim(max(low - room, -0.01), min(high + room, 1.01))
    axis.set_xscale("log")
    axis.set_xlim(0.93, most * 1.07)
    ticks = [n for n in (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 5000) if n <= most]
    axis.xaxis.set_major_locator(ticker.FixedLocator(ticks))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    ends = {line: tried[line].best for line in row.lines}
    for line, (x, y) in ends.items():
        marks = sorted({int(np.abs(x - n).argmin()) for n in (*ticks, len(x))})
        look = mean_look(line.norm, looks.norms, looks.dashes[line.optimizer])
        axis.plot(x, y, **look, markevery=marks, label=f"{line.norm}, {line.optimizer}", zorder=3)
    return ends


def _data(page: Sequence[Row], tried: Mapping[Line, Tried]) -> pd.DataFrame:
    rows = [
        {"facet": row.title, "norm": line.norm, "optimizer": line.optimizer, "configs": n,
         "of": len(tried[line].scores),         "seeds": tried[line].seeds, "expected_best_val_acc": best}
        for row in page for line in row.lines
        for n, best in enumerate(tried[line].best[1].tolist(), 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _caption(
    page: Sequence[Row], tried: Mapping[Line, Tried], tuned: Sequence[str], runs: pd.DataFrame, few: int
) -> str:
    found = [tried[line] for row in page for line in row.lines]
    own = runs[runs["run_id"].isin([i for row in page for line in row.lines for i in line.run_ids])]
    counts = sorted({len(one.scores) for one in found})
    several = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lost, unfinished = int((own["state"] == "diverged").sum()), sum(one.unfinished for one in found)
    parts = [
        f"Expected best final validation accuracy of k settings drawn at random from the {several} that were tried "
        f"({', '.join(tuned)}); of a grid: as if drawn at random from this grid.",
        f"A setting's score is its mean over {reported.seeds([one.seeds for one in found])}. The estimate is without "
        "replacement, hence unbiased; no band is drawn; lines end at the number that was tried.",
        scope(own),
        f"{lost} diverged {'run counts' if lost == 1 else 'runs count'} as guessing." if lost else "",
        f"Left out: {reported.several(unfinished, 'setting')} without a run for some seed." if unfinished else "",
        f"Not shown: {reported.several(few, 'arm')} with fewer than {FEWEST} settings." if few else "",
    ]
    return " ".join(part for part in parts if part)
