"""What preprocessing and augmentation cost in training.

    python scripts/data_cost.py              two minutes
    python scripts/data_cost.py --rounds 9

On one CPU thread, with the switches of a real run (streams.set_determinism), fashion_mini, batch 64.

  augmentation   the making of a batch with it beyond that without, over a step of model=cnn (forward, backward, Adam)
  preprocessing  a whole step, batch and training, over that with preprocess=scale

The choices take turns, call by call, so that what else the machine does falls on all of them; the clock is the
process's CPU time. A round's number is the median of its calls. Shown is the median over the rounds of the ratio
within a round, with the smallest and the largest. Timings are no tests: the exit code is 0 where a goal is missed.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch
from benchmark import Table, as_text, cpu_name, load_average
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from norm_cost import Call, in_turn, spread, stepper
from torch import Tensor

from normbench import app, build, catalog, streams
from normbench.sweep import jobs

SETTINGS = ("dataset=fashion_mini", "batch_size=64", "optimizer=adam", "device=cpu", "threads=1")
GOAL = 0.05  # of a step of model=cnn, at most, for an augmentation
FEW, MANY = 5, 100  # calls of a round: of slow ones and of quick ones


def built(*typed: str) -> build.Built:
    with initialize_config_module("normbench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return build.build(jobs.plan(loader, [*SETTINGS, *typed]).jobs[0].config)


def batch_maker(run: build.Built) -> Callable[[], tuple[Tensor, Tensor]]:
    """The next training batch, whenever it is called."""
    return iter(run.batches(itertools.count())).__next__


def whole_step(run: build.Built) -> Call:
    """The next batch, and a training step on it, whenever it is called."""
    make = batch_maker(run)
    run.model.train()

    def step() -> None:
        x, y = make()
        loss = run.loss_fn(run.model(x), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()

    return step


def rounds_of(calls: Mapping[str, Call], rounds: int, repeats: int) -> list[dict[str, float]]:
    in_turn(calls, 3)  # to warm up
    return [in_turn(calls, repeats) for _ in range(rounds)]


def augment_table(rounds: int) -> Table:
    runs = {name: built("model=cnn", f"augment={name}") for name in catalog.choices("augment")}
    makers, step = {name: batch_maker(run) for name, run in runs.items()}, {"step": stepper(runs["none"])}
    found = [in_turn(makers, MANY) | in_turn(step, FEW) for _ in range(rounds + 1)][1:]  # the first one warms up
    rows = []
    for name in makers:
        shares = [(one[name] - one["none"]) / one["step"] for one in found]
        missed = " MISSED" * (median(shares) > GOAL)
        rows.append((name, f"{1e6 * median(one[name] for one in found):.0f}", spread_of_percent(shares) + missed))
    ms = 1000 * median(one["step"] for one in found)
    title = f"Augmentation: a batch of 64, and its share of a step of model=cnn ({ms:.1f} ms); goal: at most {GOAL:.0%}"
    return Table(title, ("augment", "batch, us", "share of a step [range]"), rows)


def spread_of_percent(shares: Sequence[float]) -> str:
    return f"{median(shares):.2%} [{min(shares):.2%}, {max(shares):.2%}]"


def preprocess_table(model: str, rounds: int) -> Table:
    names = [name for name in catalog.choices("preprocess") if model == "mlp" or name != "pca"]
    steps = {name: whole_step(built(f"model={model}", f"preprocess={name}")) for name in names}
    # an augmented batch is whitened anew at every step
    steps["zca augment=flip_crop"] = whole_step(built(f"model={model}", "preprocess=zca", "augment=flip_crop"))
    found = rounds_of(steps, rounds, MANY)
    rows = [
        (name, f"{1e6 * median(one[name] for one in found):.0f}", spread([one[name] / one["scale"] for one in found]))
        for name in steps
    ]
    return Table(
        f"Preprocessing: a step of model={model} with its batch", ("preprocess", "us", "times scale [range]"), rows
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args(argv).rounds
    if rounds < 1:
        parser.error("--rounds must be at least 1")
    streams.set_determinism(threads=1)
    app.register_plugins()
    before = load_average()
    tables = [augment_table(rounds), *(preprocess_table(model, rounds) for model in ("mlp", "lenet"))]
    where = f"{cpu_name()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread, {rounds} rounds"
    print("\n\n".join([f"{where}; load average before and after {before}; {load_average()}", *map(as_text, tables)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
