"""Write docs/norms.md, the page about the norms, and docs/norm_axes.png, its picture.

    python scripts/norms_page.py                after a change of a norm's docstring or of conf/norm
    python scripts/norms_page.py --check        write nothing; exit code 1 if the page is not what this would write
    python scripts/norms_page.py --cost FILE    put in the tables that scripts/norm_cost.py --markdown FILE wrote

What the page says of a norm is read: from the comment and the defaults of conf/norm/<norm>.yaml, from the docstring of
its class, and from the object itself. Written here are only the advice (WHEN), the sections before it, and the picture.
The costs stay as they are between their markers in the page, until --cost brings others.
"""

import argparse
import difflib
import inspect
import io
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from omegaconf import OmegaConf
from PIL import Image

from normbench import assembly, catalog, evaluate
from normbench.norm import Impossible, Norm
from normbench.parts import maker_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURE = DOCS / "norms.md", DOCS / "norm_axes.png"
BEGIN, END = "<!-- cost: written by scripts/norm_cost.py -->", "<!-- end of cost -->"
NOT_MEASURED = "Not measured yet."

WHEN = {
    "none": "The baseline: without it, a difference between two norms does not say whether either of them helps.",
    "bn": "Convolutional networks with batches of 16 or more samples. With fewer its statistics are noisy (ResNet-50 "
    "on ImageNet: 23.6 % error at 32 images a GPU, 34.7 % at 2; Wu & He 2018), and evaluation rests on running "
    "averages, which need some tens of steps.",
    "brn": "Where bn's batches are small, or no independent draws: training then uses nearly what evaluation uses. "
    "Three more numbers to choose, and until the ramp has begun it is bn.",
    "dyt": "In transformers, in the place of ln or rms, where its paper tests it. No statistics means that nothing but "
    "the learned alpha adapts to the scale of the input, so alpha's start and the learning rate matter more.",
    "frn": "Convolutions with small batches: no sample depends on another one. An arm with it differs from the others "
    "in the activation, too, and it needs several positions.",
    "gn": "Convolutions with small batches (ResNet-50 on ImageNet: 24.0 to 24.2 % error from 32 down to 2 images a "
    "GPU; Wu & He 2018). The number of groups must divide the channels of every layer.",
    "in": "Style transfer and image generation, where a picture's contrast should not matter. For classification the "
    "contrast may matter (ResNet-50 on ImageNet: 28.4 % error, bn 23.6 %; Wu & He 2018).",
    "iternorm": "If the question is what decorrelated channels bring, beyond equal scales. A covariance needs many "
    "more values than group_size, and what the iterations leave is no exact whitening.",
    "ln": "Transformers and recurrent networks: no sample or token depends on another one. In convolutional networks "
    "it is behind bn where batches are large (ResNet-50 on ImageNet: 25.3 % error, bn 23.6 %; Wu & He 2018).",
    "rms": "Where ln works and its centring is not needed, as in many transformers; a mean that the channels have in "
    "common stays.",
    "sn": "If it is open which of in, ln and bn suits a layer: the learned mixture stands in run.json under "
    "norm_readings. As long as bn has a share in it, it depends on the batch as bn does.",
    "wn": "Where activations must not depend on statistics at all: its paper tests generative, recurrent and "
    "reinforcement learning networks, too. Only its start on the first batch looks at activations; what they become "
    "later is not held.",
    "ws": "Convolutions with one or two images a device, for which its paper made it, together with the group "
    "normalization that is its default here.",
}

# --------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Doc:
    """A class docstring: what stands before the first section, and the sections."""

    head: str
    sections: dict[str, str]

    def entries(self, section: str) -> dict[str, str]:
        """`name: text` of Args and Raises; what is indented below a line belongs to it."""
        found: dict[str, str] = {}
        for entry in re.split(r"\n(?!\s)", self.sections.get(section, "")):
            names, _, text = entry.partition(":")
            for name in names.split(", ") if entry else ():
                found[name] = " ".join(text.split())
        return found

    def text(self, section: str) -> str:
        return " ".join(self.sections.get(section, "").split())


def parse(docstring: str) -> Doc:
    """Google's style: a section is a capitalized word and a colon alone on a line, and what is indented below it."""
    head, *rest = re.split(r"^([A-Z]\w+):\n", inspect.cleandoc(docstring), flags=re.MULTILINE)
    sections = {name: inspect.cleandoc(body) for name, body in zip(rest[::2], rest[1::2], strict=True)}
    return Doc(head.strip(), sections)


@dataclass(frozen=True)
class Entry:
    """All that the page says of one norm, but for advice and cost."""

    name: str
    what: str  # the line of `normbench list norm`
    doc: Doc
    defaults: dict[str, str]  # as the YAML file writes them
    norm: Norm
    running: list[str]  # its running statistics


def entries() -> list[Entry]:
    return [_entry(name, what) for name, what in catalog.choices("norm").items()]


def _entry(name: str, what: str) -> Entry:
    text = (files("normbench.conf") / "norm" / f"{name}.yaml").read_text()
    settings: Any = OmegaConf.to_container(OmegaConf.create(text))
    norm = assembly.normalization(settings)
    docstring = inspect.getdoc(maker_of("norm", settings["_target_"]))
    if not docstring:
        raise SystemExit(f"norms_page: {settings['_target_']} has no docstring; write one, as CONTRIBUTING.md says")
    doc = parse(docstring)
    as_written = dict(re.findall(r"^(\w+): (\S+)", text, flags=re.MULTILINE))
    defaults = {key: value for key, value in as_written.items() if key not in ("name", "_target_")}
    explained = doc.entries("Args")
    if sorted(explained) != sorted(defaults):
        raise SystemExit(
            f"norms_page: Args of {settings['_target_']} must explain {', '.join(defaults) or 'nothing'}, the "
            f"settings of conf/norm/{name}.yaml; it explains {', '.join(explained) or 'nothing'}"
        )
    layer = norm.layer(16)
    buffers = layer.named_buffers() if evaluate.with_statistics(layer) else ()
    running = [key.rpartition(".")[2] for key, _ in buffers if key.rpartition(".")[2].startswith("running_")]
    return Entry(name, what, doc, defaults, norm, running)


# --------------------------------------------------------------------------------------------------------- writing


def escaped(text: str) -> str:
    """Plain text as Markdown, with links to arXiv."""
    text = re.sub(r"[\\`*<|\[]|(?<!\w)_|_(?!\w)", lambda match: "\\" + match[0], text)
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


def stored_cost(page: str) -> str:
    """What stands between the markers of a page; of a page without them, that there is nothing."""
    found = re.search(f"{re.escape(BEGIN)}\n(.*){re.escape(END)}", page, flags=re.DOTALL)
    return found[1].strip() if found else NOT_MEASURED


def times_none(cost: str) -> dict[str, str]:
    """Norm -> its step's time over that without norm, from the first of norm_cost.py's tables."""
    step = cost.partition("| norm | ms |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| (\w+)(?: †)? \| [\d.]+ \| ([^|]+) \|", step, flags=re.MULTILINE))


def page(cost: str = NOT_MEASURED) -> str:
    """The whole page, with these costs."""
    found, times = entries(), times_none(cost)
    parts = [top(found, times), *(about(entry, times.get(entry.name)) for entry in found)]
    parts.append(COST.format(stored=f"{BEGIN}\n\n{cost}\n\n{END}"))
    return "\n\n".join(parts) + "\n"


def top(found: Sequence[Entry], times: dict[str, str]) -> str:
    rows = [
        (
            f"[{entry.name}](#{entry.name})",
            escaped(entry.what),
            "yes" if entry.running else "no",
            "redundant" if entry.norm.bias_is_redundant else "matters",
            times.get(entry.name, "?"),
        )
        for entry in found
    ]
    header = ("norm", "what it is", "running statistics", "a bias before it", "[time of a step](#cost), none = 1")
    redundant = ", ".join(entry.name for entry in found if entry.norm.bias_is_redundant)
    running = ", ".join(entry.name for entry in found if entry.running)
    return SECTIONS.format(
        overview=table(header, rows),
        redundant=redundant,
        running=running,
        refusal=a_refusal(found),
        picture=PICTURE.name,
    )


def a_refusal(found: Sequence[Entry]) -> str:
    """What norm=in says of the default model's activations."""
    (norm,) = (entry.norm for entry in found if entry.name == "in")
    try:
        norm.check((64,), 64)
    except Impossible as refusal:
        return f"normbench: {refusal}"
    raise SystemExit("norms_page: norm=in must refuse activations (64,), it does not")


def about(entry: Entry, cost: str | None) -> str:
    norm, doc = entry.norm, entry.doc
    explained = doc.entries("Args")
    rows = [(f"`norm.{key}`", f"`{value}`", escaped(explained[key])) for key, value in entry.defaults.items()]
    facts = {
        "Use it": escaped(WHEN[entry.name]) if entry.name in WHEN else "",
        "Shapes": escaped(doc.text("Shape")),
        "Refused": " ".join(f"*{kind}*: {escaped(text)}" for kind, text in doc.entries("Raises").items()),
        "Running statistics": ", ".join(entry.running) or "none: evaluation does what training does",
        "A bias before it": "redundant, left out with `model.bias=auto`" if norm.bias_is_redundant else "matters",
        "Activation": "replaced by its own" if norm.replaces_activation else "",
        "Cost": f"{escaped(cost)} times a step without norm ([cost](#cost))" if cost else "",
        "Paper": escaped(doc.text("Source")),
    }
    parts = [f"### {entry.name}", escaped(entry.what), f"```text\n{doc.head}\n```"]
    parts += [table(("setting", "default", "meaning"), rows)] if rows else []
    parts.append("\n".join(f"- **{word}**: {text}" for word, text in facts.items() if text))
    return "\n\n".join(parts)


SECTIONS = """\
# The norms

<!-- written by scripts/norms_page.py from conf/norm and the docstrings; change those, not this page -->

{overview}

![Which values share a statistic, for each norm]({picture})

In colour: values that share their statistics, a mean and a variance (no mean: the mean square alone). N are the
samples of a batch, C the channels, H and W the positions.

## A fair comparison

    normbench train -m norm=none,bn,gn model=cnn seed=0,1,2 optimizer.lr=0.0003,0.001,0.003

- Runs with equal seeds are pairs: the same split, the same batches in the same order, and the same initial weights in
  every layer that both have. wn and ws express those same weights another way. So compare seed by seed.
- A learning rate that suits one norm may not suit another one. Sweep it for every arm alike, choose by validation
  accuracy, and read the test accuracy of what was chosen.
- Some arms differ in more than the norm: frn brings its activation with it; wn looks at the first batch before it
  starts (`norm.data_init=false`: it does not); resnet starts as its shortcuts where a norm puts no layer behind the
  convolutions (none, wn); a network whose own BatchNorm layers were swapped keeps a learned bias for each channel where
  the norm puts no layer and the layer before has none, so that it does not lose its shifts; and `model.bias=auto`
  leaves out the biases that a norm makes redundant (`model.bias=true` keeps them in every arm).

## The statistics of evaluation

Norms with running statistics ({running}) are evaluated with those by default. Other ways:

    normbench train norm=bn 'eval.statistics=[ema,population,batch]'
    normbench evaluate RUN --statistics population,batch --batch-size 2

- `ema`: the running averages of training.
- `population`: the mean over the batches of one more epoch, with frozen weights, as Ioffe & Szegedy 2015 do it.
- `batch`: those of the batch that is evaluated, as in training; over batches of the training's `batch_size`, unless
  `--batch-size` says otherwise. The images come in an order drawn from `data_seed`, since a data set may be sorted by
  class, and what is left over after the last whole batch joins the others.

With `eval.statistics` all of them stand in run.json under `statistics`; the first is the run's test accuracy in tables.
`normbench evaluate` does it afterwards for a run that kept its checkpoint, and prints loss and accuracy on the
validation and the test images for each way. Where `ema` and `population` differ much, the running averages are the
problem, not the weights; where `batch` with a small batch is much worse than `population`, the batch is. A layer of
your own takes part in all this if it has a `momentum` and buffers called running_*.

## The batch of bn

- `norm.ghost_size=16` takes mean and variance over parts of 16 samples, while the gradient is still that of the whole
  batch: it tells the noise of small statistics from that of small batches.
- `norm.detach_statistics=true` keeps mean and variance out of the gradient. It is the variant that Ioffe & Szegedy
  2015 warn of in section 2, where a bias grows without any change of the loss; `model.bias=true` gives it that bias.

## What is impossible

Some norms are undefined for some activations. Such a run is refused before anything is written, with the reason:

    $ normbench train norm=in model=mlp
    {refusal}

In a sweep the other cells run; the impossible ones are named first and recorded with the state `skipped` and the
reason. in and frn need positions, so mlp, rnn, vit and the layer of 512 of cnn are impossible (`model.norm_full=false`
leaves that one without norm); gn, ws and iternorm have groups that must divide the channels of every layer, which 8 do
not in lenet with its 6 (`norm.num_groups=2`, `norm.group_size=2`).

## Biases

Norms that subtract each channel's own mean make a bias before them redundant: {redundant}.
With `model.bias=auto` such a bias is left out, where the norm stands before the activation (`model.placement=pre`).
gn with one channel a group makes it redundant as well, but `auto` goes by the norm, not by its settings, and keeps it.
ln, and gn with larger groups, subtract a mean that channels share: there a bias matters.

## A norm of your own

Two files and no registration: [CONTRIBUTING.md](../CONTRIBUTING.md) for one that joins this page, the
[README](../README.md#choices) for one that stays yours (`--config-dir`).

## The norms, one by one

The shaded text is the docstring of the norm's class; N are the samples, C the channels of a layer."""

COST = """\
## Cost

One machine, one thread: look at the ratios. How it is measured stands in scripts/norm_cost.py; for a fresh table:

    python scripts/norm_cost.py --markdown cost.md && python scripts/norms_page.py --cost cost.md

{stored}"""

# --------------------------------------------------------------------------------------------------------- the picture

BLUE, ORANGE, DARK, PALE, LINE = "#0072B2", "#E69F00", "#333333", "#F1F2F4", "#7D858F"  # told apart by all eyes
C, N, S = 6, 5, 4  # channels, samples, positions
GROUP = 2  # channels of a group
Box = tuple[int, int, int]  # how many channels, samples and positions, counted from the corner in front
PANELS: tuple[tuple[str, dict[str, Box], str], ...] = (
    ("bn, brn", {BLUE: (1, N, S)}, "each channel, over\nthe batch"),
    ("iternorm", {BLUE: (GROUP, N, S)}, "each group of channels,\nwith covariances"),
    ("in, frn", {BLUE: (1, 1, S)}, "each sample and channel\n(frn: no mean)"),
    ("gn", {BLUE: (GROUP, 1, S)}, "each sample and\ngroup of channels"),
    ("ln, rms", {BLUE: (C, 1, S)}, "each sample\n(rms: no mean)"),
    ("sn", {BLUE: (C, 1, S), ORANGE: (1, N, S), DARK: (1, 1, S)}, "\nlearned mixture"),
    ("ws, wn", {BLUE: (C, 1, S)}, "weights of each output\n(wn: no mean)"),
    ("dyt, none", {}, "no statistics"),
)
FRONT = -0.4  # the middle of a cube, which is as much wider on the left as there are more channels than samples


def picture() -> Figure:
    """For each norm a cube of values; those that share a statistic in colour."""
    figure = Figure(figsize=(11, 6.4))
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0, hspace=0)
    for axes, (title, boxes, words) in zip(figure.subplots(2, 4).flat, PANELS, strict=True):
        labels = ("inputs", "outputs", "kernel") if title.startswith("ws") else ("C", "N", "H, W")
        cube(axes, boxes, labels)
        axes.text(FRONT, 8.6, title, ha="center", fontsize=17, fontweight="bold")
        axes.text(FRONT, -1.0, words, ha="center", va="top", fontsize=13, linespacing=1.3)
        if len(boxes) > 1:
            for x, word, colour in ((-3.4, "in", DARK), (-1.3, "ln", BLUE), (0.8, "bn", ORANGE)):
                axes.add_patch(Rectangle((x, -1.75), 0.55, 0.55, color=colour))
                axes.text(x + 0.75, -1.0, word, va="top", fontsize=13, linespacing=1.3)
        axes.set(xlim=(FRONT - 5.8, FRONT + 5.8), ylim=(-3.7, 9.8), aspect="equal")
        axes.axis("off")
    return figure


def cube(axes: Axes, boxes: dict[str, Box], labels: tuple[str, str, str]) -> None:
    """The three faces that are seen, value by value; a later box lies over the earlier ones."""
    for light, corners, value in squares():
        colour = PALE
        for box_colour, box in boxes.items():
            if all(i < end for i, end in zip(value, box, strict=True)):
                colour = box_colour
        rgb = to_rgb(colour)
        rgb = tuple(1 - (1 - x) * (1 - light) for x in rgb) if light > 0 else tuple(x * (1 + light) for x in rgb)
        axes.add_patch(Polygon(corners, facecolor=rgb, edgecolor=LINE, linewidth=0.9, joinstyle="round"))
    for label, (x, y), ha in ((labels[0], at(C / 2, 0, 0), "right"), (labels[1], at(0, N / 2, 0), "left")):
        axes.text(x, y - 0.25, label, ha=ha, va="top", fontsize=13)
    x, y = at(C, 0, S / 2)
    axes.text(x - 0.25, y, labels[2], ha="right", va="center", fontsize=13, rotation=90)


def at(c: float, n: float, s: float) -> tuple[float, float]:
    """Where a corner of a value is drawn: channels to the left, samples to the right, positions up."""
    return 0.8 * (n - c), 0.42 * (n + c) + 0.9 * s


def squares() -> Iterator[tuple[float, list[tuple[float, float]], Box]]:
    """Light (> 0: lighter), corners and value of every square that is seen: left face, right face, top."""
    ring = ((0, 0), (1, 0), (1, 1), (0, 1))
    for c, s in itertools.product(range(C), range(S)):
        yield 0.0, [at(c + i, 0, s + j) for i, j in ring], (c, 0, s)
    for n, s in itertools.product(range(N), range(S)):
        yield -0.12, [at(0, n + i, s + j) for i, j in ring], (0, n, s)
    for c, n in itertools.product(range(C), range(N)):
        yield 0.3, [at(c + i, n + j, S) for i, j in ring], (c, n, S - 1)


def draw(path: Path) -> None:
    """Few colours make a small file."""
    buffer = io.BytesIO()
    picture().savefig(buffer, format="png", dpi=150)
    Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


# ------------------------------------------------------------------------------------------------------------ main


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--cost", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    text = page(args.cost.read_text(encoding="utf-8").strip() if args.cost else stored_cost(before))
    if args.check:
        changes = difflib.unified_diff(
            before.splitlines(), text.splitlines(), PAGE.name, "as it should be", lineterm=""
        )
        shown = list(changes)[:30] + ([] if PICTURE.exists() else [f"there is no {PICTURE.name}"])
        if shown:
            print("\n".join([*shown, "norms_page: run python scripts/norms_page.py"]), file=sys.stderr)
        return int(bool(shown))
    PAGE.write_text(text, encoding="utf-8")
    draw(PICTURE)
    print(f"{PAGE.name}: {len(text):,} characters; {PICTURE.name}: {PICTURE.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
