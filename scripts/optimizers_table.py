r"""Make results/gallery/optimizers.{md,png} and the README's table: every optimizer at its default lr, none and bn.

    normbench train -m dataset=fashion_mnist model=lenet norm=none,bn 'optimizer=glob(*)' seed=0,1,2 epochs=3 \
        checkpoint.keep=none name=optimizers
    python scripts/optimizers_table.py results/optimizers

Intervals are 95 % t intervals over the seeds: of a mean, and of the mean of the differences between pairs (the same
seed, the same batches, the same initial weights where both have them).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from normbench.report import style
from normbench.report.collect import collect

GALLERY = Path(__file__).resolve().parents[1] / "results" / "gallery"
BEGIN, END = "<!-- scripts/optimizers_table.py -->", "<!-- end -->"  # around the table in the README
ARMS = ("none", "bn")
KEYS = ["cfg.model.name", "cfg.dataset.name", "cfg.epochs", "cfg.batch_size", "cfg.schedule.name", "n_train"]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half the width of its 95 % interval; (n,) numbers, n >= 2."""
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def compared(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """One row an optimizer, best with bn first: accuracies of the arms, their paired differences, n.

    Raises:
        SystemExit: runs that were made in more than one way, or that are not all complete.
    """
    complete = runs[runs["used"].astype(bool) & runs["state"].eq("complete")]
    if len(complete) < len(runs):
        sys.exit(f"all runs must be complete, {len(runs) - len(complete)} of {len(runs)} are not")
    for key in KEYS:
        if complete[key].nunique() != 1:
            sys.exit(
                f"all runs must have one {key.removeprefix('cfg.')}, found {sorted(map(str, complete[key].unique()))}"
            )
    rows: list[dict[str, Any]] = []
    for (optimizer, lr), part in complete.groupby(["optimizer", "lr"]):  # type: ignore[misc]
        table = part.pivot(index="seed", columns="norm", values="test_acc")[list(ARMS)].astype(float)
        if table.isna().any().any():
            sys.exit(f"optimizer={optimizer}: every seed must have both arms")
        rows.append({"optimizer": optimizer, "lr": lr, "n": len(table), "accuracies": table})
    return sorted(rows, key=lambda row: -row["accuracies"]["bn"].mean())


def words(mean: float, half: float, sign: str = "") -> str:
    """`87.90 ± 0.21`, of fractions; more than the data set resolves is not told."""
    return f"{100 * mean:{sign}.2f} ± {100 * half:.2f}"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    table = ["| optimizer | lr | n | norm=none, % | norm=bn, % | bn - none, pp |", "|---|---|---|---|---|---|"]
    for row in rows:
        found = row["accuracies"]
        cells = [words(*interval(found[arm])) for arm in ARMS]
        cells.append(words(*interval(found["bn"] - found["none"]), sign="+"))
        table.append(f"| {row['optimizer']} | {row['lr']:g} | {row['n']} | {' | '.join(cells)} |")
    return "\n".join(table)


def page(rows: Sequence[Mapping[str, Any]], runs: pd.DataFrame) -> str:
    first: Any = runs.iloc[0]
    (n,) = {row["n"] for row in rows}
    lines = [
        f"# {len(rows)} optimizers at their default learning rates",
        f"Test accuracy of {first['cfg.model.name']} on {first['cfg.dataset.name']} ({first['n_train']:,} training "
        f"images) after {first['cfg.epochs']} epochs of batches of {first['cfg.batch_size']}, "
        f"{first['cfg.schedule.name']} schedule: mean ± half of the 95 % t interval over n = {n} seeds, and the paired "
        "difference. **The learning rates are the defaults: nothing was tuned, so this compares defaults, not "
        "optimizers.** n is small, and the intervals are not corrected for the number of rows.",
        "![Test accuracy by optimizer, without and with batch normalization](optimizers.png)",
    ]
    where = f"{len(runs)} runs with torch {first['torch_version']} on {first['device']}"
    made = f"Made by scripts/optimizers_table.py from {where}."
    return "\n\n".join([*lines, markdown(rows), made]) + "\n"


def picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Every run a dot, the mean of an arm a bar."""
    looks = style.norm_looks(ARMS)
    with matplotlib.rc_context(style.RC):
        figure = Figure(figsize=(style.WIDTH, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for shift, arm in zip((0.16, -0.16), ARMS, strict=True):
            color, marker = looks[arm]
            for place, found in enumerate(row["accuracies"] for row in rows):
                y = len(rows) - 1 - place + shift
                axes.plot(
                    found[arm], [y] * len(found), marker, color=color, alpha=0.65, linestyle="none", markeredgewidth=0
                )
                axes.plot([found[arm].mean()] * 2, [y - 0.14, y + 0.14], color=color, linewidth=1.4)
            axes.plot([], [], marker, color=color, label=f"norm={arm}", linestyle="none")
        names = [f"{row['optimizer']}  {row['lr']:g}" for row in rows]
        axes.set_yticks(range(len(rows)), names[::-1])
        axes.set_xlabel("test accuracy; a dot is a seed, a bar the mean of the seeds")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper center", ncol=2, frameon=False)
    return figure


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The gallery's table of optimizers, from a folder of runs.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=GALLERY)
    options = parser.parse_args(args)
    runs, _ = collect([options.folder])
    if not len(runs):
        sys.exit(f"no runs found under {options.folder}")
    rows = compared(runs)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "optimizers.md").write_text(page(rows, runs))
    rendered = style.rendered(picture(rows), "optimizers", "Test accuracy by optimizer, without and with bn.")
    (options.out / "optimizers.png").write_bytes(rendered["png"])
    readme = options.out.parents[1] / "README.md"
    if options.out == GALLERY:
        before, _, rest = readme.read_text().partition(BEGIN)
        readme.write_text(f"{before}{BEGIN}\n{markdown(rows)}\n{END}{rest.partition(END)[2]}")
    print(f"wrote {options.out / 'optimizers.md'} and its picture")
    return 0


if __name__ == "__main__":
    sys.exit(main())
