"""`stability`: what fails, and where? The share of seeds that finished, at every learning rate."""

import math
from collections.abc import Sequence

import matplotlib
import pandas as pd

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
        columns = _columns(sorted(set(part["at"])), binned)
        rows = list(dict.fromkeys(part["row"]))
        maps += blocks(Heatmap(str(title), "Runs finished", rows, columns, cells, CELL, xlabel="Learning rate"))
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
    rest = [key for key in study.keys if key not in rows and not key.startswith("optimizer.")]
    several = [key for key in rest if len({str(arm.setting[key]) for arm in study.arms}) > 1]
    full = pd.concat([arm.runs.assign(arm=number) for number, arm in enumerate(study.arms)])
    binned = bool(full.groupby("optimizer")["lr"].nunique().max() > MOST_RATES)
    full["at"] = [_half_decade(lr) if binned else lr for lr in full["lr"]]
    lost: dict[tuple, list[bool]] = {}
    for number, at, state in zip(full["arm"], full["at"], full["state"], strict=True):
        setting = study.arms[number].setting
        lost.setdefault((*(setting[key] for key in (*rest, *rows)), float(at)), []).append(state == "diverged")
    found = []
    for cell in sorted(lost, key=natural):
        setting, at = dict(zip((*rest, *rows), cell[:-1], strict=True)), cell[-1]
        found.append(
            {"facet": ", ".join(words(setting, several, "")), "row": ", ".join(words(setting, rows, "norm")), "at": at,
             "lr": _label(at, binned), "n": len(lost[cell]), "n_finished": len(lost[cell]) - sum(lost[cell])}
        )  # fmt: skip
    return pd.DataFrame(found), binned


def _columns(at: Sequence[float], binned: bool) -> list[str]:
    """The rates as labels; half decades without a gap, also where nothing was run."""
    finite = [value for value in at if value > -math.inf]
    if binned and finite:
        between = [finite[0] + 0.5 * n for n in range(int(2 * (finite[-1] - finite[0])) + 1)]
        at = [value for value in at if value == -math.inf] + between
    return [_label(value, binned) for value in at]


def _half_decade(lr: float) -> float:
    return math.floor(2 * math.log10(lr) + 1e-9) / 2 if lr > 0 else -math.inf


def _label(at: float, binned: bool) -> str:
    if at in (0.0, -math.inf) and not (binned and at == 0.0):
        return "none"  # an optimizer without a learning rate
    return f"{_short(at)}–\n{_short(at + 0.5)}" if binned else cell_text(at)


def _short(exponent: float) -> str:
    return f"{float(f'{10**exponent:.1g}'):g}"  # 0.3, 1, 3, 10


def _cell(finished: int, n: int) -> Cell:
    level = round(255 * (DARK + (PALE - DARK) * finished / n))
    return Cell(f"{finished}/{n}", f"#{level:02x}{level:02x}{level:02x}", hatched=finished < n)


def _caption(study: Study, own: pd.DataFrame, binned: bool) -> str:
    counts: Sequence[int] = own["n"].tolist()
    lost = int((own["n"] - own["n_finished"]).sum())
    other = [key for key in study.keys if key.startswith("optimizer.")]
    several = f"{min(counts)}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    differ = ["seed", *(["learning rate"] if binned else []), *other]
    parts = [
        "Runs that finished, of all that were run, for each norm and clipping rule (rows) and learning rate (columns"
        + (", half decades)." if binned else ").")
        + f" {several} {'run' if several == '1' else 'runs'} a cell, which differ in {', '.join(differ)}.",
        f"Hatched: some diverged ({lost} of {sum(counts)} runs), the darker the more.",
        scope(study.used),
        "Runs that failed or were interrupted are not counted. A dash: not run.",
    ]
    return " ".join(part for part in parts if part)
