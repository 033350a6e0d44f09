"""The gallery: from reports to claims.json, docs/claims.md and the README, one claim at a time; and what is kept."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from fakes import write_run

from normbench import claim, reproduce
from normbench.report import main as report

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def gallery():
    sys.path.insert(0, str(ROOT / "scripts"))
    import gallery  # pyright: ignore[reportMissingImports]

    yield gallery
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A folder with the report of bn_placement's runs, made up, as budget=quick."""
    folder = tmp_path_factory.mktemp("runs") / "bn_placement_quick"
    for activation in ("relu", "sigmoid"):
        for placement, final in (("pre", 0.85), ("post", 0.8)):
            for seed in range(3):
                early = 0.75 if placement == "pre" else 0.5
                write_run(folder, steps=(0, 20, 40, 60, 80, 100), accuracies=(0.1, 0.5, early, 0.75, final, final),
                          losses=[1.0] * 6, seed=seed, norm="bn", model__placement=placement,
                          model__activation=activation)  # fmt: skip
    claim.write(folder, claim.made("bn_placement", reproduce.known()["bn_placement"], "quick"))
    assert report([str(folder), "--format", "json,svg,png", "--only", "curves,answers"]) == 0
    return folder


@pytest.fixture
def place(gallery, tmp_path, monkeypatch):
    """The script with a gallery, a page and a README of its own, where nothing was run."""
    (tmp_path / "README.md").write_text("# It\n\n<!-- scripts/gallery.py -->\nold\n<!-- end -->\n\nMore.\n")
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "readings.yaml").write_text("{}\n")
    for name, path in {"ROOT": "", "GALLERY": "gallery", "PAGE": "claims.md", "README": "README.md"}.items():
        monkeypatch.setattr(gallery, name, tmp_path / path)
    return tmp_path


def test_the_pages_are_what_claims_json_says(gallery, capsys):
    assert gallery.main(["--check"]) == 0, capsys.readouterr().out


def test_every_picture_is_there_and_all_are_small(gallery):
    found = gallery.read(gallery.GALLERY / "claims.json")
    made = [*found["claims"].values(), *found["papers"].values()]
    pictures = {entry["picture"] for entry in made} - {""}
    assert all((gallery.GALLERY / name).stat().st_size <= 700_000 for name in pictures)
    assert all((gallery.GALLERY / name).stat().st_size <= gallery.MOST_SVG for name in pictures if name.endswith("svg"))
    every = [path for path in gallery.GALLERY.iterdir() if path.suffix in (".svg", ".png")]
    assert sum(path.stat().st_size for path in every) <= gallery.MOST_ALL
    assert {path.name for path in every} <= pictures | {"optimizers.png"}


def test_a_claim_is_added_with_its_picture_and_its_numbers(gallery, place, reported, capsys):
    assert gallery.main([str(reported)]) == 0
    told = json.loads((reported / "report" / "report.json").read_text())["claim"]
    made = json.loads((place / "gallery" / "claims.json").read_text())["claims"]["bn_placement"]
    assert (made["verdict"], made["runs"]["n"], made["runs"]["seeds"]) == (told["verdict"], 12, 3)
    assert [answer["effect"] for answer in made["answers"]] == [answer["effect"] for answer in told["answers"]]
    assert (place / "gallery" / made["picture"]).read_text().count("<svg") == 1
    page, readme = (place / "claims.md").read_text(), (place / "README.md").read_text()
    row = next(line for line in page.splitlines() if "](#bn_placement)" in line)
    marked = f"{told['verdict']} *(quick)*: "
    decides = next(answer for answer in told["answers"] if answer["verdict"] == told["verdict"])
    assert all(text in row for text in (marked, decides["effect"], "| 3 |"))
    assert f"](../results/gallery/{made['picture']})" in page
    assert "old" not in readme
    assert readme.startswith("# It\n")
    assert readme.endswith("<!-- end -->\n\nMore.\n")
    assert marked in readme
    assert page.count("\nNot run. ") == 34
    assert gallery.main(["--check"]) == 0
    (place / "claims.md").write_text(page.replace(told["verdict"], "proved"))
    assert gallery.main(["--check"]) == 1
    assert "out of date: claims.md" in capsys.readouterr().out


def budget(folder, tmp_path, name):
    """The same report as another budget's."""
    made = json.loads((folder / "report" / "report.json").read_text())
    made["claim"]["budget"] = name
    if name == "paper":
        made["claim"]["paper"] = {"state": "PASS", "words": "it is", "says": "91%", "cost": "1 h"}
    other = tmp_path / name / "report"
    other.mkdir(parents=True)
    (other / "report.json").write_text(json.dumps(made))
    return other.parent


def test_the_full_budget_goes_before_the_quick_one(gallery, place, reported, tmp_path, capsys):
    full = budget(reported, tmp_path, "full")
    for folders in ([reported], [full], [reported]):
        assert gallery.main([str(folder) for folder in folders]) == 0
    made = json.loads((place / "gallery" / "claims.json").read_text())["claims"]["bn_placement"]
    assert (made["budget"], made["picture"]) == ("full", "")
    assert "kept with budget=full" in capsys.readouterr().out
    text = (place / "claims.md").read_text()
    assert "normbench reproduce bn_placement budget=full" in text
    assert not list((place / "gallery").glob("bn_placement.*")), "a picture of the quick budget beside full numbers"


def test_a_papers_budget_has_a_place_of_its_own(gallery, place, reported, tmp_path):
    assert gallery.main([str(budget(reported, tmp_path, "paper"))]) == 0
    found = json.loads((place / "gallery" / "claims.json").read_text())
    assert (found["claims"], list(found["papers"])) == ({}, ["bn_placement"])
    assert "| not run |" in (place / "claims.md").read_text()


def test_a_folder_without_a_claim_is_named(gallery, place, tmp_path):
    with pytest.raises(SystemExit, match="has no report that can be read"):
        gallery.main([str(tmp_path)])
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text('{"claim": null}')
    with pytest.raises(SystemExit, match="the report of no claim"):
        gallery.main([str(tmp_path)])


def test_a_large_svg_is_shown_as_png(gallery, tmp_path):
    figures = tmp_path / "report" / "figures"
    figures.mkdir(parents=True)
    (figures / "curves.svg").write_text("<svg>" + "x" * gallery.MOST_SVG + "</svg>")
    (figures / "curves.png").write_bytes(b"png")
    assert gallery.picture(tmp_path, "curves", tmp_path, "it") == "it.png"
    (figures / "curves.svg").write_text(
        '<svg><metadata>\n<a/></metadata><path d="M 1.23456789 L 2.5 3,0.001234"/></svg>'
    )
    assert gallery.picture(tmp_path, "curves", tmp_path, "it") == "it.svg"
    assert (tmp_path / "it.svg").read_text() == '<svg><path d="M 1.23 L 2.5 3,0.00"/></svg>'
    assert not (tmp_path / "it.png").exists()


def test_every_claim_is_in_one_group(gallery):
    from gallery_pages import GROUPS  # pyright: ignore[reportMissingImports]

    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(name for name, data in reproduce.known().items() if "quick" in data)


def test_what_a_person_made_of_a_verdict_goes_with_it(gallery):
    from gallery_pages import read_as  # pyright: ignore[reportMissingImports]

    readings = {"it": {"verdict": "undecided", "budget": "quick", "text": "Too few\n  seeds."}}
    made = {"verdict": "undecided", "budget": "quick"}
    assert read_as("it", made, readings) == "*What to make of it.* Too few seeds."
    assert read_as("it", made | {"verdict": "supported"}, readings) == ""
    assert read_as("it", made | {"budget": "full"}, readings) == ""
    assert read_as("other", made, readings) == ""


def test_what_is_said_in_short_goes_with_all_its_verdicts(gallery):
    from gallery_pages import in_short  # pyright: ignore[reportMissingImports]

    readings = {"in_short": {"of": {"a": "supported", "b": "undecided"}, "text": "So\n  so."}}
    claims = {"a": {"verdict": "supported"}, "b": {"verdict": "undecided"}}
    assert in_short({"claims": claims}, readings) == ["**In short.** So so."]
    assert in_short({"claims": {"a": claims["a"]}}, readings) == in_short({"claims": {}}, {}) == []


def test_every_reading_is_shown(gallery):
    from gallery_pages import read_as  # pyright: ignore[reportMissingImports]

    found = gallery.read(gallery.GALLERY / "claims.json")["claims"]
    readings = yaml.safe_load((gallery.GALLERY / "readings.yaml").read_text())
    short = readings.pop("in_short")
    assert {name: found[name]["verdict"] for name in short["of"]} == short["of"], "so has what is said in short"
    stale = [name for name in readings if not read_as(name, found[name], readings)]
    assert not stale, "these verdicts have changed; read them anew, in results/gallery/readings.yaml"


@pytest.mark.parametrize(
    ("of", "than", "where", "said"),
    [
        ("norm=bn lr=0.1", "norm=none lr=0.1", "model=mlp", "norm=bn against none, lr=0.1, model=mlp"),
        ("norm=bn norm.ghost_size=0", "norm=gn", "", "norm=bn norm.ghost_size=0 against norm=gn"),
        ("norm=bn clip=norm", "norm=none clip=none", "", "norm=bn clip=norm against norm=none clip=none"),
        ("hidden=[64,64,64,64,64]", "hidden=[64,32]", "x=[8, 8, 8, 8]", "hidden=[64 x 5] against [64,32], x=[8 x 4]"),
    ],
)
def test_what_the_sides_share_is_said_once(gallery, of, than, where, said):
    from gallery_pages import versus  # pyright: ignore[reportMissingImports]

    assert versus({"of": of, "than": than, "where": where}) == said


def test_what_stands_in_a_table_cannot_break_it(gallery):
    from gallery_pages import counted, effect, verdict  # pyright: ignore[reportMissingImports]

    assert verdict(None) == "not run"
    none = {"asked": "steps to 80%, claimed to be lower", "effect": "–", "where": "", "state": "REFUSED",
            "verdict": "undecided", "of": "norm=bn", "than": "norm=none"}  # fmt: skip
    good = none | {"asked": "test accuracy, claimed to be higher", "effect": "+1 pp [+0.5, +1.5]", "state": "BETTER",
                   "verdict": "supported", "where": "model=mlp"}  # fmt: skip
    bad = good | {"effect": "-1 pp [-1.5, -0.5]", "verdict": "contradicted", "where": ""}
    made = {"verdict": "in part", "budget": "quick", "answers": [none, good, bad]}
    assert verdict(made) == "✓✗ in part *(quick)*: 1 ✓, 1 ✗ of 2 questions"
    yes, no = "none, model=mlp: +1 pp [+0.5, +1.5]", "none: -1 pp [-1.5, -0.5]"
    assert effect(made) == f"✓ test accuracy, norm=bn against {yes}; ✗ test accuracy, norm=bn against {no}"
    assert effect(made | {"verdict": "contradicted", "answers": [none, bad]}) == f"test accuracy, norm=bn against {no}"
    assert effect(made | {"verdict": "supported"}).endswith(f"against {yes}")
    assert verdict(made | {"verdict": "contradicted", "budget": "full", "answers": [bad]}) == "✗ contradicted"
    assert effect({"answers": []}) == ""
    assert counted({"claims": {}}, ["a", "b"]).startswith("Of 2 claims none was run; 0 at full budget")
