"""`importance`: which setting matters most? The share of the variance of accuracy that each explains, a dot a seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes

from normbench.report import shares, stats
from normbench.report.answers import arms_where
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.figures._claimed import claim_of
from normbench.report.figures._sheet import Sheet, columns
from normbench.report.measures import IMPORTANCE
from normbench.report.study import Study
from normbench.report.style import RC, text_width

ROW, HEAD, FOOT = 0.2, 0.26, 0.42  # inches
BLUE = "#0072B2"


def draw(study: Study) -> list[Drawn]:
    """A panel for each set of runs that the claim asks about, a row a setting, in the order of its question.

    Raises:
        NotDrawn: no claim about what matters most.
    """
    asked = {q.where: q for q in claim_of(study).asks if q.measure == IMPORTANCE}
    if not asked:
        raise NotDrawn("needs a claim about which setting matters most, found another")
    found = []
    for where, question in asked.items():
        keys = question.along.split()
        tables = [shares.table(arm.runs, keys) for arm in arms_where(study, where)]
        found += [(", ".join(where), keys, table) for table in tables]
    with rc_context(RC):
        return [_figure(study, found)]


def _figure(study: Study, found: Sequence[tuple[str, list[str], Mapping[int, Mapping[str, float]]]]) -> Drawn:
    most = max(len(keys) for _, keys, _ in found)
    left = max(text_width(key) for _, keys, _ in found for key in keys) + 0.15
    sheet = Sheet(len(found), columns(len(found)), ROW * most, left=left, head=HEAD, foot=FOOT)
    values = [v for _, _, table in found for own in table.values() for v in own.values()]
    low, high = min([*values, 0.0]), max(values)
    rows: list[dict[str, Any]] = []
    for axis, (title, keys, table) in zip(sheet.axes, found, strict=True):
        sheet.heading(axis, title)
        _panel(axis, keys, table, most)
        axis.set_xlim(low - 3, min(high + 5, 103))
        axis.set_xlabel("Share of the variance explained (%)", labelpad=2)
        rows += [{"where": title, "setting": k, "seed": s, "share": own[k]} for s, own in table.items() for k in keys]
    return Drawn("importance", sheet.figure, _caption(study, found), pd.DataFrame(rows))


def _panel(axis: Axes, keys: Sequence[str], table: Mapping[int, Mapping[str, float]], most: int) -> None:
    axis.axvline(0, color="#555555", linewidth=0.8)
    for y, key in enumerate(keys):
        values = [own[key] for own in table.values()]
        mean = stats.mean(sorted(values))
        axis.plot(
            values, [y] * len(values), "o", color=BLUE, alpha=0.45, markersize=2.8, markeredgewidth=0, label=f"_{key}"
        )
        axis.plot([mean.low, mean.high], [y, y], color=BLUE, linewidth=1.2, alpha=0.8)
        axis.plot(mean.estimate, y, "D", color=BLUE, markersize=4.2, label=key)
    axis.set_yticks(range(len(keys)), keys)
    axis.set_ylim(most - 0.5, -0.5)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))


def _caption(study: Study, found: Sequence[tuple[str, list[str], Mapping[int, Mapping[str, float]]]]) -> str:
    seeds = _arms.counted(len(table) for *_, table in found)
    counts = sorted({int(n) for arm in study.arms for n in arm.runs.groupby("seed").size()})
    parts = [
        "The share of the variance of final validation accuracy that each setting explains alone (between five groups "
        "of its values, less what chance explains), from top to bottom in the order in which the document has them "
        f"matter. Small dots: single random searches ({seeds} of {_arms.counted(counts)} runs each); diamonds: their "
        "mean with its 95% t interval. Main effects alone, in the ranges that were searched.",
        _arms.scope(study, study.arms),
    ]
    return " ".join(text for text in parts if text)
