"""Draw docs/schedules.png: every schedule of conf/schedule with its defaults, as its class computes it.

    python scripts/schedules_figure.py                 after a change of a schedule or of conf/schedule
    python scripts/schedules_figure.py --out FILE      somewhere else

One panel a schedule: the factor over a run of 10 epochs, and the same after a warm-up of one epoch; a second panel for
a schedule that moves the momentum, too. What plateau sees are made-up evaluations, drawn with it.
"""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

from normbench import build, catalog
from normbench.report.style import RC
from normbench.schedule import Schedule

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "schedules.png"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"  # the first two are Okabe and Ito's: for any colour vision
EPOCHS, STEPS_PER_EPOCH, COLUMNS = 10, 100, 3
INITIAL = {"lr": 1.0, "momentum": 0.9}
LINES = ((0.0, BLUE, "-", 2.0, "with its defaults"), (1.0, ORANGE, (0, (4, 1.5)), 1.4, "and schedule.warmup_epochs=1"))

# validation losses, one every half epoch, that stop falling, fall again at the lower rate, and stop once more
LOSSES = (0.95, 0.80, 0.69, 0.61, 0.56, 0.53, 0.54, 0.53, 0.55, 0.46, 0.42, 0.40, 0.41, 0.40, 0.42, 0.37, 0.35, 0.34,
          0.335, 0.33, 0.325)  # fmt: skip
ROWS = [{"step": i * STEPS_PER_EPOCH // 2, "val_loss": loss} for i, loss in enumerate(LOSSES)]


def settings_of(name: str) -> dict[str, Any]:
    loaded: Any = OmegaConf.to_container(
        OmegaConf.create((files("normbench.conf") / "schedule" / f"{name}.yaml").read_text())
    )
    return loaded


def course(schedule: Schedule, what: str) -> tuple[list[float], list[float]]:
    """The epochs, and what the setting is at each step of the run."""
    steps, total = range(EPOCHS * STEPS_PER_EPOCH), EPOCHS * STEPS_PER_EPOCH
    seen = [ROWS[: step * 2 // STEPS_PER_EPOCH + 1] for step in steps]
    values = [schedule.values(step, total, rows, INITIAL)[what] for step, rows in zip(steps, seen, strict=True)]
    return [step / STEPS_PER_EPOCH for step in steps], values


def panels() -> Iterator[tuple[str, str]]:
    """(schedule, setting) of every panel."""
    for name in catalog.choices("schedule"):
        made = build.part("schedule", settings_of(name), steps_per_epoch=STEPS_PER_EPOCH)
        yield from ((name, what) for what in made.values(0, EPOCHS * STEPS_PER_EPOCH, [], INITIAL))


def draw(axes: Axes, name: str, what: str) -> None:
    settings = settings_of(name)
    for warmup, colour, dash, width, words in LINES:
        made = build.part("schedule", {**settings, "warmup_epochs": warmup}, steps_per_epoch=STEPS_PER_EPOCH)
        axes.plot(*course(made, what), color=colour, linestyle=dash, linewidth=width, label=words)
    if "metric" in settings:
        axes.plot([row["step"] / STEPS_PER_EPOCH for row in ROWS], LOSSES, ".", color=GREY, markersize=4)
        axes.text(8.7, 0.42, settings["metric"], color=GREY, fontsize=9, ha="center")
    momentum = what == "momentum"
    axes.set_title(f"{name}: momentum" if momentum else name, loc="left", fontsize=10.5, fontweight="bold")
    axes.set_ylabel("momentum" if momentum else "factor")
    axes.set(xlim=(-0.15, EPOCHS + 0.15), ylim=(0.84, 0.96) if momentum else (-0.03, 1.06))
    axes.set_yticks([0.85, 0.90, 0.95] if momentum else [0, 0.5, 1])
    axes.set_xticks(range(0, EPOCHS + 1, 2))


def picture() -> Figure:
    with matplotlib.rc_context(
        {**RC, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 10}
    ):
        shown = list(panels())
        rows = -(-len(shown) // COLUMNS)
        figure = Figure(figsize=(8.6, 0.6 + 2.0 * rows), layout="constrained")
        grid = figure.subplots(rows, COLUMNS, squeeze=False)
        for i, axes in enumerate(grid.flat):
            if i >= len(shown):
                axes.axis("off")
                continue
            draw(axes, *shown[i])
            if i + COLUMNS >= len(shown):
                axes.set_xlabel("epoch")
        figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=PICTURE, metavar="FILE")
    path = parser.parse_args(argv).out
    buffer = io.BytesIO()
    picture().savefig(buffer, format="png", dpi=150)
    image = Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)  # few colours make a small file
    image.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
