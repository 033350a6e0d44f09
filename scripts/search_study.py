"""What ways of searching find on real runs: docs/fair-comparison.md's tables of the protocol, without a simulation.

    python scripts/search_study.py --out FOLDER [--seeds 12] [--workers 1] [--figure docs/fair_comparison_real.png]

Trains three tables once, as stacks: mlp on fashion_mini, 2 epochs; with bn 17 learning rates times 9 momenta of
momentum, and 17 learning rates of adam with bn and without. The same command again goes on, and what is done is not
trained again. Then searches are drawn from them, each of their settings being the nearest place of the table: two seeds
choose by validation accuracy, the other ones tell by test accuracy what is chosen.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from fair_comparison import BETA, LR, METHODS, plan_of, searched
from matplotlib.axes import Axes
from scipy import stats

from normbench.plan import Arm, Range
from normbench.report.collect import collect
from normbench.report.search import expected_best
from normbench.report.searched import WAYS
from normbench.report.selection import scored_accuracy

ADAM_LR = Range("optimizer.lr", "log", 1e-5, 0.1)  # as conf/optimizer/adam.yaml has it
LEVELS = {LR: 17, BETA: 9, ADAM_LR: 17}  # a quarter of a decade apart; of 1 - momentum 0.29 of one
USUAL = {LR: 0.01, BETA: 0.9, ADAM_LR: 0.001}  # of what is not tuned: the optimizers' defaults
TABLES = {  # name: what is typed beside the settings, what was varied
    "momentum": ("optimizer=momentum norm=bn", (LR, BETA)), "adam": ("optimizer=adam norm=bn", (ADAM_LR,)),
    "adam_none": ("optimizer=adam norm=none", (ADAM_LR,)),
}  # fmt: skip
SEARCHES = {  # title: table, what is tuned
    "momentum with bn: lr and momentum": ("momentum", (LR, BETA)), "momentum with bn: lr": ("momentum", (LR,)),
    "adam with bn: lr": ("adam", (ADAM_LR,)), "adam without a norm: lr": ("adam_none", (ADAM_LR,)),
}  # fmt: skip
REPEATS = 100  # searches of each way for each pair of seeds
MOVED = "grid, moved at random"
BUDGETS = {1: (4, 8, 16), 2: (4, 9, 16, 36)}  # by how many settings are tuned
Place = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Table:
    """spans: what was varied. val, test: final accuracies, (a level of each span ..., seeds); a diverged run counts as
    guessing.
    """

    spans: tuple[Range, ...]
    val: np.ndarray
    test: np.ndarray

    @property
    def pairs(self) -> list[list[int]]:
        """Seeds that choose: each once."""
        return [[k, k + 1] for k in range(0, self.val.shape[-1] - 1, 2)]

    def of(self, pair: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """What these seeds say of each place, and what it is worth by the other ones."""
        others = [k for k in range(self.val.shape[-1]) if k not in pair]
        return self.val[..., pair].mean(-1), self.test[..., others].mean(-1)

    @property
    def best(self) -> Place:
        """What all seeds choose of all places."""
        means = self.val.mean(-1)
        return tuple(map(int, np.unravel_index(means.argmax(), means.shape)))

    def below(self, accuracies: np.ndarray) -> np.ndarray:
        """(pairs,) pp below what all seeds choose of all places."""
        return 100 * (np.array([self.of(pair)[1][self.best] for pair in self.pairs]) - accuracies)


def levels(span: Range) -> list[float]:
    count = LEVELS[span]
    return [float(f"{span.value(k / (count - 1)):.3g}") for k in range(count)]


def nearest(span: Range, place: float) -> int:
    return round(min(max(place, 0.0), 1.0) * (LEVELS[span] - 1))


# ------------------------------------------------------------------------------------------------------------- the runs


def train(name: str, out: Path, seeds: int, workers: int) -> Table:
    """The table, as far as it is not trained yet."""
    parts, spans = TABLES[name]
    typed = [f"{span.key}={','.join(map(str, levels(span)))}" for span in spans]
    command = [
        sys.executable, "-m", "normbench", "train", "-m", "engine=stack", *parts.split(), *typed,
        f"seed=range(0,{seeds})", "epochs=2", "checkpoint.keep=none", "progress=false", f"out={out}",
        f"name={name}", f"hydra.launcher.workers={workers}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    runs = collect([out / name])[0]
    shape = (*(LEVELS[span] for span in spans), seeds)
    val, test = np.full(shape, np.nan), np.full(shape, np.nan)
    used: pd.DataFrame = runs.loc[runs["used"].astype(bool)]
    for row in used.to_dict("records"):
        if int(row["seed"]) < seeds:
            at = tuple(levels(span).index(float(row[f"cfg.{span.key}"])) for span in spans)
            for told, name in ((val, "val_acc"), (test, "test_acc")):
                score = scored_accuracy(row[name], row["state"] == "diverged", row["n_classes"])
                told[(*at, int(row["seed"]))] = score
    if np.isnan(val).any():
        raise SystemExit(f"{int(np.isnan(val).sum())} of {val.size} runs are missing in {out}; type the command again")
    return Table(spans, val, test)


# --------------------------------------------------------------------------------------------------------- the searches


@cache
def found(table: Table, ranges: tuple[Range, ...], method: str, trials: int, zoom: int) -> np.ndarray:
    """(pairs,) test accuracy of what searches choose, by the seeds that did not; the mean over REPEATS.

    ranges: of what is tuned, on any scale; the rest has its usual value.
    """
    return np.array([np.mean(_of_pair(table, pair, ranges, method, trials, zoom)) for pair in table.pairs])


def _of_pair(
    table: Table, pair: Sequence[int], ranges: Sequence[Range], method: str, trials: int, zoom: int
) -> list[float]:
    says, worth = table.of(pair)
    if method == MOVED:
        return _moved(table, says, worth, ranges, trials)
    arm = Arm({}, tuple(ranges))

    def look(places: Sequence[float]) -> tuple[float, float]:
        where = _place(table, [r.value(p) for r, p in zip(ranges, places, strict=True)], ranges)
        return float(says[where]), float(worth[where])

    repeats = 1 if method == "grid" else REPEATS  # a grid is where it is
    return [searched(arm, plan_of(arm, method, trials, zoom, seed), look)[0][-1] for seed in range(repeats)]


def _place(table: Table, values: Sequence[float], ranges: Sequence[Range]) -> Place:
    """Where in the table these values of what is tuned are."""
    own = {span.key: value for span, value in zip(ranges, values, strict=True)}
    return tuple(nearest(span, span.place(own.get(span.key, USUAL[span]))) for span in table.spans)


def _moved(table: Table, says: np.ndarray, worth: np.ndarray, ranges: Sequence[Range], trials: int) -> list[float]:
    """A grid whose offset is drawn: as if nobody had known where to put it (normbench/report/searched.py)."""
    draws, axes = np.random.Generator(np.random.PCG64(0)), [np.arange(LEVELS[span]) for span in ranges]

    def where(place: Sequence[int]) -> Place:
        return _place(table, [levels(span)[at] for span, at in zip(ranges, place, strict=True)], ranges)

    best = [
        max(map(where, WAYS["search=grid"](draws, axes, trials, lambda _: 0.0)), key=lambda place: says[place])
        for _ in range(REPEATS)
    ]
    return [float(worth[place]) for place in best]


def interval(values: np.ndarray) -> tuple[float, float]:
    """The mean over the pairs of seeds, half of its 95 % t interval."""
    n = len(values)
    return float(values.mean()), float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))


def told(values: np.ndarray, sign: str = "") -> str:
    return "{0:{2}.2f} ± {1:.2f}".format(*interval(values), sign)


# ----------------------------------------------------------------------------------------------------------- the tables

Lines = dict[str, list[tuple[int, float, float]]]


def rows(title: str, corner: str, columns: Sequence[object], body: dict[str, list[str]]) -> None:
    print(f"\n## {title}\n\n| {corner} | " + " | ".join(map(str, columns)) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, cells in body.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


def methods(table: Table, title: str, ranges: tuple[Range, ...]) -> Lines:
    budgets, lines, body = BUDGETS[len(ranges)], Lines(), {}
    for name, method, zoom in (*METHODS, (MOVED, MOVED, 0)):
        lost = [table.below(found(table, ranges, method, n, zoom)) for n in budgets]
        lines[name] = [(n, *interval(each)) for n, each in zip(budgets, lost, strict=True)]
        body[name] = list(map(told, lost))
    rows(f"Below the best of the table, pp: {title}", "", [f"{n} trials" for n in budgets], body)
    return lines


def differences(table: Table, title: str, ranges: tuple[Range, ...]) -> None:
    """Pairs of ways, pair of seeds by pair of seeds."""
    budgets, body = BUDGETS[len(ranges)], {}
    two, one, random = ("quasirandom", 1), ("quasirandom", 0), ("random", 0)
    for name, first, second in (
        ("two rounds - one round", two, one), ("quasirandom - random", one, random),
        ("random - grid", random, ("grid", 0)), ("random - moved grid", random, (MOVED, 0)),
    ):  # fmt: skip
        both = [[found(table, ranges, way, n, zoom) for way, zoom in (first, second)] for n in budgets]
        body[name] = [told(100 * (a - b), "+") for a, b in both]
    rows(f"What one finds more than the other, pp: {title}", "", [f"{n} trials" for n in budgets], body)


def scales(tables: dict[str, Table]) -> Lines:
    """Random search on the scale of the range, and uniform between its ends: what the linear scale loses."""
    body, lines = {}, Lines()
    for name, optimizer, spans, other in (
        ("momentum with bn: lr", "momentum", (LR,), LR), ("adam with bn: lr", "adam", (ADAM_LR,), ADAM_LR),
        ("adam without a norm: lr", "adam_none", (ADAM_LR,), ADAM_LR),
        ("momentum at lr 0.01", "momentum", (BETA,), BETA), ("both, lr linear", "momentum", (LR, BETA), LR),
        ("both, momentum linear", "momentum", (LR, BETA), BETA),
    ):  # fmt: skip
        linear = tuple(Range(s.key, "linear", s.low, s.high) if s == other else s for s in spans)
        table, body[name], lines[name] = tables[optimizer], [], []
        for n in (4, 16):
            lost = [table.below(found(table, ranges, "random", n, 0)) for ranges in (spans, linear)]
            body[name] += [*map(told, lost), told(lost[1] - lost[0], "+")]
            lines[name].append((n, *interval(lost[1] - lost[0])))
    columns = [f"{n} trials, {way}" for n in (4, 16) for way in ("its scale", "linear", "difference")]
    rows("Below the best of the table, pp: the scale, random search", "tuned", columns, body)
    return lines


def expected(table: Table) -> None:
    """The exact expectation of random search without repeats, as the report gives it, against draws."""
    says, budgets = table.of(table.pairs[0])[0], (4, 16, 36)
    axes, draws = [np.arange(LEVELS[span]) for span in table.spans], np.random.Generator(np.random.PCG64(1))
    ways: Callable = WAYS["search=random"]
    drawn = [np.mean([max(says[p] for p in ways(draws, axes, n, lambda _: 0.0)) for _ in range(2000)]) for n in budgets]
    exact = expected_best(says.ravel())
    rows("Expected best validation accuracy of n settings of the table, %", "", budgets, {
        "by formula": [f"{100 * exact[n - 1]:.2f}" for n in budgets],
        "2,000 draws": [f"{100 * value:.2f}" for value in drawn],
    })  # fmt: skip


def surface(name: str, table: Table) -> None:
    """What kind of table it is."""
    best, top = table.best, table.test.mean(-1)
    at = " ".join(f"{span.key}={levels(span)[place]:g}" for span, place in zip(table.spans, best, strict=True))
    near, lost = int((top >= top[best] - 0.005).sum()), int((top < 0.2).sum())
    print(f"{name}: {table.test.size} runs, {table.test.shape[-1]} seeds; all together choose {at}:", end=" ")
    print(
        f"test accuracy {100 * top[best]:.2f} %, from seed to seed ± {100 * table.test.std(-1, ddof=1)[best]:.2f} pp;"
    )
    print(f"  {near} of {top.size} places are within 0.5 pp of it, {lost} below 20 %")


# ----------------------------------------------------------------------------------------------------------- the figure

STYLES = (("o-", "black"), ("s--", "#0072B2"), ("^:", "#D55E00"), ("D-.", "#009E73"), ("v-", "#CC79A7"))


def draw(tables: dict[str, Table], drawn: dict[str, Lines], linear: Lines, path: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(11.4, 6.2), constrained_layout=True)
    for ax, (title, lines) in zip(axes.ravel(), drawn.items(), strict=False):
        for number, (name, points) in enumerate(lines.items()):
            trials, middle, half = map(np.array, zip(*points, strict=True))
            aside = trials * 1.03 ** (number - 2)  # side by side, so that the bars can be told
            form, colour = STYLES[number]
            ax.errorbar(aside, middle, half, fmt=form, color=colour, label=name, ms=4, lw=1.1)
        ax.set(title=title, xlabel="trials", xscale="log", ylim=(0, None))
        ticks = sorted({n for points in lines.values() for n, *_ in points})
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    for row in axes:
        row[0].set_ylabel("pp below the best of the table")
    axes[0, 0].legend(frameon=False, fontsize=8)
    _scales(axes[1, 1], linear)
    _heat(axes[1, 2], tables["momentum"])
    figure.savefig(path, dpi=110)
    print(f"\nwrote {path} ({path.stat().st_size / 1000:.0f} kB)")


def _scales(ax: Axes, lines: Lines) -> None:
    for number, name in enumerate(reversed(lines)):
        for aside, (form, colour), (n, middle, half) in zip((0.12, -0.12), STYLES, lines[name], strict=False):
            label = f"{n} trials" if number == 0 else None
            ax.errorbar(middle, number + aside, xerr=half, fmt=form[0], color=colour, ms=4, lw=1.1, label=label)
    ax.set_yticks(range(len(lines)), list(reversed(lines)), fontsize=8)
    ax.axvline(0, color="grey", lw=0.6)
    ax.set(title="what a linear scale loses", xlabel="pp")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _heat(ax: Axes, table: Table) -> None:
    image = ax.imshow(100 * table.test.mean(-1).T, origin="lower", aspect="auto", cmap="cividis", vmin=60)
    ax.set_xticks(range(0, LEVELS[LR], 4), [f"{value:g}" for value in levels(LR)[::4]])
    ax.set_yticks(range(0, LEVELS[BETA], 2), [f"{value:g}" for value in levels(BETA)[::2]])
    ax.plot(*table.best, "*", color="white", ms=11, mec="black")
    ax.set(title="momentum with bn: test accuracy, %", xlabel="lr", ylabel="momentum")
    ax.figure.colorbar(image, ax=ax, extend="min")  # type: ignore[union-attr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs are, or go")
    parser.add_argument("--seeds", type=int, default=12, help="an even number, at least 4 (default: 12)")
    parser.add_argument("--workers", type=int, default=1, help="processes that train (default: 1)")
    parser.add_argument("--figure", type=Path, help="where to draw the figure")
    options = parser.parse_args()
    if options.seeds < 4 or options.seeds % 2:
        parser.error(f"--seeds must be an even number >= 4, got {options.seeds}")
    tables = {name: train(name, options.out, options.seeds, options.workers) for name in TABLES}
    for name, table in tables.items():
        surface(name, table)
    print("\nBelow: mean and half of a 95 % interval over pairs of seeds.")
    drawn = {}
    for title, (name, ranges) in SEARCHES.items():
        drawn[title] = methods(tables[name], title, ranges)
        differences(tables[name], title, ranges)
    linear = scales(tables)
    expected(tables["momentum"])
    if options.figure:
        draw(tables, drawn, linear, options.figure)


if __name__ == "__main__":
    main()
