"""What the protocol of `normbench compare` is good for, measured on response surfaces whose best values are known.

    python scripts/fair_comparison.py [--studies 400] [--figure docs/fair_comparison.png]

A surface gives the true accuracy of a setting, and every run adds the luck of its seed. Prints the tables of
docs/fair-comparison.md and draws its figure: how good the best of n trials is, for each way to draw them.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from normbench.compare import search
from normbench.plan import Arm, Plan, Range

SD = 0.003  # of a run's accuracy from seed to seed, as the default run has it
LR = Range("optimizer.lr", "log", 1e-4, 1.0)
BETA = Range("optimizer.momentum", "one_minus_log", 0.8, 0.999)
Surface = Callable[[Sequence[float]], float]


def surface(rng: np.random.Generator, dims: int) -> Surface:
    """Accuracy 0.9 at a best place of the cube somewhere in its middle four fifths, falling by a parabola of the lr's
    decades (of 4; 2 pp at one decade from the best) that is steeper above it, as where training diverges; a second
    setting matters a third as much.
    """
    best, weight = rng.uniform(0.1, 0.9, dims), np.array([1.0, 0.33, 0.33][:dims])

    def accuracy(place: Sequence[float]) -> float:
        away = 4 * (np.asarray(place) - best)
        fall = 0.02 * weight * away**2 * np.where(away > 0, 2, 1)
        return max(0.1, 0.9 - float(fall.sum()))

    return accuracy


def searched(arm: Arm, plan: Plan, look: Callable[[Sequence[float]], tuple[float, float]]) -> tuple[list[float], float]:
    """As `compare` does it. look: the places of a setting -> its mean over the tune seeds, and what it is worth.

    Returns what is best so far is worth after each trial; of what is chosen the mean by which it was chosen.
    """
    tried: list[tuple] = []
    worth: dict[tuple, float] = {}
    seen: dict[tuple, float] = {}
    for number in range(plan.zoom + 1):
        best = max(seen, key=lambda s: seen[s]) if seen else None
        box = search.shrunk(arm, best, number) if best else {}
        new = search.trials(arm, plan, number, box, tried, {})
        for setting in new:
            places = [span.place(value) for span, value in zip(arm.ranges, setting, strict=True)]
            seen[setting], worth[setting] = look(places)
        tried += new
    so_far = [worth[max(tried[: n + 1], key=lambda s: seen[s])] for n in range(len(tried))]
    return so_far, max(seen.values())


def tune(arm: Arm, plan: Plan, true: Surface, rng: np.random.Generator) -> tuple[list[float], float, float]:
    """The true accuracy of what is best so far after each trial; of what is chosen: the mean over the tune seeds, by
    which it was chosen, and over as many fresh seeds as the plan reports.
    """

    def look(places: Sequence[float]) -> tuple[float, float]:
        accuracy = true(places)
        return accuracy + float(rng.normal(0, SD, len(plan.tune_seeds)).mean()), accuracy

    so_far, seen = searched(arm, plan, look)
    return so_far, seen, so_far[-1] + float(rng.normal(0, SD, len(plan.seeds)).mean())


def plan_of(arm: Arm, method: str, trials: int, zoom: int, seed: int, tune_seeds: int = 2) -> Plan:
    return Plan("", (arm,), method, trials, zoom, tuple(range(tune_seeds)), tuple(range(6)), search_seed=seed)


def curve(ranges: tuple[Range, ...], method: str, trials: int, zoom: int, studies: int) -> np.ndarray:
    """Mean loss against the best there is, in pp, after each trial."""
    arm, lost = Arm({}, ranges), []
    for seed in range(studies):
        rng = np.random.default_rng([seed, 1])  # the same surfaces and the same luck for every method
        true = surface(rng, len(ranges))
        lost.append(100 * (0.9 - np.array(tune(arm, plan_of(arm, method, trials, zoom, seed), true, rng)[0])))
    return np.mean(lost, axis=0)


def optimism(studies: int) -> None:
    print("\n## Optimism: what is reported minus what is true, pp (mean, standard error)\n")
    print("| trials | tune seeds | reported on the tune seeds | reported on 6 fresh seeds |\n|---|---|---|---|")
    arm = Arm({}, (LR,))
    for trials, tune_seeds in ((4, 1), (16, 1), (16, 2), (64, 2)):
        gaps: list[tuple[float, float]] = []
        for seed in range(studies):
            rng = np.random.default_rng([seed, 2])
            true = surface(rng, 1)
            so_far, on_tune, on_fresh = tune(arm, plan_of(arm, "quasirandom", trials, 1, seed, tune_seeds), true, rng)
            gaps.append((on_tune - so_far[-1], on_fresh - so_far[-1]))
        made = 100 * np.array(gaps)
        told = [f"{m:+.3f} ± {s:.3f}" for m, s in zip(made.mean(0), made.std(0) / math.sqrt(studies), strict=True)]
        print(f"| {trials} | {tune_seeds} | {told[0]} | {told[1]} |")


def unequal(studies: int) -> None:
    print("\n## A method against itself: how often the one with more trials ends higher\n")
    print("| trials of one | of the other | ends higher on fresh seeds | mean difference, pp |\n|---|---|---|---|")
    arm = Arm({}, (LR,))
    for few, many in ((1, 16), (4, 16), (16, 16)):
        gained = []
        for seed in range(studies):
            rng = np.random.default_rng([seed, 3])
            true = surface(rng, 1)
            fresh = [
                tune(arm, plan_of(arm, "quasirandom", n, min(1, n - 1), 2 * seed + i, 2), true, rng)[2]
                for i, n in enumerate((few, many))
            ]
            gained.append(fresh[1] - fresh[0])
        print(f"| {few} | {many} | {100 * np.mean(np.array(gained) > 0):.0f}% | {100 * np.mean(gained):+.2f} |")


METHODS = (
    ("quasirandom, 2 rounds", "quasirandom", 1), ("quasirandom, 1 round", "quasirandom", 0), ("random", "random", 0),
    ("grid", "grid", 0),
)  # fmt: skip


def methods(studies: int) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """By number of settings tuned, by method: (trials, pp below the best)."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for title, ranges, budgets in (("lr", (LR,), (4, 8, 16, 32)), ("lr and momentum", (LR, BETA), (4, 9, 16, 36))):
        print(f"\n## Below the best there is, pp: {title}\n")
        print("| | " + " | ".join(f"{n} trials" for n in budgets) + " |\n" + "|---" * (len(budgets) + 1) + "|")
        found[title] = {}
        for name, method, zoom in METHODS:
            ends = [float(curve(ranges, method, n, zoom, studies)[-1]) for n in budgets]
            found[title][name] = list(zip(budgets, ends, strict=True))
            print(f"| {name} | " + " | ".join(f"{end:.2f}" for end in ends) + " |")
    return found


def scales(studies: int) -> None:
    """The same ranges searched on other scales; places on the true scale are what counts."""
    print("\n## Below the best there is after 16 trials, pp: the scale\n\n| | its scale | linear |\n|---|---|---|")
    for name, span in (("lr, 1e-4 to 1", LR), ("momentum, 0.8 to 0.999", BETA)):
        ends = []
        for scale in (span.scale, "linear"):
            searched = Arm({}, (Range(span.key, scale, span.low, span.high),))
            lost = []
            for seed in range(studies):
                rng = np.random.default_rng([seed, 4])
                true = surface(rng, 1)
                plan = plan_of(searched, "quasirandom", 16, 0, seed)
                other = searched.ranges[0]

                def at(places: Sequence[float], true: Surface = true, other: Range = other) -> float:
                    return true([span.place(other.value(places[0]))])  # noqa: B023 - called within this turn

                lost.append(100 * (0.9 - tune(searched, plan, at, rng)[0][-1]))
            ends.append(float(np.mean(lost)))
        print(f"| {name} | {ends[0]:.2f} | {ends[1]:.2f} |")


def draw(found: dict[str, dict[str, list[tuple[int, float]]]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(found), figsize=(9, 3.4), constrained_layout=True)
    for ax, (title, lines) in zip(axes, found.items(), strict=True):
        for (name, points), style in zip(lines.items(), ("o-", "s--", "^:", "D-."), strict=True):
            ax.plot(*zip(*points, strict=True), style, label=name)
        ax.set(title=f"tuned: {title}", xlabel="trials", xscale="log", yscale="log")
        ticks = sorted({n for points in lines.values() for n, _ in points})
        ax.set_xticks(ticks, [str(n) for n in ticks], minor=False)
        ax.set_yticks(shown := [0.05, 0.1, 0.2, 0.5, 1, 2, 5], [f"{value:g}" for value in shown])
        ax.set_ylim(0.04, 8)
        ax.minorticks_off()
    axes[0].set_ylabel("pp below the best there is")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    print(f"\nwrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="simulated studies for each number (default: 400)")
    parser.add_argument("--figure", type=Path, help="where to draw the figure")
    options = parser.parse_args()
    optimism(options.studies)
    unequal(options.studies)
    found = methods(options.studies)
    scales(options.studies)
    if options.figure:
        draw(found, options.figure)


if __name__ == "__main__":
    main()
