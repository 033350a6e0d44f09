"""Train every norm with every model of conf/ for one epoch, and show what each cell came to.

    python scripts/grid_check.py                          a few minutes on one core
    python scripts/grid_check.py --norms bn ln --models cnn
    python scripts/grid_check.py --markdown FILE          the same tables in Markdown, too

Every norm keeps its default settings; the models are made small (SMALL), and a model that is not named there runs at
its defaults. Each cell is a whole run, as `normbench train` makes it, on 512 made-up images: planned, checked, trained
and evaluated, in a temporary folder. A cell shows its validation accuracy after 28 steps (with the population's
statistics, since running averages need more steps), where 0.10 is chance and nothing to worry about: the table says
what runs, not what is better. Or it shows what became of it:

    refused      the norm is undefined for the model's activations (normbench.norm.Impossible): as it should be
    diverged     a loss, a gradient norm or a measurement was not finite
    non-finite   the run is complete, but a number that it recorded is missing
    failed       anything else went wrong

The reasons stand below the table. The exit code is 1 if a cell diverged, is non-finite or failed.
"""

import argparse
import csv
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import Table, as_markdown, as_text
from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra

from normbench import app, catalog, run
from normbench.norm import Impossible
from normbench.sweep import jobs

SETTINGS = ("dataset=synthetic", "dataset.train_size=512", "dataset.test_size=100", "dataset.image_size=32",
            "dataset.noise=0.05", "batch_size=16", "epochs=1", "optimizer.lr=0.003",
            "eval.statistics=[population,ema]", "device=cpu", "threads=1", "checkpoint.keep=none",
            "progress=false")  # fmt: skip
SMALL = {
    "vgg": ("model.width=8",),
    "resnet": ("model.depth=8", "model.width=8"),
    "torchvision": ("model.name=shufflenet_v2_x0_5",),
    "vit": ("model.depth=2",),
}
REFUSED, DIVERGED, NON_FINITE, FAILED = "refused", "diverged", "non-finite", "failed"


def choices(group: str) -> list[str]:
    """All but model=own, which is what a user makes of it."""
    return [name for name in catalog.choices(group) if name != "own"]


@dataclass(frozen=True)
class Cell:
    """What became of one norm with one model."""

    norm: str
    model: str
    state: str  # complete, or one of the four words above
    val_acc: float | None = None
    reason: str = ""
    seconds: float = 0.0

    @property
    def is_wrong(self) -> bool:
        return self.state not in ("complete", REFUSED)

    @property
    def mark(self) -> str:
        return f"{self.val_acc:.2f}" if self.state == "complete" else self.state


def check(norms: Sequence[str], models: Sequence[str], say: Callable[[str], None] = lambda _: None) -> list[Cell]:
    """Train every cell, model by model."""
    app.register_plugins()
    cells = []
    with initialize_config_module("normbench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for model in models:
            for norm in norms:
                cells.append(train(loader, norm, model))
                say(f"model={model} norm={norm}: {cells[-1].mark} ({cells[-1].seconds:.1f} s)")
    return cells


def train(loader: ConfigLoader, norm: str, model: str) -> Cell:
    """One cell, in a folder of its own."""
    started = time.perf_counter()
    state, val_acc, reason = FAILED, None, ""
    with tempfile.TemporaryDirectory() as folder:
        typed = [f"norm={norm}", f"model={model}", *SETTINGS, *SMALL.get(model, ()), f"out={folder}"]
        try:
            outcome = run.run(jobs.plan(loader, typed).jobs[0].config, announce=lambda _: None, bar=False)
            state, val_acc, reason = read(outcome.record, outcome.folder / "metrics.csv")
        except Impossible as refusal:
            state, reason = REFUSED, str(refusal)
        except Exception as error:  # whatever it is, the other cells are checked all the same
            reason = f"{type(error).__name__}: {error}"
    return Cell(norm, model, state, val_acc, reason, time.perf_counter() - started)


def read(record: Mapping[str, Any], metrics: Path) -> tuple[str, float | None, str]:
    """State, validation accuracy and reason of a run that has ended."""
    if record["state"] != "complete":
        state = DIVERGED if record["state"] == "diverged" else FAILED
        reason = record["reason"] or f"the run ended as {record['state']} at step {record.get('diverged_step')}"
        return state, None, reason
    found = record["statistics"].items()
    numbers = {f"{key} ({kind})": value for kind, measured in found for key, value in measured.items()}
    with metrics.open(newline="") as file:
        *_, last = csv.DictReader(file)
    numbers |= {key: float(value) if value else None for key, value in last.items()}
    wrong = [key for key, value in numbers.items() if value is None or not math.isfinite(value)]
    if wrong:
        return NON_FINITE, None, f"no finite {', '.join(wrong)}"
    return "complete", record["val_acc"], ""


def table(cells: Sequence[Cell], title: str) -> Table:
    """A row for each norm, a column for each model."""
    norms, models = (list(dict.fromkeys(names)) for names in zip(*((c.norm, c.model) for c in cells), strict=True))
    marks = {(cell.norm, cell.model): cell.mark for cell in cells}
    return Table(title, ("norm", *models), [(norm, *(marks[norm, model] for model in models)) for norm in norms])


def reasons(cells: Sequence[Cell]) -> list[str]:
    """Each reason once, with the cells that gave it."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.reason:
            found.setdefault((cell.state, cell.reason), []).append(f"{cell.norm} x {cell.model}")
    return [f"{state}, {', '.join(where)}: {reason}" for (state, reason), where in found.items()]


def counts(cells: Sequence[Cell], seconds: float) -> str:
    states = [cell.state for cell in cells]
    listed = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{len(cells)} cells in {seconds:.0f} s: {listed}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for group in ("norm", "model"):
        known = choices(group)
        parser.add_argument(f"--{group}s", nargs="+", default=known, choices=known, metavar=group.upper())
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    started = time.perf_counter()
    cells = check(args.norms, args.models, lambda line: print(line, file=sys.stderr, flush=True))
    grid, why = table(cells, counts(cells, time.perf_counter() - started)), reasons(cells)
    print("\n".join([as_text(grid), *why]))
    if args.markdown:
        lines = "\n".join(f"- {line}" for line in why)
        args.markdown.write_text(f"{as_markdown(grid)}\n\n{lines}".strip() + "\n", encoding="utf-8")
    return int(any(cell.is_wrong for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
