"""What ways of searching find on real runs: docs/fair-comparison.md's tables of the protocol, without a simulation.

    python scripts/search_study.py --out FOLDER [--seeds 12] [--workers 1] [--figure docs/fair_comparison_real.png]

Trains a table once (mlp with bn on fashion_mini, 2 epochs, 17 learning rates times 9 momenta, as stacks); the same
command again goes on, and what is done is not trained again. Then searches are drawn from it, each of their settings
being the nearest place of the table: two seeds choose by validation accuracy, the other ones tell by test accuracy what
is chosen.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from fair_comparison import BETA, LR, METHODS, plan_of, searched
from scipy import stats

from normbench.plan import Arm, Range
from normbench.report.collect import collect
from normbench.report.search import expected_best
from normbench.report.searched import WAYS
from normbench.report.selection import scored_accuracy

LEVELS = {LR: 17, BETA: 9}  # a quarter of a decade apart, and 0.29 of one
USUAL = {LR: 0.01, BETA: 0.9}  # of what is not tuned: the optimizer's defaults
REPEATS = 100  # searches of each way for each pair of seeds
MOVED = "grid, moved at random"
BUDGETS = {(LR,): (4, 8, 16), (LR, BETA): (4, 9, 16, 36)}
Place = tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """val, test: final accuracies, (learning rates, momenta, seeds); a diverged run counts as guessing."""

    val: np.ndarray
    test: np.ndarray

    @property
    def pairs(self) -> list[list[int]]:
        """Seeds that choose: each once."""
        return [[k, k + 1] for k in range(0, self.val.shape[2] - 1, 2)]

    def of(self, pair: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """What these seeds say of each place, and what it is worth by the other ones."""
        others = [k for k in range(self.val.shape[2]) if k not in pair]
        return self.val[:, :, pair].mean(2), self.test[:, :, others].mean(2)

    @property
    def best(self) -> Place:
        """What all seeds choose of all places."""
        means = self.val.mean(2)
        return tuple(map(int, np.unravel_index(means.argmax(), means.shape)))


def levels(span: Range) -> list[float]:
    count = LEVELS[span]
    return [float(f"{span.value(k / (count - 1)):.3g}") for k in range(count)]


def nearest(span: Range, place: float) -> int:
    return round(min(max(place, 0.0), 1.0) * (LEVELS[span] - 1))


# ------------------------------------------------------------------------------------------------------------- the runs


def train(out: Path, seeds: int, workers: int) -> Table:
    """The table, as far as it is not trained yet."""
    typed = [f"{span.key}={','.join(map(str, levels(span)))}" for span in (LR, BETA)]
    command = [
        sys.executable, "-m", "normbench", "train", "-m", "engine=stack", "optimizer=momentum", *typed,
        f"seed=range(0,{seeds})", "epochs=2", "checkpoint.keep=none", "progress=false", f"out={out}", "name=table",
        f"hydra.launcher.workers={workers}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    runs = collect([out / "table"])[0]
    shape = (*LEVELS.values(), seeds)
    val, test = np.full(shape, np.nan), np.full(shape, np.nan)
    for row in runs[runs["used"].astype(bool)].to_dict("records"):
        at = [levels(span).index(float(row[f"cfg.{span.key}"])) for span in (LR, BETA)]
        lost = row["state"] == "diverged"
        if int(row["seed"]) < seeds:
            where = (*at, int(row["seed"]))
            val[where], test[where] = (
                scored_accuracy(row[name], lost, row["n_classes"]) for name in ("val_acc", "test_acc")
            )
    if np.isnan(val).any():
        raise SystemExit(f"{int(np.isnan(val).sum())} of {val.size} runs are missing in {out}; type the command again")
    return Table(val, test)


# --------------------------------------------------------------------------------------------------------- the searches


def found(table: Table, ranges: Sequence[Range], method: str, trials: int, zoom: int) -> np.ndarray:
    """(pairs,) test accuracy of what searches choose, by the seeds that did not; the mean over REPEATS."""
    return np.array([np.mean(_of_pair(table, pair, ranges, method, trials, zoom)) for pair in table.pairs])


def _of_pair(
    table: Table, pair: Sequence[int], ranges: Sequence[Range], method: str, trials: int, zoom: int
) -> list[float]:
    says, worth = table.of(pair)
    if method == MOVED:
        return _moved(says, worth, ranges, trials)
    arm = Arm({}, tuple(ranges))

    def look(places: Sequence[float]) -> tuple[float, float]:
        where = _place(ranges, places)
        return float(says[where]), float(worth[where])

    repeats = 1 if method == "grid" else REPEATS  # a grid is where it is
    return [searched(arm, plan_of(arm, method, trials, zoom, seed), look)[0][-1] for seed in range(repeats)]


def _place(ranges: Sequence[Range], places: Sequence[float]) -> Place:
    """Where in the table; a setting that is not tuned has its usual value. ranges: as searched, on any scale."""
    at = []
    for span in (LR, BETA):
        own = [(r, p) for r, p in zip(ranges, places, strict=True) if r.key == span.key]
        value = own[0][0].value(own[0][1]) if own else USUAL[span]
        at.append(nearest(span, span.place(value)))
    return tuple(at)


def _moved(says: np.ndarray, worth: np.ndarray, ranges: Sequence[Range], trials: int) -> list[float]:
    """A grid whose offset is drawn: as if nobody had known where to put it (normbench/report/searched.py)."""
    draws, axes = np.random.Generator(np.random.PCG64(0)), [np.arange(LEVELS[span]) for span in ranges]
    rest = {span.key: nearest(span, span.place(USUAL[span])) for span in (LR, BETA)}

    def where(place: Sequence[int]) -> Place:
        own = {span.key: at for span, at in zip(ranges, place, strict=True)}
        return tuple(own.get(span.key, rest[span.key]) for span in (LR, BETA))

    best = [
        max(map(where, WAYS["search=grid"](draws, axes, trials, lambda _: 0.0)), key=lambda place: says[place])
        for _ in range(REPEATS)
    ]
    return [float(worth[place]) for place in best]


def below(table: Table, accuracies: np.ndarray) -> np.ndarray:
    """(pairs,) pp below what all seeds choose of all places."""
    return 100 * (np.array([table.of(pair)[1][table.best] for pair in table.pairs]) - accuracies)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The mean over the pairs of seeds, half of its 95 % t interval."""
    n = len(values)
    return float(values.mean()), float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))


def told(values: np.ndarray, sign: str = "") -> str:
    return "{0:{2}.2f} ± {1:.2f}".format(*interval(values), sign)


# ----------------------------------------------------------------------------------------------------------- the tables

Lines = dict[str, list[tuple[int, float, float]]]


def methods(table: Table) -> dict[str, Lines]:
    ways = [*METHODS, (MOVED, MOVED, 0)]
    drawn = {}
    for ranges, budgets in BUDGETS.items():
        title = "lr and momentum" if len(ranges) > 1 else "lr"
        print(f"\n## Below the best of the table, pp: {title} (mean and half of a 95 % interval over pairs of seeds)\n")
        print("| | " + " | ".join(f"{n} trials" for n in budgets) + " |\n" + "|---" * (len(budgets) + 1) + "|")
        lines: Lines = {}
        for name, method, zoom in ways:
            lost = [below(table, found(table, ranges, method, n, zoom)) for n in budgets]
            lines[name] = [(n, *interval(each)) for n, each in zip(budgets, lost, strict=True)]
            print(f"| {name} | " + " | ".join(map(told, lost)) + " |")
        drawn[title] = lines
    return drawn


def differences(table: Table) -> None:
    """Pairs of ways, seed by seed."""
    print("\n## What one finds more than the other, pp (95 % interval over pairs of seeds)\n")
    print("| | 4 trials | 9 trials | 16 trials | 36 trials |\n|---|---|---|---|---|")
    both = (LR, BETA)
    two, one = ("quasirandom", 1), ("quasirandom", 0)
    for name, first, second in (
        ("two rounds - one round", two, one), ("quasirandom - random", one, ("random", 0)),
        ("random - grid", ("random", 0), ("grid", 0)), ("random - moved grid", ("random", 0), (MOVED, 0)),
    ):  # fmt: skip
        gained = [
            100 * (found(table, both, first[0], n, first[1]) - found(table, both, second[0], n, second[1]))
            for n in BUDGETS[both]
        ]
        print(f"| {name} | " + " | ".join(told(each, "+") for each in gained) + " |")


def scales(table: Table) -> None:
    print("\n## Below the best of the table after 16 random trials, pp: the scale\n")
    print("| tuned | its scale | linear | difference |\n|---|---|---|---|")
    for name, spans, other in (
        ("lr, 1e-4 to 1", (LR,), LR), ("momentum, 0.8 to 0.999, at lr 0.01", (BETA,), BETA),
        ("both, lr linear", (LR, BETA), LR), ("both, momentum linear", (LR, BETA), BETA),
    ):  # fmt: skip
        linear = tuple(Range(s.key, "linear", s.low, s.high) if s == other else s for s in spans)
        lost = [below(table, found(table, ranges, "random", 16, 0)) for ranges in (spans, linear)]
        print(f"| {name} | {told(lost[0])} | {told(lost[1])} | {told(lost[1] - lost[0], '+')} |")


def expected(table: Table) -> None:
    """The exact expectation of random search without repeats, as the report gives it, against draws."""
    print("\n## Expected best validation accuracy of n settings of the table, %: by formula, and drawn\n")
    print("| | 4 | 16 | 36 |\n|---|---|---|---|")
    says = table.of(table.pairs[0])[0]
    exact = expected_best(says.ravel())
    axes, draws = [np.arange(n) for n in LEVELS.values()], np.random.Generator(np.random.PCG64(1))
    drawn = []
    for n in (4, 16, 36):
        ways: Callable = WAYS["search=random"]
        drawn.append(np.mean([max(says[p] for p in ways(draws, axes, n, lambda _: 0.0)) for _ in range(2000)]))
    print("| formula | " + " | ".join(f"{100 * exact[n - 1]:.2f}" for n in (4, 16, 36)) + " |")
    print("| 2,000 draws | " + " | ".join(f"{100 * value:.2f}" for value in drawn) + " |")


def surface(table: Table) -> None:
    """What kind of table it is."""
    n_pairs, seeds = len(table.pairs), table.test.shape[2]
    spread = table.test.std(axis=2, ddof=1)
    best, top = table.best, table.test.mean(2)
    names = [f"{span.key}={levels(span)[at]:g}" for span, at in zip((LR, BETA), best, strict=True)]
    near = int((top >= top[best] - 0.005).sum())
    print(f"{table.test.size} runs, {seeds} seeds in {n_pairs} pairs; all choose {' '.join(names)}:", end=" ")
    print(f"test accuracy {100 * top[best]:.2f} %, from seed to seed ± {100 * spread[best]:.2f} pp.", end=" ")
    print(f"{near} of {top.size} places are within 0.5 pp of it, {int((top < 0.2).sum())} below 20 %.")


# ----------------------------------------------------------------------------------------------------------- the figure


def draw(table: Table, drawn: dict[str, Lines], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.3), constrained_layout=True, width_ratios=(1, 1, 1.05))
    marks = ("o-", "s--", "^:", "D-.", "v-")
    colours = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
    for ax, (title, lines) in zip(axes, drawn.items(), strict=False):
        for number, (name, points) in enumerate(lines.items()):
            trials, middle, half = map(np.array, zip(*points, strict=True))
            aside = trials * 1.035 ** (number - 2)  # side by side, so that the bars can be told
            ax.errorbar(aside, middle, half, fmt=marks[number], color=colours[number], label=name, ms=4, lw=1.1)
        ticks = sorted({n for points in lines.values() for n, *_ in points})
        ax.set(title=f"tuned: {title}", xlabel="trials", xscale="log", yscale="symlog")
        ax.set_yscale("symlog", linthresh=0.5)
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.set_yticks(shown := [0, 0.25, 0.5, 1, 2, 5, 10], [f"{value:g}" for value in shown])
        ax.minorticks_off()
        ax.axhline(0, color="grey", lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("pp below the best of the table")
    axes[1].legend(frameon=False, fontsize=8)
    _heat(axes[2], table)
    figure.savefig(path, dpi=120)
    print(f"\nwrote {path} ({path.stat().st_size / 1000:.0f} kB)")


def _heat(ax: plt.Axes, table: Table) -> None:
    means = 100 * table.test.mean(2).T
    image = ax.imshow(means, origin="lower", aspect="auto", cmap="cividis", vmin=60)
    ax.set_xticks(range(0, LEVELS[LR], 4), [f"{value:g}" for value in levels(LR)[::4]])
    ax.set_yticks(range(0, LEVELS[BETA], 2), [f"{value:g}" for value in levels(BETA)[::2]])
    ax.plot(*table.best, "*", color="white", ms=11, mec="black")
    ax.set(title="the table: test accuracy, %", xlabel="lr", ylabel="momentum")
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
    table = train(options.out, options.seeds, options.workers)
    surface(table)
    drawn = methods(table)
    differences(table)
    scales(table)
    expected(table)
    if options.figure:
        draw(table, drawn, options.figure)


if __name__ == "__main__":
    main()
