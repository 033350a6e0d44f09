"""`stability`: what fails, and where? The share of seeds that finished, at every learning rate."""

import math
from collections.abc import Sequence

import matplotlib
import pandas as pd

from normbench.report import reported
from normbench.report.captions import scope
from normbench.report.figures import Drawn, NotDrawn
from normbench.report.heatmap import Cell, Heatmap, blocks, words
from normbench.report.sheet import flow, page_names
from normbench.report.study import Study
from normbench.report.style import RC
from normbench.report.tables import cell_text, natural

CELL = (0.42, 0.24)  # inches
MOST_RATES = 12  # of more, as in a random search, half decades are the columns
PALE, DARK = 0.95, 0.25  # grey of a cell in which every run, or none, finished


def draw(study: Study) -> list[Drawn]:
    """A table of cells, rows norm x clipping, columns learning rates, for every optimizer and whatever else varies.

    Raises:
        NotDrawn: no run diverged.
    """
    if not (study.used["state"] == "diverged").any():
        raise NotDrawn("needs at least one diverged run, found none")
    table, binned = _table(study)
    maps = []
    for title, part in table.groupby("facet", sort=False):
        cells = {
            (str(one["row"]), str(one["lr"])): _cell(one["n_finished"], one["n"]) for one in part.to_dict("records")
        }
        columns = list(dict.fromkeys(part.sort_values("at", kind="stable")["lr"]))
        label = "Learning rate"
        maps += blocks(
            Heatmap(str(title), "Runs finished", list(dict.fromkeys(part["row"])), columns, cells, CELL, label)
        )
    with matplotlib.rc_context(RC):
        pages = flow(maps)
    found = []
    for name, (sheet, placed) in zip(page_names("stability", len(pages)), pages, strict=True):
        own = table[table["facet"].isin({block.title for block in placed})].drop(columns="at")
        found.append(Drawn(name, sheet.figure, _caption(study, own, binned), own.reset_index(drop=True)))
    return found


def _table(study: Study) -> tuple[pd.DataFrame, bool]:
    """One row a cell: where it is, how many runs it has and how many of them finished. And whether rates are binned."""
    rows = [key for key in study.keys if key.partition(".")[0] in ("norm", "clip")]
    rest = [key for key in study.keys if key not in rows]
    several = [key for key in rest if len({str(arm.setting[key]) for arm in study.arms}) > 1]
    full = pd.concat([arm.runs.assign(arm=number) for number, arm in enumerate(study.arms)])
    binned = bool(full.groupby("optimizer")["lr"].nunique().max() > MOST_RATES)
    full["at"] = [_half_decade(lr) if binned else lr for lr in full["lr"]]
    found = []
    for (number, at), part in full.groupby(["arm", "at"]):
        setting = study.arms[int(number)].setting  # type: ignore[arg-type]
        title = ", ".join(words(setting, several, "")) if several else ""
        order = (natural(setting[key] for key in rest), natural(setting[key] for key in rows), at)
        lost = int((part["state"] == "diverged").sum())
        found.append(
            {"order": order, "facet": title, "row": " ".join(words(setting, rows, "norm")), "at": at,
             "lr": _label(float(at), binned), "n": len(part), "n_finished": len(part) - lost}
        )  # fmt: skip
    return pd.DataFrame(sorted(found, key=lambda one: one["order"])).drop(columns="order"), binned


def _half_decade(lr: float) -> float:
    return math.floor(2 * math.log10(lr) + 1e-9) / 2 if lr > 0 else -math.inf


def _label(at: float, binned: bool) -> str:
    if at in (0.0, -math.inf) and not (binned and at == 0.0):
        return "none"  # an optimizer without a learning rate
    return f"{10**at:.1g}–\n{10 ** (at + 0.5):.1g}" if binned else cell_text(at)


def _cell(finished: int, n: int) -> Cell:
    level = round(255 * (DARK + (PALE - DARK) * finished / n))
    return Cell(f"{finished}/{n}", f"#{level:02x}{level:02x}{level:02x}", hatched=finished < n)


def _caption(study: Study, own: pd.DataFrame, binned: bool) -> str:
    counts: Sequence[int] = own["n"].tolist()
    lost = int((own["n"] - own["n_finished"]).sum())
    parts = [
        "Runs that finished, of all that were run, for each norm and clipping rule (rows) and learning rate (columns"
        + (", half decades)" if binned else ")")
        + f"; {'runs' if binned else reported.seeds(counts)} {'differ in seed and rate' if binned else 'a cell'}.",
        f"Hatched: some diverged ({lost} of {sum(counts)} runs), the darker the more.",
        scope(study.used),
        "Runs that failed or were interrupted are not counted. A dash: not run.",
    ]
    return " ".join(part for part in parts if part)
