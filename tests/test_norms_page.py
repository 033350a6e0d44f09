"""docs/norms.md says what the docstrings say, of every norm; its picture is readable."""

import importlib
import itertools
import re
from pathlib import Path

import pytest
from PIL import Image

from normbench import catalog
from normbench.norm.bn import BatchNorm

ROOT = Path(__file__).resolve().parent.parent
NORMS = list(catalog.choices("norm"))


def imported(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def script():
    return imported("norms_page")


@pytest.fixture(scope="module")
def norm_cost():
    return imported("norm_cost")


@pytest.fixture(scope="module")
def written(script):
    return script.PAGE.read_text(encoding="utf-8")


@pytest.fixture
def elsewhere(script, monkeypatch, tmp_path):
    """The script writes into an empty folder."""
    monkeypatch.setattr(script, "PAGE", tmp_path / "norms.md")
    monkeypatch.setattr(script, "PICTURE", tmp_path / "norm_axes.png")
    return tmp_path


def section(page, name):
    """What the page says of a norm."""
    return re.search(rf"^### {name}\n(.*?)(?=^##)", page, flags=re.DOTALL | re.MULTILINE)[1]


# ---------------------------------------------------------------------------------------------------------- the page


def test_the_page_is_what_the_docstrings_say(script, written):
    assert script.page(script.stored_cost(written)) == written, "run python scripts/norms_page.py"


def test_every_norm_has_its_entry_with_the_line_of_list(script, written, capsys):
    catalog.main(["norm"])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert list(lines) == NORMS
    assert re.findall(r"^### (\w+)$", written, flags=re.MULTILINE) == NORMS
    for name, text in lines.items():
        text = text.removesuffix("[default]").strip()
        assert section(written, name).strip().splitlines()[0] == script.escaped(text)
        assert f"| [{name}](#{name}) | {script.escaped(text)} |" in written


def test_an_entry_has_settings_shapes_refusals_and_paper(norm_settings, written):
    name = norm_settings["name"]
    text = section(written, name)
    for key in norm_settings.keys() - {"name", "_target_"}:
        assert f"| `norm.{key}` | `" in text
    if name != "none":
        for word in ("Shapes", "Running statistics", "A bias before it", "Paper"):
            assert f"- **{word}**: " in text
        assert "](https://arxiv.org/abs/" in text
        assert re.search(r"\b(19|20)\d\d\b", text)


def test_what_the_page_says_of_bn(written):
    text = section(written, "bn")
    assert "y = (x - mean) / sqrt(var + eps) * weight + bias; mean and biased var" in text
    assert "| `norm.eps` | `1.0e-5` | added to var, so in units of x\\*\\*2; > 0. |" in text
    assert "- **Refused**: *ValueError*: eps or momentum out of range" in text
    assert "*Impossible*: one value per channel and batch" in text
    assert "- **Running statistics**: running_mean, running_var\n" in text
    assert "- **A bias before it**: redundant" in text
    assert "- **A bias before it**: matters" in section(written, "ln")
    assert "- **Activation**: replaced by its own" in section(written, "frn")
    assert "Activation" not in text


def test_advice_stands_in_the_entry_of_its_norm(script, written):
    assert {"none", "bn", "ln"} <= set(script.WHEN) <= set(NORMS)
    for name, text in script.WHEN.items():
        assert f"- **Use it**: {script.escaped(text)}\n" in section(written, name)


def test_a_norm_without_advice_and_costs_has_an_entry(script, monkeypatch):
    monkeypatch.delitem(script.WHEN, "bn")
    text = section(script.page(), "bn")
    assert "- **Shapes**: " in text
    assert "Use it" not in text
    assert "Cost" not in text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("standardize every channel", "standardize each channel"),
        ("learn weight and bias", "learn both"),
        ("eps or momentum out of range", "eps out of range"),
        ("algorithms 1 and 2", "algorithm 1"),
        ("kept. Half", "kept; half"),
    ],
)
def test_a_changed_docstring_changes_the_page(script, written, monkeypatch, capsys, before, after):
    assert before in BatchNorm.__doc__
    monkeypatch.setattr(BatchNorm, "__doc__", BatchNorm.__doc__.replace(before, after))
    assert script.page(script.stored_cost(written)) != written
    assert script.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert after in said
    assert "run python scripts/norms_page.py" in said


def test_check_passes_and_writes_nothing(script, written, monkeypatch):
    monkeypatch.setattr(Path, "write_text", None)
    assert script.main(["--check"]) == 0


@pytest.mark.parametrize(("before", "after"), [("affine: learn", "affin: learn"), ("        affine: learn", "  ")])
def test_a_setting_without_explanation_is_refused(script, monkeypatch, before, after):
    monkeypatch.setattr(BatchNorm, "__doc__", BatchNorm.__doc__.replace(before, after))
    with pytest.raises(SystemExit, match=r"Args of normbench\.norm\.bn\.BatchNorm must explain .*affine.*bn\.yaml"):
        script.page()


def test_plain_text_as_markdown(script):
    assert script.escaped("x**2 <b> a_b _c_ |x| [d]") == r"x\*\*2 \<b> a_b \_c\_ \|x\| \[d]"
    assert script.escaped("arXiv 1502.03167, eq. 4") == "[arXiv 1502.03167](https://arxiv.org/abs/1502.03167), eq. 4"


# ---------------------------------------------------------------------------------------------------------- the costs

COST = """\
a machine, 2026; `python scripts/norm_cost.py`

**A training step**

| norm | ms | times none [range] | peak MiB |
| --- | --- | --- | --- |
| none | 10.0 | 1 | 400 |
| bn | 12.0 | 1.20 [1.10, 1.30] | 420 |
| frn † | 13.0 | 1.30 [1.20, 1.40] | 430 |

**A layer**

| norm | 64 x 512 |
| --- | --- |
| ln | 3.20 [3.10, 3.30] |"""


def test_costs_come_in_by_a_file_and_stay(script, elsewhere):
    assert script.main(["--check"]) == 1  # there is no page
    assert script.main([]) == 0
    page = script.PAGE.read_text()
    assert script.NOT_MEASURED in page
    assert "| ? |" in page
    (elsewhere / "cost.md").write_text(COST + "\n")
    assert script.main(["--cost", str(elsewhere / "cost.md")]) == 0
    page = script.PAGE.read_text()
    assert COST in page
    assert script.NOT_MEASURED not in page
    assert page.count("| 1.20 [1.10, 1.30] |") == 2  # the overview has it, too
    assert "- **Cost**: 1.20 \\[1.10, 1.30] times a step without norm" in section(page, "bn")
    assert "- **Cost**: 1.30" in section(page, "frn")
    assert "- **Cost**" not in section(page, "ln")  # only of the first table
    assert script.main([]) == 0
    assert script.PAGE.read_text() == page
    assert script.main(["--check"]) == 0


def test_the_page_has_measured_costs_with_their_conditions(script, written):
    cost = script.stored_cost(written)
    assert {"none", "bn", "ln", "in"} <= set(script.times_none(cost)) <= set(NORMS)
    for words in ("torch 2", "one thread", "`python scripts/norm_cost.py"):
        assert words in cost.splitlines()[0]
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", cost.splitlines()[0])


# --------------------------------------------------------------------------------------------- scripts/norm_cost.py


def test_the_page_reads_what_norm_cost_writes(norm_cost, script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(norm_cost, "SHAPES", ((4, 16, 6, 6), (8, 16)))
    monkeypatch.setattr(norm_cost, "WEIGHTS", ((4, 3, 3, 3), (8, 16)))
    monkeypatch.setattr(norm_cost, "STEPS", 1)
    monkeypatch.setattr(norm_cost, "CALL_S", 0)
    file = tmp_path / "cost.md"
    assert norm_cost.main(["--rounds", "1", "--norms", "in", "wn", "--markdown", str(file)]) == 0
    text = file.read_text()
    assert "`python scripts/norm_cost.py --rounds 1 --norms in wn --markdown cost.md`" in text
    assert str(tmp_path) not in text
    assert list(script.times_none(text)) == ["none", "in", "wn"]
    assert all(re.fullmatch(r"[\d.]+( \[[\d.]+, [\d.]+\])?", times) for times in script.times_none(text).values())
    assert "| in † |" in text
    assert "† with model.norm_full=false" in text
    assert text.count("| norm | ") == 3
    assert "A training step of model=cnn" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(32, 16, 3, 3), (32, 16)], ids=["NCHW", "NC"])
def test_what_is_timed_against_each_other_does_the_same(norm_cost, monkeypatch, shape):
    for label in norm_cost.PLAIN:
        calls = norm_cost.contestants(label, shape, "formula")
        assert (calls is None) == (label in ("in", "frn") and len(shape) == 2)
        for call in (calls or {}).values():
            call()
    monkeypatch.setitem(norm_cost.PLAIN, "bn", lambda x, p: 1.01 * x)
    with pytest.raises(AssertionError, match="not close"):
        norm_cost.contestants("bn", shape, "formula")


def test_a_missed_goal_is_said(norm_cost, monkeypatch):
    monkeypatch.setattr(norm_cost, "SHAPES", ((8, 16),))
    monkeypatch.setattr(norm_cost, "times_as_long", lambda calls, rounds: [1.1, 1.4, 1.5])
    for goal, cell in ((1.3, "1.40 [1.10, 1.50] MISSED"), (1.4, "1.40 [1.10, 1.50]")):
        assert norm_cost.layer_table(["ln"], "formula", goal, 3, print).rows == [("ln", cell)]


# -------------------------------------------------------------------------------------------------------- the picture


def test_the_picture_is_small_and_the_page_shows_it(script, elsewhere, written):
    script.draw(script.PICTURE)
    for path in (script.PICTURE, ROOT / "docs" / "norm_axes.png"):
        assert path.stat().st_size < 150_000
        with Image.open(path) as image:
            assert image.size == (1650, 960)
    assert "](norm_axes.png)" in written


def test_the_pictures_words_do_not_overlap_and_stay_inside(script):
    figure = script.picture()
    figure.canvas.draw()
    texts = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) >= 5 * len(script.PANELS)
    width, height = figure.canvas.get_width_height()
    for text, box in zip(texts, boxes, strict=True):
        assert 0 <= box.x0 < box.x1 <= width, text
        assert 0 <= box.y0 < box.y1 <= height, text
    for (a, box_a), (b, box_b) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        is_legend = "\nlearned mixture" in (a.get_text(), b.get_text())  # its first line is left free for the words
        assert is_legend or not box_a.overlaps(box_b), (a, b)


def test_the_picture_has_norms_that_exist_once(script):
    shown = [name for title, _, _ in script.PANELS for name in title.split(", ")]
    assert set(shown) <= set(NORMS)
    assert len(set(shown)) == len(shown) >= 13
