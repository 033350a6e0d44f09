"""`search`: which knob matters? The final validation accuracy of every setting against each number that varied."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normbench.report import reported, search, stats
from normbench.report.captions import scope
from normbench.report.facets import norm_chunks
from normbench.report.figures import Drawn, NotDrawn
from normbench.report.knobs import MOST_SHARES, Knob, look, panel
from normbench.report.multiples import BETWEEN, GUTTER, LEFT, NAME, RIGHT, TICKS, XLABEL
from normbench.report.sheet import LINE, MOST_FIGURES, TALLEST, Sheet, legend_height, page_names, wrapped
from normbench.report.study import Study
from normbench.report.style import RC, WIDTH, norm_looks
from normbench.report.tables import cell_text, natural

NARROWEST = 0.05  # of the y axis
COLUMNS, PANEL = 3, 1.35  # panels side by side; inches
PITCH = NAME + PANEL + TICKS + XLABEL + BETWEEN


def draw(study: Study) -> list[Drawn]:
    """A panel a number that varied, a dot a setting (mean over its seeds), and the best of each bin as a step line.

    Raises:
        NotDrawn: fewer than two numbers varied, or there are too many facets.
    """
    table, keys = _table(study)
    if len(keys) < 2:
        raise NotDrawn(f"needs at least 2 numbers that vary (as optimizer.lr, batch_size), found {len(keys)}"
                       + (f" ({keys[0]})" if keys else ""))  # fmt: skip
    facets = _facets(table, keys)
    pages = _pages(facets)
    if len(pages) > MOST_FIGURES:
        raise NotDrawn(f"needs at most {MOST_FIGURES} pages of combinations of words that vary, found {len(pages)}")
    limits, looks = _limits(table), norm_looks(study.norms)
    found = []
    with matplotlib.rc_context(RC):
        for name, page in zip(page_names("search", len(pages)), pages, strict=True):
            own = pd.concat([part for _, part, _ in page])
            found.append(
                Drawn(
                    name,
                    _figure(page, limits, looks),
                    _caption(study, page, own, limits[0]),
                    own.reset_index(drop=True),
                )
            )
    return found


def _facets(table: pd.DataFrame, keys: Sequence[str]) -> list["Facet"]:
    """(title, settings, numbers that vary among them), with what each number explains in `share.KEY`, per norm."""
    found = []
    for title, part in table.groupby("facet", sort=False):
        knobs = [knob for key in keys if len((knob := _knob(part, key)).values) > 1]
        norms = sorted(set(part["norm"]), key=lambda norm: natural([norm]))
        chunks = norm_chunks(norms)
        for few in chunks:
            own = part[part["norm"].isin(few)]
            said = [str(title)] if title else []
            said += [f"norm={','.join(few)}"] if len(chunks) > 1 else []
            if knobs:
                found.append((", ".join(said), _with_shares(own, [knob.key for knob in knobs]), knobs))
    return found


def _with_shares(part: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    part = part.copy()
    for _, own in part.groupby("norm"):
        whole = [key for key in keys if own[key].notna().all()]
        for one in search.importance(own, whole, "val_acc_mean").to_dict("records"):
            part.loc[own.index, f"share.{one['setting']}"] = one["adjusted"]
    return part


def _table(study: Study) -> tuple[pd.DataFrame, list[str]]:
    """One row a setting, with its mean score over seeds; and which numbers varied."""
    runs = reported.tuning(study)
    if not len(runs):
        return pd.DataFrame(), []
    setting = study.setting.loc[runs.index]
    keys = [str(key) for key in setting if _is_number(setting[key])]
    words = [str(key) for key in setting if key not in keys and key != "norm"]
    several = [key for key in words if setting[key].nunique() > 1]
    rows = []
    for cell, part in runs.groupby([setting[key] for key in setting], sort=False):
        values = dict(zip(map(str, setting), cell, strict=True))
        scores = part["score"].astype(float)
        if np.isfinite(scores.to_numpy()).all():
            lost = int((part["state"] == "diverged").sum())
            facet = ", ".join(f"{key}={cell_text(values[key])}" for key in several if values[key] != "")
            numbers = {key: np.nan if values[key] == "" else values[key] for key in keys}
            order = natural(values[key] for key in (*several, "norm", *keys))
            mean = stats.mean(sorted(scores)).estimate
            rows.append({"order": order, "facet": facet, "norm": str(values["norm"]), **numbers, "n": len(part),
                         "n_diverged": lost, "val_acc_mean": mean})  # fmt: skip
    rows.sort(key=lambda row: row["order"])
    return pd.DataFrame(rows).drop(columns="order", errors="ignore"), keys


def _is_number(values: pd.Series) -> bool:
    own = values[values != ""]
    return own.nunique() > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in own)


def _knob(part: pd.DataFrame, key: str) -> Knob:
    return Knob(key, tuple(sorted(set(part[key].dropna()))))


# -------------------------------------------------------------------------------------------------------------- figure

Facet = tuple[str, pd.DataFrame, list[Knob]]


def _height(facet: Facet) -> float:
    lines = -(-len(facet[2]) // _columns([facet]))
    return LINE * len(_title(facet)) + lines * PITCH


def _columns(page: Sequence["Facet"]) -> int:
    most = max(len(knobs) for *_, knobs in page)
    return 2 if most in (2, 4) else min(most, COLUMNS)


def _title(facet: Facet) -> list[str]:
    return wrapped(facet[0], WIDTH - LEFT, weight="bold")


def _pages(facets: Sequence[Facet]) -> list[list[Facet]]:
    found: list[list[Facet]] = [[]]
    room = TALLEST - 0.6
    for facet in facets:
        if found[-1] and sum(map(_height, [*found[-1], facet])) > room:
            found.append([])
        found[-1].append(facet)
    return found


def _figure(page: Sequence[Facet], limits: tuple[float, float], looks: Mapping[str, tuple[str, str]]) -> Figure:
    norms = sorted({norm for _, part, _ in page for norm in part["norm"]}, key=lambda norm: natural([norm]))
    samples = {norm: look(norm, looks) | {"linewidth": 1.2} for norm in norms}
    legend = legend_height(samples, LEFT) + 0.04
    sheet = Sheet(legend + 0.16 + sum(map(_height, page)))
    sheet.legend(LEFT, 0, samples)
    sheet.text(LEFT, legend, "Validation accuracy")
    top = legend + 0.14
    columns = _columns(page)
    width = (WIDTH - LEFT - RIGHT - (columns - 1) * GUTTER) / columns
    for facet in page:
        for number, line in enumerate(_title(facet)):
            sheet.text(LEFT, top + LINE * number, line, weight="bold")
        start = top + LINE * len(_title(facet)) + NAME
        for number, knob in enumerate(facet[2]):
            down, along = divmod(number, columns)
            axis = sheet.axes(LEFT + along * (width + GUTTER), start + down * PITCH, width, PANEL)
            panel(axis, facet[1], knob, limits, looks)
        top += _height(facet)
    return sheet.figure


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Of the y axis: settings far below the others would squeeze what is compared; they stand on the lower edge."""
    y = table["val_acc_mean"].to_numpy(float)
    whole = y[table["n_diverged"].to_numpy(int) == 0] if (table["n_diverged"] == 0).any() else y
    low, high = float(np.quantile(whole, 0.1)), float(y.max())
    room = max(NARROWEST - (high - low), 0.0) / 2 + 0.06 * (high - low)
    return max(low - room, -0.01), min(high + room, 1.01)


def _caption(study: Study, page: Sequence[Facet], own: pd.DataFrame, low: float) -> str:
    lost, below = int((own["n_diverged"] > 0).sum()), int((own["val_acc_mean"] < low).sum())
    shares = any(len(set(part["norm"])) <= MOST_SHARES for _, part, _ in page)
    parts = [
        "Final validation accuracy of every setting tried against each number that varied; dots: settings "
        f"(mean over {reported.seeds(own['n'].tolist())}), lines: the best of each bin, or of each value.",
        "Percentages: the share of the variance that a number explains alone, per norm (between bins, less what chance "
        "explains; main effects, in the ranges searched)."
        if shares
        else "",
        scope(study.used),
        f"Crosses: {reported.several(lost, 'setting')} with a diverged run, which counts as guessing." if lost else "",
        f"On the lower edge: {reported.several(below, 'setting')} below the axis." if below else "",
    ]
    return " ".join(part for part in parts if part)
