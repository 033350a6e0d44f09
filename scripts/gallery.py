r"""Make results/gallery/, docs/claims.md and the README's table of claims from the reports of `normbench reproduce`.

    normbench reproduce bn_speeds_training covariate_shift budget=full
    python scripts/gallery.py results/bn_speeds_training results/covariate_shift
    python scripts/gallery.py --check         exit code 1 if the pages are not what claims.json says

Each folder adds its claim to results/gallery/claims.json, or takes the place of an earlier one: the full budget goes
before the quick one, and budget=paper has a place of its own. Every number comes from the folder's report.json. What a
person made of a verdict is in results/gallery/readings.yaml, and is shown as long as that verdict stands.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from gallery_pages import Entry, in_readme, page  # pyright: ignore[reportMissingImports]

from normbench import reproduce

ROOT = Path(__file__).resolve().parents[1]
GALLERY, PAGE, README = ROOT / "results" / "gallery", ROOT / "docs" / "claims.md", ROOT / "README.md"
MOST_SVG, MOST_ALL = 150_000, 4_000_000  # bytes: of an SVG, else it is a PNG; of all pictures together
VERSION = 1
BUDGETS = ("full", "quick")  # the first that was run is shown


def main(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="of normbench reproduce, with a report inside")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    given = parser.parse_args(args)
    gallery = read(GALLERY / "claims.json")
    if not given.check:
        for folder in given.folders:
            add(gallery, folder, GALLERY)
        write(GALLERY / "claims.json", (json.dumps(gallery, indent=1, ensure_ascii=False) + "\n").encode())
    known = reproduce.known()
    readings = yaml.safe_load((GALLERY / "readings.yaml").read_text())
    pages = {PAGE: page(gallery, known, readings), README: in_readme(README.read_text(), gallery, known, readings)}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if given.check:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        print(
            f"out of date: {names}; run python scripts/gallery.py" if stale else "the pages are what claims.json says"
        )
        return 1 if stale else 0
    for path in stale:
        write(path, pages[path].encode())
    if (size := sum(path.stat().st_size for path in GALLERY.iterdir() if path.suffix in (".svg", ".png"))) > MOST_ALL:
        print(f"gallery: the pictures take {size:,} bytes, more than {MOST_ALL:,}", file=sys.stderr)
        return 1
    return 0


def read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"format_version": VERSION, "claims": {}, "papers": {}}
    found = json.loads(path.read_text())
    if found["format_version"] != VERSION:
        sys.exit(f"{path} has format_version {found['format_version']}, this script makes {VERSION}")
    return found


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# -------------------------------------------------------------------------------------------------------------- adding


def add(gallery: dict[str, Any], folder: Path, into: Path) -> None:
    """The claim of one folder, and its picture.

    Raises:
        SystemExit: there is no report of a claim in it.
    """
    try:
        report = json.loads((folder / "report" / "report.json").read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{folder} has no report that can be read ({error}); normbench reproduce makes one")
    if not report.get("claim") or "runs" not in report["claim"]:
        sys.exit(f"{folder} has the report of no claim, or of an earlier version; normbench reproduce makes one")
    made = entry(report)
    name, budget = made["name"], made["budget"]
    place = gallery["papers" if budget == "paper" else "claims"]
    before = place.get(name)
    if before and budget in BUDGETS and BUDGETS.index(budget) > BUDGETS.index(before["budget"]):
        print(f"{name}: kept with budget={before['budget']}, {folder} has budget={budget}")
        return
    made["picture"] = picture(folder, made.pop("leading"), into, name + "_paper" * (budget == "paper"))
    place[name] = made
    for key in ("claims", "papers"):
        gallery[key] = dict(sorted(gallery[key].items()))
    print(f"{name}: {made['verdict']}, budget={budget}")


def entry(report: Mapping[str, Any]) -> Entry:
    """What the pages tell of a report, its numbers as they are there."""
    claim, versions = report["claim"], report["versions"]
    figure = next((f for f in report["figures"] if f["name"] == claim["figure"]), None)
    answers = [
        {key: answer[key] for key in ("asked", "effect", "why", "where", "verdict")}
        | {key: answer["question"][key] for key in ("measure", "of", "than", "expect")}
        | {key: answer["row"][key] for key in ("state", "sentence", "n_pairs")}
        for answer in claim["answers"]
    ]
    shared = {key: claim[key] for key in ("name", "claim", "source", "words", "number", "remark", "budget", "verdict")}
    made = {"commits": versions["git_commit"], "torch": versions["torch_version"], "devices": versions["device"]}
    told = shared | {"runs": claim["runs"], "answers": answers, "caption": figure["caption"] if figure else ""}
    if "paper" in claim:
        told["paper"] = {key: claim["paper"][key] for key in ("state", "words", "says", "cost")}
    return told | made | {"newest_run": report["newest_run"], "leading": figure["name"] if figure else ""}


def picture(folder: Path, figure: str, into: Path, name: str) -> str:
    """The name of the file that was written into the gallery; "" where the report has no such figure."""
    for suffix in (".svg", ".png"):  # of an earlier report
        (into / f"{name}{suffix}").unlink(missing_ok=True)
    source = folder / "report" / "figures" / figure
    if not figure or not source.with_suffix(".svg").exists():
        return ""
    svg = smaller(source.with_suffix(".svg").read_text())
    fits = len(svg.encode()) <= MOST_SVG
    data = svg.encode() if fits else source.with_suffix(".png").read_bytes()
    made = into / f"{name}{'.svg' if fits else '.png'}"
    write(made, data)
    return made.name


def smaller(svg: str) -> str:
    """Coordinates to a hundredth of a point, and no metadata: nothing that can be seen."""
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"(?<=[\s\"(,LMCQ-])\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
