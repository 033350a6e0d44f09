"""The tables of a report: which settings were compared, and what came out of each. Pure: tables in, tables out."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from normbench.report.collect import is_uncompared

SHOWN = ("val_acc", "test_acc")  # the readers' table; the CSV holds the losses too
SCORES = ("val_acc", "test_acc", "val_loss", "test_loss")
MOST_DECIMALS = 4  # a data set of 10,000 images resolves no more


def natural(values: Iterable[object]) -> tuple:
    """Sort key: numbers by size before words, `none` before other words."""
    return tuple(
        (0, value, "") if isinstance(value, int | float) else (1, value != "none", str(value)) for value in values
    )


def settings(runs: pd.DataFrame) -> pd.DataFrame:
    """What tells the runs apart, one column a config key and one row a run: norm, optimizer, then what else varies.

    A key counts as varied only where runs of the same choice differ in it: `norm.num_groups`, which only some
    choices of `norm` have, tells nothing that `norm` does not; nor does an lr that goes with its optimizer.
    Seeds and what a run_id leaves out (folders, threads, ...) never count. A cell is "" where a run has no such key.
    """
    keys = [
        key for key in map(str, runs) if key.startswith("cfg.") and not is_uncompared(key[4:]) and key != "cfg.seed"
    ]
    full = runs[keys].astype(object).where(runs[keys].notna(), "")
    columns = {"norm": runs["norm"], "optimizer": runs["optimizer"]}
    for key in keys:
        group, _, rest = key[4:].partition(".")
        if rest == "name":
            if group not in columns and full[key].nunique() > 1:
                columns[group] = full[key]
        elif _varies(full[key], [full.get(f"cfg.{group}.name", full[key].map(lambda _: ""))]):
            columns[key[4:]] = full[key]
    first = [name for name in ("norm", "optimizer", "optimizer.lr", "clip") if name in columns]
    columns = {name: columns[name] for name in [*first, *sorted(set(columns) - set(first))]}
    for key in ("data_fingerprint", "results_version"):  # not of the config; never averaged over all the same
        mark = runs[key].map(
            lambda value: value if isinstance(value, int) else "" if value is None else str(value)[:12]
        )
        if _varies(mark, list(columns.values())):
            columns[key] = mark
    return pd.DataFrame(columns, runs.index)


def _varies(values: pd.Series, within: list[pd.Series]) -> bool:
    return bool(values.groupby(within, sort=False).nunique().gt(1).any())


def untrained(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.Series:
    """Whether a complete run ended no better than it began, up to noise.

    Its validation accuracy is at most two standard errors above that of step 0: 2 sqrt(2 p (1 - p) / n_val), the
    difference of two shares of n_val images. Loss does not tell: one that gave up guesses evenly, at a lower loss.
    """
    start = metrics[metrics["step"] == 0].set_index("run_id")["val_acc"]
    before, after = runs["run_id"].map(start).astype(float), runs["val_acc"].astype(float)
    noise = 2 * (2 * before * (1 - before) / runs["n_val"].astype(float)) ** 0.5
    return (runs["state"] == "complete") & (after <= before + noise.fillna(0))


def summary(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """One row a setting, from the used runs.

    Columns: the setting; n, the complete runs, which the numbers come from; n_diverged and n_untrained; mean and
    SD (n - 1 in the denominator, empty below two runs) of each score; the median of train_s. A score that one of
    the n runs lacks is empty: no mean is taken over those that happen to have it.
    """
    setting = settings(runs)
    shown = setting.copy()
    if "optimizer.lr" not in shown and runs["lr"].nunique() > 1:
        shown.insert(2, "optimizer.lr", runs["lr"].astype(object).where(runs["lr"].notna(), ""))
    bad = untrained(runs, metrics)
    rows = []
    for key, part in runs.groupby([shown[name] for name in shown], sort=False):
        done = part[part["state"] == "complete"]
        row = dict(zip(shown, key, strict=True)) | {"n": len(done), "n_diverged": len(part) - len(done)}
        row["n_untrained"] = int(bad[part.index].sum())
        for score in SCORES:
            values = done[score].astype(float).to_numpy()
            row[f"{score}_mean"] = values.mean() if len(values) else math.nan  # NaN if any is missing
            with np.errstate(over="ignore"):  # losses near 1e200 have no finite square: the SD is then inf
                row[f"{score}_sd"] = values.std(ddof=1) if len(values) > 1 else math.nan
        seconds = done["train_s"].astype(float).to_numpy()
        row["train_s_median"] = np.median(seconds) if len(seconds) else math.nan
        rows.append(row)
    rows.sort(key=lambda row: natural(row[name] for name in shown))
    scores = [f"{score}_{part}" for score in SCORES for part in ("mean", "sd")]
    return pd.DataFrame(rows, columns=[*shown, "n", "n_diverged", "n_untrained", *scores, "train_s_median"])


def decimals(sds: Iterable[float]) -> int:
    """Decimals that give the smallest SD of a column one significant digit; 3 where no SD is known."""
    places = [
        -math.floor(math.log10(sd)) for sd in sds if 10.0**-MOST_DECIMALS <= sd < math.inf
    ]  # equal runs: 0, or rounding
    return max([*places, 0]) if places else 3


def summary_markdown(table: pd.DataFrame) -> str:
    """The summary for readers: mean ± SD, and beside a mean the runs that are not in it."""
    keys = [str(name) for name in table][: list(table).index("n") + 1]
    cells = {name: [cell_text(value) for value in table[name]] for name in keys}
    marks = [_mark(*row) for row in table[["n", "n_diverged", "n_untrained"]].itertuples(index=False)]
    for score in SHOWN:
        digits = decimals(table[f"{score}_sd"])
        pairs = zip(table["n"], table[f"{score}_mean"], table[f"{score}_sd"], marks, strict=True)
        cells[score] = [_mean_text(n, mean, sd, digits) + mark for n, mean, sd, mark in pairs]
    cells["train_s (median)"] = ["" if math.isnan(s) else f"{s:.1f}" for s in table["train_s_median"]]
    return markdown(cells)


def _mark(n: int, diverged: int, bad: int) -> str:
    parts = [f"{diverged} of {n + diverged} diverged" + (", not in the mean" if n else "")] if diverged else []
    parts += [f"{bad} of {n + diverged} untrained"] if bad else []
    return f" ({'; '.join(parts)})" if parts else ""


def _mean_text(n: int, mean: float, sd: float, digits: int) -> str:
    if math.isnan(mean):
        return "–" if n == 0 else "– (not measured in every run)"
    return f"{mean:.{digits}f}" + ("" if math.isnan(sd) else f" ± {sd:.{digits}f}")


def cell_text(value: object) -> str:
    """A config value as one would type it; a dash where the key does not apply."""
    return "–" if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def markdown(columns: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table, its columns as wide as their longest cell."""
    rows = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    rows = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]) + "\n"


def escaped(text: str) -> str:
    """One line that Markdown shows as it is, also inside a table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def as_csv(table: pd.DataFrame) -> bytes:
    """UTF-8, LF; floats in full precision, booleans as true and false, empty where not measured."""
    words = {"used": table["used"].map({True: "true", False: "false"})} if "used" in table else {}
    return table.assign(**words).to_csv(index=False, lineterminator="\n").encode()
