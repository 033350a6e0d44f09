"""`ghosts`: Wu & He's figure 1 with ghost batches beside it: test error against how many images make the statistics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes

from normbench.report import stats
from normbench.report.arms import Arm
from normbench.report.figures import Drawn, NotDrawn, _arms
from normbench.report.figures._claimed import claim_of
from normbench.report.figures._sheet import Sheet, columns, legend, legend_height, pages, sheet_width
from normbench.report.study import Study
from normbench.report.style import RC, mean_look, norm_looks
from normbench.report.tables import cell_text, natural

SIZE, GHOST = "batch_size", "norm.ghost_size"
MOST = 4  # panels a figure
HEIGHT, LEFT, HEAD, FOOT = 1.9, 0.42, 0.4, 0.42  # inches
SHIFT = 1.018  # from one line's marks to the next one's, which would else hide each other
PAPER = (
    "After Wu & He 2018, figure 1: there ResNet-50 on ImageNet, 32 to 2 images a GPU, the learning rate in proportion "
    "to the batch, validation error. Here every point has its own best rate, and sees as many images."
)
Line = tuple[str, Mapping[str, Any], list[tuple[int, Arm]]]  # words, look, arms by the images of their statistics


def draw(study: Study) -> list[Drawn]:
    """A panel a model (and what else varies), a line a norm over batch sizes, and a broken one over ghost batches.

    Raises:
        NotDrawn: no claim, one batch size, or no ghost batches.
    """
    claim_of(study)
    if not {SIZE, GHOST} <= set(study.keys):
        raise NotDrawn(f"needs several batch sizes, and ghost batches ({GHOST}) of one of them")
    rest = [k for k in study.keys if k not in (SIZE, GHOST, "norm") and not k.startswith("norm.")]
    cells: dict[tuple, list[Arm]] = {}
    for arm in study.arms:
        cells.setdefault(tuple(arm.setting[k] for k in rest), []).append(arm)
    varied = [i for i, k in enumerate(rest) if len({str(cell[i]) for cell in cells}) > 1]
    panels = [
        (_arms.words({rest[i]: cell[i] for i in varied}), _lines(study, arms))
        for cell, arms in sorted(cells.items(), key=lambda item: natural(item[0]))
    ]
    with rc_context(RC):
        return [_page(study, name, page) for name, page in pages("ghosts", panels, MOST, "panels")]


def _lines(study: Study, arms: Sequence[Arm]) -> list[Line]:
    looks = norm_looks(study.norms)
    found: list[Line] = []
    for norm in sorted({arm.norm for arm in arms}, key=lambda name: natural([name])):
        own = [arm for arm in arms if arm.norm == norm]
        whole = [(int(arm.setting[SIZE]), arm) for arm in own if not _ghost(arm)]
        found.append((norm, mean_look(norm, looks), sorted(whole, key=lambda item: item[0])))
        for size in sorted({int(arm.setting[SIZE]) for arm in own if _ghost(arm)}):
            parts = [(_ghost(arm) or size, arm) for arm in own if int(arm.setting[SIZE]) == size]
            look = mean_look(norm, looks, (0, (2.5, 1.5))) | {"markerfacecolor": "white", "markeredgewidth": 0.9}
            found.append((f"{norm}, batches of {size} in parts", look, sorted(parts, key=lambda item: item[0])))
    return found


def _ghost(arm: Arm) -> int:
    return int(arm.setting[GHOST] or 0)


def _page(study: Study, name: str, page: Sequence[tuple[str, list[Line]]]) -> Drawn:
    looks = {words: look for _, lines in page for words, look, _ in lines}
    wide = columns(len(page))
    top = legend_height([looks], sheet_width(len(page), wide))
    sheet = Sheet(len(page), wide, HEIGHT, left=LEFT, head=HEAD, foot=FOOT, top=top)
    legend(sheet.figure, [looks])
    rows: list[dict[str, Any]] = []
    for axis, (title, lines) in zip(sheet.axes, page, strict=True):
        sheet.heading(axis, title)
        sizes = sorted({at for *_, line in lines for at, _ in line})
        axis.set_xscale("log", base=2)
        for number, (words, look, line) in enumerate(lines):
            rows += _draw(axis, words, line, look, title, SHIFT ** (number - (len(lines) - 1) / 2))
        axis.set_xlim(sizes[-1] * 1.25, sizes[0] / 1.25)  # as in the paper, from large to small
        axis.xaxis.set_major_locator(ticker.FixedLocator(sizes))
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.0f}"))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_ylabel("Test error (%)", rotation=0, ha="left", va="bottom")
        axis.yaxis.set_label_coords((0.03 - LEFT) / sheet.panel, 1.03)
        if axis in sheet.last:
            axis.set_xlabel("Images a batch, or a part of it (log scale)", labelpad=2)
    arms = [arm for _, lines in page for *_, line in lines for _, arm in line]
    return Drawn(name, sheet.figure, _caption(study, arms), pd.DataFrame(rows))


def _draw(
    axis: Axes, words: str, line: Sequence[tuple[int, Arm]], look: Mapping[str, Any], title: str, shift: float
) -> list[dict]:
    rows, means = [], []
    for at, arm in line:
        errors = {seed: 100 * (1 - score) for seed, score in arm.column("test_score", arm.reported).items()}
        axis.plot([at * shift] * len(errors), list(errors.values()), "o", color=look["color"], alpha=0.45,
                  markersize=2.2, markeredgewidth=0, label=f"_run {words}")  # fmt: skip
        mean = stats.mean(sorted(errors.values()))
        means.append((at * shift, mean.estimate, mean.low, mean.high))
        rows += [{"panel": title, "line": words, "images": at, "rate": _rate(arm), "seed": s, "test_error": e / 100}
                 for s, e in errors.items()]  # fmt: skip
    x, y, low, high = np.array(means, float).T
    axis.vlines(x, low, high, color=look["color"], linewidth=1.0, alpha=0.7, label=f"_interval {words}")
    axis.plot(x, y, **look, label=words)
    return rows


def _rate(arm: Arm) -> str:
    """The setting that all seeds together choose."""
    return ", ".join(map(cell_text, arm.selection.best)) if arm.selection else ""


def _caption(study: Study, arms: Sequence[Arm]) -> str:
    lost = sum(arm.diverged(arm.reported) for arm in arms)
    n = _arms.counted(len(arm.reported) for arm in arms)
    parts = [
        "Test error after the last step against how many images make the statistics. Small dots: single seeds "
        f"(n = {n} a point); lines: their mean; bars: its 95% t interval. Lines: the batch size, which changes the "
        "gradients and the number of steps, too; broken lines: batches of one size, normalized in parts (ghost "
        "batches), so that "
        "the statistics alone change.",
        f"{lost} diverged runs count as guessing." if lost else "",
        _arms.tuning(study, arms, "Each point"),
        _arms.scope(study, arms),
        PAPER,
    ]
    return " ".join(text for text in parts if text)
