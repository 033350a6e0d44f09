"""Captions, made from what was drawn: complete without the report around them, the same in every format. Pure."""

from collections.abc import Mapping, Sequence

import pandas as pd

from normbench.report.facets import Row
from normbench.report.panels import Points
from normbench.report.tables import cell_text

MOST_SEED_LINES = 200  # a figure: more are neither seen apart nor quickly drawn
MOST_DOTS = 2000  # a figure, for the same reason


def seeds_drawn(page: Sequence[Row], panels: int = 2) -> int:
    """How many seeds of a line are drawn in each panel of this page, of so many panels a row."""
    return max(1, MOST_SEED_LINES // (panels * sum(len(row.lines) for row in page)))


def dots_drawn(counts: Sequence[int], each: int = 1) -> int:
    """How many seeds of each row or line are drawn, whose dots are `each`: of `counts` seeds the first so many."""
    return max(1, min(MOST_DOTS // (each * max(1, len(counts))), max(counts, default=1)))


def first(few: int, noun: str) -> str:
    return f"the first {noun}" if few == 1 else f"the first {few} {noun}s"


def seed_lines(n: str, most: int, few: int) -> tuple[str, str]:
    """What thin lines and thick ones are; n: "3 to 5" or "3 to 5 seeds", at most `most`, the first `few` are drawn."""
    if most > few:
        return f"the first {few} of {n.removesuffix(' seeds')} seeds", "the mean of all"
    return f"single seeds ({n} a setting)", "their mean"


def curves_caption(
    page: Sequence[Row], runs: pd.DataFrame, accuracy: Mapping[str, Points], loss: Mapping[str, Points],
    limits: Sequence[tuple[float, float]],
) -> str:  # fmt: skip
    """All that a reader needs to read the figure without the report around it."""
    ids = {i for row in page for line in row.lines for i in line.run_ids}
    own = runs[runs["run_id"].isin(ids)]
    counts = sorted({len(line.run_ids) for row in page for line in row.lines})
    parts = ["Validation accuracy (left) and training loss (right) against optimizer steps."]
    if counts == [1]:
        parts.append("Each line is a single run, of one seed.")
    else:
        n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        thin, thick = seed_lines(n, counts[-1], seeds_drawn(page))
        parts.append(f"Thin lines: {thin}; thick lines: {thick}.")
    parts.append(scope(own))
    drawn = [line for row in page for line in row.lines]
    if len(set(drawn)) < len(drawn):
        parts.append("Lines that belong in several rows are repeated in each.")
    parts.append("Training loss: mean over the steps since the point before. No smoothing.")
    below, first, count = _outside(page, accuracy, limits[::2])
    if below:
        parts.append(f"{below} of {count} accuracies lie below the axis ({first} of them at step 0).")
    above, _, count = _outside(page, loss, limits[1::2])
    if above:
        parts.append(f"{above} of {count} losses lie above the axis.")
    diverged = int((own["state"] == "diverged").sum())
    if diverged:
        parts.append(
            f"Crosses: {diverged} diverged {'run' if diverged == 1 else 'runs'}, at the last finite point (on the edge "
            "where that lies outside); means end there."
        )
    return " ".join(parts)


def scope(own: pd.DataFrame) -> str:
    """What data, model and budget the lines are about; what varies is in the rows' titles."""
    said = []
    for key, form in (
        ("model", "model {}"),
        ("dataset", "on {}"),
        ("epochs", "{} epochs" if own["epochs"].dropna().ne(1).any() else "{} epoch"),
        ("batch_size", "batch size {}"),
    ):
        if own[key].nunique() == 1:
            said.append(form.format(cell_text(own[key].dropna().iloc[0])))
    if own["optimizer"].nunique() == 1:
        said.append(f"optimizer {own['optimizer'].iloc[0]}")
    rates = {name: sorted(set(part["lr"].dropna())) for name, part in own.groupby("optimizer")}
    if all(len(lrs) == 1 for lrs in rates.values()):
        texts = sorted({(name, cell_text(float(lrs[0]))) for name, lrs in rates.items()})
        one = len({lr for _, lr in texts}) == 1
        said.append(f"lr {texts[0][1]}" if one else "lr " + ", ".join(f"{lr} ({name})" for name, lr in texts))
    text = ", ".join(said)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _outside(page: Sequence[Row], points: Mapping[str, Points], limits: Sequence[tuple[float, float]]) -> list[int]:
    """Of the points drawn: how many lie outside their axis, how many of those at step 0, and how many there are."""
    outside, first, count = 0, 0, 0
    for row, (low, high) in zip(page, limits, strict=True):
        for x, y in (points[i] for line in row.lines for i in line.run_ids if i in points):
            out = (y < low) | (y > high)
            outside, first, count = outside + int(out.sum()), first + int((out & (x == 0)).sum()), count + len(y)
    return [outside, first, count]
