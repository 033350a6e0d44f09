"""`answers`: what the runs answer to each question of a claim: every seed of both sides, the difference or ratio."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes

from normbench.report import answers as answered
from normbench.report import captions, panels
from normbench.report.answers import CONTRADICTED, SUPPORTED, TESTED, UNDECIDED, Answer
from normbench.report.figures import Drawn, NotDrawn
from normbench.report.figures._claimed import claim_of
from normbench.report.figures._sheet import fitted, note, pages, wrapped
from normbench.report.measures import NAMES
from normbench.report.sheet import Sheet
from normbench.report.state import TIME_MARGIN
from normbench.report.study import Study
from normbench.report.style import NORMS, RC, WIDTH, text_color

MOST = 12  # questions a figure
HEAD, PANEL, FOOT = 0.34, 0.4, 0.32  # inches
NAME, VALUES, GAP, EFFECT = 1.75, 2.15, 0.35, 2.3
SMALL = 7.5  # points
GREY, BLUE = "#555555", "#0072B2"
TONES = {SUPPORTED: "#116329", CONTRADICTED: "#a40e26", UNDECIDED: "#57606a"}


def draw(study: Study) -> list[Drawn]:
    """A row a question, in the order asked; of a time, a row a target.

    Raises:
        NotDrawn: the runs test no claim, or one that asks nothing.
    """
    found = answered.answers(study, claim_of(study))
    if not found:
        raise NotDrawn("needs a claim that asks something, found one with a published number alone")
    with rc_context(RC):
        return [_page(name, page, study) for name, page in pages("answers", found, MOST, "questions")]


def _page(name: str, page: Sequence[Answer], study: Study) -> Drawn:
    pitch = HEAD + PANEL + FOOT
    sheet = Sheet(pitch * len(page) + 0.02)
    rows: list[dict[str, Any]] = []
    for number, answer in enumerate(page):
        top = pitch * number
        _title(sheet, answer, top)
        left = sheet.axes(NAME, top + HEAD, VALUES, PANEL)
        right = sheet.axes(NAME + VALUES + GAP, top + HEAD, EFFECT, PANEL)
        _values(left, answer)
        _effect(right, answer)
        rows += _rows(answer)
    return Drawn(name, sheet.figure, _caption(page, study), pd.DataFrame(rows))


def _title(sheet: Sheet, answer: Answer, top: float) -> None:
    name = NAMES.get(answer.question.measure, "")
    if answer.row.effect_kind == "ratio":
        unit, _, goal = answer.row.metric.partition("_to_")
        name = f"{unit.replace('_', ' ')} to {100 * float(goal):g}%" if goal else unit.replace("_", " ")
    said = ", ".join(text for text in (f"{name[:1].upper()}{name[1:]}", answer.where) if text)
    verdict = f"{TESTED[answer.verdict]} {answer.verdict}"
    size = fitted(said, WIDTH - 1.25, "bold")
    sheet.text(0.02, top + 0.03, said, weight="bold", fontsize=size)
    sheet.text(WIDTH - 0.02, top + 0.03, verdict, ha="right", weight="bold", color=TONES[answer.verdict])


def _colors(answer: Answer) -> tuple[str, str]:
    """Of `of` and `than`: their norms', where that is what they differ in."""
    sides = (answer.question.of.split(), answer.question.than.split())
    names = [next((word[5:] for word in side if word.startswith("norm=")), None) for side in sides]
    if None in names or names[0] == names[1]:
        return BLUE, GREY
    first, second = (NORMS.get(str(name), (GREY, ""))[0] for name in names)
    return first, second


def _scale(answer: Answer) -> float:
    return 100.0 if answer.row.metric == "test_acc" else 1.0


def _values(axis: Axes, answer: Answer) -> None:
    """A dot a seed, `than` below `of`; a line joins those of one seed."""
    of, than = ({s: v * _scale(answer) for s, v in side.items() if math.isfinite(v)} for side in answer.sides)
    timed = answer.row.effect_kind == "ratio"
    for seed in sorted(of.keys() & than.keys()):
        axis.plot([than[seed], of[seed]], [0, 1], color=GREY, linewidth=0.5, alpha=0.6, label=f"_pair {seed}")
    for y, side, color in zip((1, 0), (of, than), _colors(answer), strict=True):
        axis.plot(list(side.values()), [y] * len(side), "o", color=color, markersize=3.6, markeredgecolor="white",
                  markeredgewidth=0.4, clip_on=False, zorder=3, label=f"_side {y}")  # fmt: skip
    axis.set_ylim(-0.45, 1.45)
    words = answer.question.of, answer.question.than
    for y, typed, color in zip((1, 0), words, _colors(answer), strict=True):
        text = wrapped(typed.replace(",", ", "), NAME - 0.12, 3, SMALL)
        note(axis, text, (0, (y + 0.45) / 1.9), (-4, 0), ha="right", va="center", color=text_color(color),
             fontsize=fitted(text, NAME - 0.12, size=SMALL), linespacing=1.0)  # fmt: skip
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    _limits(axis, [*of.values(), *than.values()], timed)
    if timed and (lost := answer.row.censored_a + answer.row.censored_b):
        b, a = answer.row.censored_b, answer.row.censored_a
        note(axis, f"not reached: {b} above, {a} below" if b and a else f"not reached: {lost}", (1, 1), (0, 2),
             ha="right", va="bottom", color=GREY, fontsize=6.5)  # fmt: skip
    unit = " (%)" if _scale(answer) == 100 else " (log scale)" if timed else ""
    axis.set_xlabel(f"Single seeds{unit}", labelpad=1, fontsize=7)


def _limits(axis: Axes, values: Sequence[float], log: bool) -> None:
    if not values:
        axis.set_xlim(0, 1)
        axis.set_xticks([])
        return
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.08, 1.05)
        axis.set_xscale("log")
        axis.set_xlim(low / room, high * room)
        panels.plain_log_ticks(axis, "x", fewest=3, most=6)
    else:
        room = 0.08 * (high - low) or 0.05 * abs(high) or 0.1
        axis.set_xlim(low - room, high + room)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10]))


def _effect(axis: Axes, answer: Answer) -> None:
    """The estimate with its interval, the line of no effect, and in grey what would not matter."""
    row, scale = answer.row, _scale(answer)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_ylim(0, 1)
    timed = row.effect_kind == "ratio"
    axis.set_xlabel(
        "Ratio of times, above 1: sooner (log scale)" if timed else "Difference" + " in pp" * (scale == 100),
        labelpad=1,
        fontsize=7,
    )
    if not math.isfinite(row.effect):
        axis.set_xticks([])
        axis.text(
            0.0,
            0.5,
            wrapped(f"not told: {answer.why}", EFFECT, 3, 7),
            transform=axis.transAxes,
            va="center",
            fontsize=7,
            color=GREY,
        )
        return
    none = 1.0 if timed else 0.0
    margin = (1 / TIME_MARGIN, TIME_MARGIN) if timed else (-answer.margin * scale, answer.margin * scale)
    ends = [
        row.effect * scale,
        *(v * scale for v in (row.ci_low, row.ci_high) if math.isfinite(v) and (v > 0 or not timed)),
    ]
    _limits(axis, [*ends, none, *margin], timed)
    axis.axvspan(*margin, color="#e4e4e4", zorder=0, linewidth=0)
    axis.axvline(none, color=GREY, linewidth=0.8, zorder=1)
    low, high = axis.get_xlim()
    found = zip((row.ci_low, row.ci_high), (low, high), strict=True)
    line = np.clip([v * scale if math.isfinite(v) else end for v, end in found], low, high)
    tone = TONES[answer.verdict]
    axis.plot(line, [0.5, 0.5], color=tone, linewidth=1.4, solid_capstyle="butt", label="_interval")
    axis.plot([row.effect * scale], [0.5], "D", color=tone, markersize=4.2, label="_effect")
    text = answer.effect
    note(axis, text, (0.5, 1), (0, 2), ha="center", va="bottom", fontsize=fitted(text, EFFECT, size=SMALL))


def _rows(answer: Answer) -> list[dict[str, Any]]:
    q, row = answer.question, answer.row
    shared = {"measure": q.measure, "metric": row.metric, "where": answer.where, "verdict": answer.verdict}
    ends = {"effect": row.effect, "ci_low": row.ci_low, "ci_high": row.ci_high}
    sides: list[tuple[str, Mapping[int, float]]] = [(q.of, answer.sides[0]), (q.than, answer.sides[1])]
    return [shared | {"side": s, "seed": seed, "value": v} | ends for s, values in sides for seed, v in values.items()]


def _caption(page: Sequence[Answer], study: Study) -> str:
    timed = [answer.row.effect_kind == "ratio" for answer in page]
    parts = [
        "What was asked, and what the runs answer. Left: a dot a seed for both sides, those of one seed joined; right: "
        "the difference, upper side minus lower one, with its 95% interval. Grey: less than matters.",
        "Of times the ratio, above 1 where the upper side is the faster." if any(timed) else "",
        captions.scope(study.used),
    ]
    return " ".join(text for text in parts if text)
