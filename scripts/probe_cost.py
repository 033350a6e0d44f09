"""What each probe costs: the CPU seconds of whole runs with it, over those of the same run without.

    python scripts/probe_cost.py                     some minutes
    python scripts/probe_cost.py --rounds 5 --models mlp
    python scripts/probe_cost.py --markdown docs/probes.md    put the table between the page's marks

On one CPU thread, with the default settings of a run: fashion_mini, norm=bn, Adam, an evaluation once an epoch, probes
as in conf/probe. The runs take turns, forwards and backwards by turns, so that what else the machine does falls on all
of them; the clock is the process's CPU time, and a round's number is the least of its three runs. The health card,
which a run with any probe makes once, at its end, has a column of its own and is not in the others. Shown is the median
over the rounds of the ratio within a round, less 1, with the smallest and the largest. Timings are no tests: the exit
code is 0 where a goal is missed.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median

import torch
from benchmark import Table, as_markdown, as_text, cpu_name, load_average
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from normbench import app, catalog, probing, run, streams
from normbench.config import RunConfig
from normbench.sweep import jobs

EPOCHS = {"mlp": 5, "lenet": 1}
REPEATS = 3  # of a run in a round
GOAL, WITH_GOAL = 0.10, ("activations", "gradients")
MARKS = "<!-- costs -->", "<!-- end of costs -->"


def config(model: str, probe: str, out: str) -> RunConfig:
    typed = [f"model={model}", f"probe={probe}", f"epochs={EPOCHS[model]}", f"out={out}"]
    with initialize_config_module("normbench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return jobs.plan(loader, [*typed, "device=cpu", "progress=false"]).jobs[0].config


class Card:
    """Stands for probing.health, and adds up its CPU seconds."""

    def __init__(self) -> None:
        self.health, self.seconds = probing.health, 0.0

    def __call__(self, built):
        started = time.process_time()
        found = self.health(built)
        self.seconds += time.process_time() - started
        return found


def seconds_of(model: str, probe: str, card: Card) -> tuple[float, float]:
    """CPU seconds of a run without its health card, and of the card."""
    with tempfile.TemporaryDirectory() as out:
        settings, card.seconds = config(model, probe, out), 0.0
        started = time.process_time()
        outcome = run.run(settings, announce=lambda _: None)
        seconds = time.process_time() - started
    if outcome.state != "complete":
        raise SystemExit(f"{model} with probe={probe}: {outcome.state}: {outcome.record['reason']}")
    return seconds - card.seconds, card.seconds


def costs(model: str, rounds: int, card: Card) -> dict[str, list[float]]:
    """Of each probe, and of the card: round by round, its share of the run without a probe."""
    probes = list(catalog.choices("probe"))
    found: dict[str, list[float]] = {name: [] for name in [*probes[1:], "card"]}
    seconds_of(model, "landscape", card)  # what is loaded once
    for number in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in [*probes, "card"]}
        for turn in range(REPEATS):
            for probe in probes[:: -1 if (number + turn) % 2 else 1]:
                seconds, of_card = seconds_of(model, probe, card)
                times[probe].append(seconds)
                times["card"] += [of_card] * (probe != "none")
        least = {name: min(values) for name, values in times.items()}
        plain = least.pop("none")
        for name, seconds in least.items():
            found[name].append(seconds / plain - (name != "card"))
        said = "  ".join(f"{name} {100 * values[-1]:+.1f} %" for name, values in found.items())
        print(f"{model}, round {number + 1}, {plain:.2f} s: {said}", file=sys.stderr, flush=True)
    return found


def row(model: str, found: dict[str, list[float]]) -> tuple[str, ...]:
    cells = []
    for name, values in found.items():
        text = f"{100 * median(values):+.1f} % [{100 * min(values):+.1f}, {100 * max(values):+.1f}]"
        cells.append(text + " MISSED" * (name in WITH_GOAL and median(values) > GOAL))
    return f"{model}, {EPOCHS[model]} epoch{'s' * (EPOCHS[model] > 1)}", *cells


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=list(EPOCHS), choices=list(EPOCHS), metavar="MODEL")
    parser.add_argument("--markdown", type=Path, help="a page with marks, between which the table is put")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    streams.set_determinism(threads=1)
    app.register_plugins()
    before, card = load_average(), Card()
    probing.health = card
    rows = [row(model, costs(model, args.rounds, card)) for model in args.models]
    title = f"CPU time of a run beyond that without a probe (median of {args.rounds} rounds [smallest, largest])"
    table = Table(title, ("run", *list(catalog.choices("probe"))[1:], "health card"), rows)
    where = (
        f"{cpu_name()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread, {date.today()}; load average "
        f"before and after {before}; {load_average()}"
    )
    print(f"{where}\n\n{as_text(table)}")
    if args.markdown:
        start, end = MARKS
        made = f"{start}\n{as_markdown(table)}\n\n{where}\n{end}"
        text = args.markdown.read_text(encoding="utf-8")
        new, count = re.subn(f"{start}.*{end}", lambda _: made, text, flags=re.S)
        if not count:
            raise SystemExit(f"{args.markdown} must hold the lines {start} and {end}")
        args.markdown.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
