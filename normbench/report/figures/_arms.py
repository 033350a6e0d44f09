"""What several figures draw of arms: their looks, their place, and what a caption says of their tuning. Pure."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from normbench.report import captions, facets, tables
from normbench.report.arms import Arm
from normbench.report.figures import NotDrawn
from normbench.report.figures._sheet import Sheet, fitted, legend, legend_height, note, sheet_width
from normbench.report.planning import FEWEST
from normbench.report.selection import HOW, noun
from normbench.report.study import Contrast, Study
from normbench.report.style import HOLLOW, norm_looks, text_color, text_width

UNITS = {"step": "Optimizer steps", "examples": "Training examples", "train_s": "Seconds of training"}
STRIP = 0.11  # inches; a line of the numbers above a panel
Group = tuple[str, list[tuple[str, list[Arm]]]]  # title of a panel, and the norm of each of its lines with its arms


def dot(study: Study, arm: Arm) -> dict[str, Any]:
    """How a mark of this arm looks."""
    color, marker = norm_looks(study.norms)[arm.norm]
    hollow = arm.norm in HOLLOW
    # a white edge keeps marks apart that lie on each other
    face = {"markerfacecolor": "white", "markeredgewidth": 0.9} if hollow else {"markeredgecolor": "white"}
    size = 7.0 if marker == "*" else 4.4
    return {"color": color, "marker": marker, "linestyle": "none", "markersize": size, "markeredgewidth": 0.4} | face


def words(setting: Mapping[str, Any]) -> str:
    """A setting as one would type it, without keys that do not apply."""
    return ", ".join(f"{key}={tables.cell_text(value)}" for key, value in setting.items() if value != "")


def groups(study: Study, arms: Sequence[Arm], along: str) -> list[Group]:
    """Panels of lines, one a norm; each optimizer, and what else varies, has panels of its own.

    An arm belongs to the line of the arms that differ in nothing but `along`, the key that the x axis runs over.
    """
    lines: dict[tuple, list[Arm]] = {}
    for arm in arms:
        lines.setdefault(tuple(str(v) for k, v in arm.setting.items() if k != along), []).append(arm)
    firsts = [line[0] for line in lines.values()]
    made = [list(line) for line in lines.values()]
    varied = [k for k in study.keys if k != along and len({str(a.setting[k]) for a in firsts}) > 1]
    setting = pd.DataFrame([{k: a.setting[k] for k in varied} for a in firsts], range(len(firsts)), varied, object)
    frame = pd.DataFrame(
        {"run_id": map(str, range(len(firsts))), "seed": 0, "norm": [a.norm for a in firsts],
         "optimizer": [a.optimizer for a in firsts]}
    )  # fmt: skip
    found: list[Group] = []
    for optimizer in sorted(set(frame["optimizer"])):
        kept = frame[frame["optimizer"] == optimizer]
        said = f"optimizer={optimizer}" * ("optimizer" in varied)
        rest = setting.loc[kept.index].drop(columns="optimizer", errors="ignore")
        for row in facets.rows(kept, rest):
            title = ", ".join(text for text in (said, row.title) if text)
            inside = [made[int(i)] for line in row.lines for i in line.run_ids]
            found.append((title, [(line[0].norm, line) for line in inside]))
    return found


def without_key(titles: Sequence[str]) -> list[str]:
    """`sgd`, `adam` of `optimizer=sgd`, `optimizer=adam`: the values, where all are of one group."""
    keys = {title.split("=")[0] for title in titles}
    plain = keys in ({"optimizer"}, {"clip"}) and not any("," in title for title in titles)
    return [title.partition("=")[2] if plain else title for title in titles]


def compared(study: Study, seeds_of: Callable[[Arm], Iterable[int]]) -> dict[int, list[int]]:
    """Index of each contrast with at least FEWEST shared seeds -> those seeds.

    Raises:
        NotDrawn: there is none.
    """
    if not study.contrasts:
        raise NotDrawn("needs a baseline and a variant, found one setting" if study.arms else "needs runs, found none")
    shared = [sorted({*seeds_of(c.baseline)} & {*seeds_of(c.variant)}) for c in study.contrasts]
    if (most := max(map(len, shared))) < FEWEST:
        raise NotDrawn(f"needs >={FEWEST} seeds that baseline and variant share, found {most}")
    return {i: some for i, some in enumerate(shared) if len(some) >= FEWEST}


def arm_name(study: Study, contrast: Contrast, arm: Arm) -> str:
    """The arm by what it differs in from the other one."""
    own = [k for k in study.keys if k == contrast.key or k.startswith(f"{contrast.key}.")]
    if contrast.key in ("norm", "optimizer"):
        rest = words({k: arm.setting[k] for k in own if k != contrast.key and _varies(study, k)})
        return ", ".join(text for text in (tables.cell_text(arm.setting[contrast.key]), rest) if text)
    return words({k: arm.setting[k] for k in own})


def _varies(study: Study, key: str) -> bool:
    return len({str(arm.setting[key]) for arm in study.arms}) > 1


def scope(study: Study, arms: Iterable[Arm]) -> str:
    """Data, model and budget, as far as the arms share them."""
    ids = [i for arm in arms for i in arm.runs["run_id"]]
    return captions.scope(study.used[study.used["run_id"].isin(ids)])


def tuning(study: Study, arms: Iterable[Arm], what: str = "Each setting") -> str:
    """At which setting each arm is shown, and on which seeds it was chosen; "" where nothing is shown."""
    chosen = [arm.selection for arm in arms if arm.selection]
    if not chosen:
        return ""
    if {s.n_settings for s in chosen} == {1}:
        return f"{what} at its one {noun(study.options.tuned)[:-1]}, not tuned."
    how = HOW | {"tune/confirm": f"chosen on {seeds(study.options.tune_seeds or ())}"}
    ways = " or ".join(dict.fromkeys(text for s in chosen if (text := how[s.how])))
    n = counted(s.n_finished for s in chosen)
    return f"{what} at its own best of {n} {noun(study.options.tuned)} by final validation accuracy ({ways})."


def seeds(numbers: Iterable[int]) -> str:
    """As in `seeds 0-4`, `seed 3`, `seeds 1, 5, 9`."""
    some = sorted(set(numbers))
    if len(some) > 2 and some[-1] - some[0] == len(some) - 1:
        return f"seeds {some[0]}-{some[-1]}"
    return f"seed{'s' * (len(some) != 1)} {', '.join(map(str, some))}"


def repeated(panels: Iterable[Group]) -> str:
    """Says so where a line is in several panels."""
    shown = [id(arm) for _, lines in panels for _, line in lines for arm in line]
    return "Lines that belong in several panels are repeated in each." if len(set(shown)) < len(shown) else ""


def counted(counts: Iterable[int]) -> str:
    """`6`, or `3 to 6`."""
    some = sorted(set(counts))
    return f"{some[0]}" if len(some) == 1 else f"{some[0]} to {some[-1]}"


# for a line with diverged runs: its name, its colour, and at each x how many of how many diverged
Strip = list[tuple[str, str, dict[float, tuple[int, int]]]]


def strip_left(strips: Iterable[Strip], least: float) -> float:
    """Inches left of a panel that the names of its strip need."""
    widest = max((text_width(name, 6.5) for strip in strips for name, *_ in strip), default=0.0)
    return max(least, min(1.04 * widest + 0.12, 1.6))


def strip_sheet(
    page: Sequence[Group], strips: Sequence[Strip], blocks: Sequence[Mapping[str, Mapping[str, Any]]], *, columns: int,
    height: float, left: float, foot: float,
) -> Sheet:  # fmt: skip
    """Panels with a heading each, room for the strips above them, and the legend. left: inches, at least."""
    left = strip_left(strips, left)
    head = 0.19 * any(title for title, _ in page) + 0.2 + strips_height(strips)
    top = legend_height(blocks, sheet_width(len(page), columns))
    sheet = Sheet(len(page), columns, height, left=left, head=head, foot=foot, top=top)
    legend(sheet.figure, blocks)
    for axis, (title, _) in zip(sheet.axes, page, strict=True):
        sheet.heading(axis, title)
        axis.yaxis.set_label_coords((0.03 - left) / sheet.panel, 1.03 + strips_height(strips) / height)
    return sheet


def strips_height(strips: Sequence[Strip]) -> float:
    """Inches above each panel of a page."""
    return STRIP * max(map(len, strips))


def draw_strip(axis: Axes, strip: Strip, left: float) -> None:
    """Above the panel, a line of text for each entry: how many of how many runs diverged at x."""
    texts, what = _strip_texts(axis, strip)
    for i, ((name, color, _), said_at) in enumerate(zip(reversed(strip), reversed(texts), strict=True)):
        up, look = 2.5 + STRIP * 72 * i, {"color": text_color(color), "va": "bottom"}
        size = fitted(name, left - 0.08, size=6.5)
        note(axis, name, (0, 1), (-3, up), ha="right", fontsize=size, **look)
        for x, said in said_at.items():
            note(axis, said, (x, 1), (0, up), ("data", "axes fraction"), ha="center", fontsize=6.5, **look)
    if strip:
        up = 3 + STRIP * 72 * len(strip)
        note(axis, what, (1, 1), (0, up), ha="right", va="bottom", fontsize=6.5, color="#555555")


def _strip_texts(axis: Axes, strip: Strip) -> tuple[list[dict[float, str]], str]:
    """What is written at each x, and above it: "2/5"; "2" where that is too wide and all are of as many runs; else
    the sum over all x, at their middle.
    """
    places = sorted({x for *_, counts in strip for x in counts})
    at = [axis.transData.transform((x, 1))[0] * 72 / axis.figure.dpi for x in places]
    room = min((b - a for a, b in itertools.pairwise(at)), default=math.inf) / 72
    sizes = {n for *_, counts in strip for _, n in counts.values()}
    full = [{x: f"{k}/{n}" for x, (k, n) in counts.items()} for *_, counts in strip]
    short = [{x: str(k) for x, (k, _) in counts.items()} for *_, counts in strip]
    for texts, what, fits in (
        (full, "diverged runs", True), (short, f"diverged runs of {min(sizes, default=0)}", len(sizes) == 1)
    ):  # fmt: skip
        widest = max((text_width(said, 6.5) for line in texts for said in line.values()), default=0.0)
        if fits and widest + 0.03 <= room:
            return texts, what
    sums = [[sum(values) for values in zip(*counts.values(), strict=True)] for *_, counts in strip]
    return [{places[len(places) // 2]: f"{k}/{n}"} for k, n in sums], "diverged runs, where any did"


def diverged_counts(rows: pd.DataFrame, x: str) -> dict[float, tuple[int, int]]:
    """`rows`: one a run, with its state; x -> how many of how many diverged, where any did."""
    bad = rows.assign(bad=rows["state"] == "diverged").groupby(x)["bad"].agg(["sum", "count"])
    return {float(at): (int(k), int(n)) for at, k, n in bad.itertuples() if k}
