"""The pages of scripts/gallery.py: docs/claims.md and a part of the README. Pure."""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from normbench.report.answers import TESTED as SYMBOLS
from normbench.report.answers import with_reason
from normbench.words import duration

BEGIN, END = "<!-- scripts/gallery.py -->", "<!-- end -->"  # around the part of the README
FIRST = (  # what a newcomer asks first, in this order; these are in the README
    "bn_speeds_training", "bn_allows_large_lr", "bn_forgives_initialization", "bn_rescues_saturation",
    "bn_placement", "bn_replaces_dropout", "small_batches", "test_time_statistics", "covariate_shift",
    "layernorm_in_rnn", "clipping_stops_explosion", "adam_vs_momentum", "random_beats_grid",
)  # fmt: skip
GROUPS = {  # of docs/claims.md, in its order
    "Batch normalization": (
        "bn_speeds_training", "bn_allows_large_lr", "bn_forgives_initialization", "bn_rescues_saturation",
        "vanishing_gradients", "shallow_nets_need_only_inputs", "bn_placement", "bn_replaces_dropout", "l2_with_bn",
        "batch_noise_regularizes", "noise_robustness", "small_batches", "test_time_statistics", "covariate_shift",
        "santurkar_smoothness", "statistics_in_the_gradient", "scale_invariance", "bias_is_redundant", "bn_cost",
        "cnn_bn_rmsprop",
    ),
    "Other normalizations": (
        "layernorm_in_rnn", "normalizers_compared", "whitening_cost", "input_normalization",
    ),
    "Clipping": ("clipping_stops_explosion", "clip_update_in_adam", "lenet_bn_clip"),
    "Optimizers, learning rates, losses": (
        "adam_vs_momentum", "lr_decay_helps", "lr_matters_most", "cross_entropy_learns_faster",
    ),
    "Searching for settings": ("random_beats_grid", "coarse_to_fine", "log_scale_search", "panda_or_caviar"),
}  # fmt: skip
SHOWN = ("covariate_shift", "bn_allows_large_lr", "small_batches")  # with their pictures
Entry = dict[str, Any]  # of claims.json
Known = Mapping[str, Mapping[str, Any]]  # the claims as their files have them
Readings = Mapping[str, Mapping[str, Any]]  # results/gallery/readings.yaml


def page(gallery: Mapping[str, Any], known: Known, readings: Readings) -> str:
    """docs/claims.md: one table a group, then a section a claim."""
    claims = [name for name, data in known.items() if "quick" in data]
    parts = [INTRODUCTION, counted(gallery, claims), WORDS_OF_VERDICTS]
    for title, names in GROUPS.items():
        parts += [f"## {title}", table(gallery, names, known)]
    papers = [name for name, data in known.items() if "paper" in data]
    parts += ["## Papers' own settings", OF_PAPERS, papers_table(gallery, papers, known)]
    for names in GROUPS.values():
        for name in names:
            parts += section(name, gallery["claims"].get(name), known[name], readings)
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
# What the documents claim, and what came out

<!-- made by scripts/gallery.py from results/gallery/claims.json; do not edit -->

Every claim about normalization, clipping and optimizers in the five documents that normbench was made for (000 on
batch normalization, 001 on networks with normalization and clipping, 002 and 003 on batch normalization, 004 on
training in general) is one command. `normbench reproduce NAME` trains it in minutes (`budget=full`: up to half an
hour on two cores), judges it, and writes a report that begins with what is shown here."""

WORDS_OF_VERDICTS = """\
- **✓ supported**: of every question the 95% interval lies wholly on the claimed side of no effect; of "the same",
  wholly within the margin below which nothing matters.
- **✗ contradicted**: of at least one question it lies on the other side, or within the margin where a difference is
  claimed.
- **✓✗ in part**: a claim says several things; one question at least is supported, and one contradicted.
- **? undecided**: these runs can't tell, or too many reservations stand against what they seem to say. It is not
  "no effect": more seeds and rates might tell.

Each answer says why it is not supported, and, after "though", what is to be said against it all the same: one
reservation makes a verdict weaker ("probably"), two leave it undecided. The intervals are not corrected for the number
of questions: where there is no effect at all, about one in twenty of them excludes it.

A verdict holds for the data, the network and the budget that stand beside it. Each arm is told at its own best
learning rate, chosen without the seed that is reported, unless a rate is named or the caption says that nothing was
tuned; test data are read once. Times are asked about at 70, 80 and 85% validation accuracy, fixed beforehand; a
target that too few runs reach for a ratio, or that is reached by the first evaluation, is not counted, though its row
is shown. What does not matter: 0.5 pp of accuracy
or of a gap, a tenth of a time, 0.01 of a loss, 5% of the milliseconds of a step, a quarter of a decade of learning
rates, 5% of the runs."""

OF_PAPERS = (
    "`budget=paper` is a paper's own setting, as far as normbench has it: PASS, FAIL or NOT COMPARABLE with what was "
    "published, by rules that were fixed beforehand (normbench/report/published.py). Another data set or setting, as "
    "CIFAR-10 from JPEG files, is NOT COMPARABLE, whatever comes out. What it costs is an estimate."
)


def counted(gallery: Mapping[str, Any], claims: Sequence[str]) -> str:
    found = [gallery["claims"][name] for name in claims if name in gallery["claims"]]
    verdicts = Counter(made["verdict"] for made in found)
    full = sum(made["budget"] == "full" for made in found)
    told = ", ".join(f"{verdicts[word]} {word}" for word in SYMBOLS if verdicts[word])
    missing = len(claims) - len(found)
    return (
        f"Of {len(claims)} claims {told or 'none was run'}"
        + (f", {missing} not run" if missing and told else "")
        + f"; {full} at full budget, {len(found) - full} at the quick one "
        "(marked *quick*: fewer images, often fewer seeds)."
    )


def verdict(made: Entry | None) -> str:
    """As in "✓✗ in part (quick): 4 ✓, 1 ✗, 1 ? of 6 questions", where a claim has several of them."""
    if made is None:
        return "not run"
    counts = Counter(answer["verdict"] for answer in told(made))
    several = ", ".join(f"{counts[word]} {symbol}" for word, symbol in SYMBOLS.items() if counts[word])
    quick = " *(quick)*" if made["budget"] == "quick" else ""
    return f"{SYMBOLS[made['verdict']]} {made['verdict']}{quick}" + (
        f": {several} of {counts.total()} questions" if counts.total() > 1 else ""
    )


def told(made: Entry) -> list[Entry]:
    """The answers that tell anything; all where none does."""
    return [answer for answer in made["answers"] if answer["state"] != "REFUSED"] or made["answers"]


def effect(made: Entry | None) -> str:
    """Of the first question that decides the verdict: one that is contradicted, or undecided, if the claim is; beside
    it the first that is supported, if there is one.
    """
    if made is None or not made["answers"]:
        return ""
    found = told(made)
    deciding = "contradicted" if made["verdict"] == "in part" else made["verdict"]
    verdicts = dict.fromkeys(("supported", deciding))
    firsts = [first for word in verdicts if (first := next((a for a in found if a["verdict"] == word), None))]
    firsts = firsts or found[:1]
    return "; ".join(f"{SYMBOLS[first['verdict']]} " * (len(firsts) > 1) + _in_words(first) for first in firsts)


def _in_words(answer: Entry) -> str:
    name = answer["asked"].partition(", claimed")[0]
    return f"{name}, {versus(answer)}: {answer['effect']}"


def versus(answer: Entry) -> str:
    """Both sides as one would type them; what they share is said once, and a list of many equal numbers shortly.

    >>> versus({"of": "norm=bn optimizer.lr=0.1", "than": "norm=none optimizer.lr=0.1", "where": "model=mlp"})
    'norm=bn against none, optimizer.lr=0.1, model=mlp'
    """
    of, than = answer["of"].split(), answer["than"].split()
    shared = [part for part in of if part in than]
    of, than = ([part for part in side if part not in shared] for side in (of, than))
    if [len(of), len(than)] == [1, 1] and of[0].partition("=")[0] == than[0].partition("=")[0]:
        than = [than[0].partition("=")[2]]
    places = [*shared, answer["where"]] if answer["where"] else shared
    said = ", ".join([f"{' '.join(of)} against {' '.join(than)}", *places])
    return re.sub(r"\[(\w+)((?:, ?\1){3,})\]", lambda found: f"[{found[1]} x {found[2].count(',') + 1}]", said)


def table(gallery: Mapping[str, Any], claims: Sequence[str], known: Known) -> str:
    rows = ["| Claim | Verdict | What decides it [95% CI] | Seeds |", "|" + "---|" * 4]
    for name in claims:
        made = gallery["claims"].get(name)
        cells = [
            f"[{sentence(known[name])}](#{name})",
            verdict(made),
            effect(made),
            str(made["runs"]["seeds"]) if made else "",
        ]
        rows.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(rows)


def sentence(data: Mapping[str, Any]) -> str:
    return " ".join(str(data["claim"]).split())


def papers_table(gallery: Mapping[str, Any], papers: Sequence[str], known: Known) -> str:
    rows = ["| Claim | Published | What came out | Expected cost | Command |", "|" + "---|" * 5]
    for name in papers:
        made, data = gallery["papers"].get(name), known[name]["paper"]
        came = f"**{made['paper']['state']}**: {made['paper']['words']}" if made else "not run"
        cells = [name, data["says"], came, data["cost"], f"`normbench reproduce {name} budget=paper`"]
        rows.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(rows)


def command(name: str, made: Entry | None) -> str:
    return f"`normbench reproduce {name}{' budget=full' if made and made['budget'] == 'full' else ''}`"


def cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def section(name: str, made: Entry | None, data: Mapping[str, Any], readings: Readings) -> list[str]:
    """A claim: its words, verdict, what to make of it, picture, what was asked and answered."""
    words = {
        key: " ".join(str((made or data).get(key) or "").split())
        for key in ("claim", "source", "words", "remark", "number")
    }
    said = f"{words['source'][:1].upper()}{words['source'][1:]}" + (f": {words['words']}." if words["words"] else ".")
    parts = [f"### {name}", f"**{words['claim']}**", said]
    parts += [f"The document's own numbers: {words['number']}."] if words["number"] else []
    if made is None:
        return [*parts, f"Not run. `normbench reproduce {name}`", *([words["remark"]] if words["remark"] else [])]
    runs = made["runs"]
    commits = ", ".join(f"{commit[:7]}{'-dirty' if commit.endswith('-dirty') else ''}" for commit in made["commits"])
    parts.append(
        f"**{verdict(made)}** on {', '.join(runs['dataset'])} ({', '.join(runs['model'])}): {runs['n']} runs of "
        f"{runs['seeds']} seeds, {duration(runs['train_s'])} of training, torch {', '.join(made['torch'])}"
        + (f", commit {commits}." if commits else ".")
    )
    parts += [reading] if (reading := read_as(name, made, readings)) else []
    parts += [f"*What was done.* {linked(words['remark'])}"] if words["remark"] else []
    if made["picture"]:
        alt = f"Figure of {name}; verdict: {made['verdict']}"
        parts += [f"![{alt}](../results/gallery/{made['picture']})", made["caption"]]
    rows = ["| Compared | Question | Effect [95% CI] | Answer |", "|---|---|---|---|"]
    for answer in made["answers"]:
        came = f"{SYMBOLS[answer['verdict']]} {with_reason(answer['verdict'], answer['why'])}"
        rows.append(f"| {' | '.join(map(cell, (versus(answer), answer['asked'], answer['effect'], came)))} |")
    parts += ["\n".join(rows)] if made["answers"] else []
    return [*parts, command(name, made)]


def read_as(name: str, made: Entry, readings: Readings) -> str:
    """What a person made of it, as long as verdict and budget are those that were read."""
    found = readings.get(name) or {}
    same = (found.get("verdict"), found.get("budget")) == (made["verdict"], made["budget"])
    return f"*What to make of it.* {' '.join(str(found['text']).split())}" if same else ""


def linked(text: str) -> str:
    return re.sub(r"docs/(\w[\w-]*\.md)", r"[\1](\1)", text)


LEGEND = (
    "✓ supported; ✗ contradicted, the other way or too small to matter; ? undecided, these runs can't tell, which is "
    'not "no effect".'
)


def in_short(gallery: Mapping[str, Any], readings: Readings) -> list[str]:
    """What a person made of several claims together, as long as all their verdicts stand."""
    said = readings.get("in_short") or {"of": {}, "text": ""}
    come = {name: gallery["claims"].get(name, {}).get("verdict") for name in said["of"]}
    return [f"**In short.** {' '.join(str(said['text']).split())}"] if said["of"] and come == said["of"] else []


def in_readme(text: str, gallery: Mapping[str, Any], known: Known, readings: Readings) -> str:
    """The README with its part between the markers made anew.

    Raises:
        SystemExit: it has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"README.md has no {BEGIN} ... {END}")
    claims = [name for name, data in known.items() if "quick" in data]
    rows = ["| Claimed | What came out | What decides it [95% CI] |", "|---|---|---|"]
    for name in FIRST:
        made = gallery["claims"].get(name)
        link = f"[{sentence(known[name])}](docs/claims.md#{name})"
        rows.append(f"| {' | '.join(map(cell, (link, verdict(made), effect(made))))} |")
    pictures = []
    for name in SHOWN:
        made = gallery["claims"].get(name)
        if made and made["picture"]:
            pictures.append(f"**{sentence(known[name])}** {verdict(made)} ([all of it](docs/claims.md#{name}))")
            pictures.append(f"![Figure of {name}; verdict: {made['verdict']}](results/gallery/{made['picture']})")
    parts = [*in_short(gallery, readings), counted(gallery, claims), LEGEND, "\n".join(rows), *pictures]
    return f"{before}{BEGIN}\n" + "\n\n".join(parts) + f"\n{END}{after}"
