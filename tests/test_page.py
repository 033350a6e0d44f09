"""The pages for readers: report.html, report.md, LaTeX; the options of the command; names that are markup."""

import json
import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from fakes import write_run
from markupsafe import Markup
from matplotlib.figure import Figure

from normbench import claim, plan
from normbench.report import content, latex, main, style, web
from normbench.report.content import EVIDENCE, SYMBOLS, Card
from normbench.report.figures import KEYS, Drawn
from normbench.report.options import FORMATS, InputError, parse
from normbench.report.paper import Cell, Table, ranges
from normbench.report.state import State
from normbench.report.tables import escaped, markdown

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "<script>alert(1)</script>|$a_b$*\\`{}&lt;"


def report(root, *options):
    assert main([str(root), "--out", str(root / "report"), *options]) == 0
    out = root / "report"
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def pair(root, seeds=range(3), **options):
    for seed in seeds:
        write_run(root, norm="none", seed=seed, accuracies=(0.1, 0.6, 0.78), **options)
        write_run(root, norm="bn", seed=seed, accuracies=(0.1, 0.8, 0.86), **options)


class Page(HTMLParser):
    """What stands in a page: every element with its attributes, its text, and whether all are closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.errors, self.text, self.words = [], [], [], "", {}
        self.feed(text)
        self.close()
        self.errors += self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.errors.append(f"</{tag}> in {self.open[-3:]}")

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    pair(root)
    write_run(root, norm="bn", seed=7, state="failed", top={"reason": "out of memory"})
    return report(root, "--target", "0.75")


@pytest.fixture(scope="module")
def page(files):
    return Page(files["report.html"].decode())


# ----------------------------------------------------------------------------------------------------------------- HTML


def test_the_page_is_well_formed_and_asks_nobody_for_anything(files, page):
    text = files["report.html"].decode()
    assert text.startswith("<!DOCTYPE html>\n")
    assert page.errors == []
    assert not re.search(r"https?:", text)
    assert "<script" not in text
    assert not {"script", "link", "iframe", "object"} & {name for name, _, _ in page.elements}
    assert not [a for _, a, _ in page.elements if any(key.startswith("on") for key in a)]
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(text) < 2_000_000


def test_links_lead_to_files_of_the_report(files, page):
    links = {a["href"] for a in page.all("a")}
    assert links
    assert links <= set(files)
    images = set(re.findall(r"\]\(([^)]+)\)", files["report.md"].decode()))
    assert images
    assert images <= set(files)


def test_what_screen_readers_need(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("title")) == 1 + len(page.all("svg"))
    assert page.words["title"][0] == page.words["h1"][0] == "norm: bn against none on fashion_mini"
    assert len(page.all("caption")) == len(page.all("table")) > 5
    assert {a.get("scope") for a in page.all("th")} == {"col", "row"}
    scrolled = [where for name, _, where in page.elements if name == "table"]
    assert all(where[-1] == "div" for where in scrolled)
    assert len(page.all("figcaption")) == len(page.all("figure"))


def test_every_svg_is_titled_and_no_id_is_there_twice(page):
    ids = [a["id"] for _, a, _ in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    svgs = page.all("svg")
    assert svgs
    for svg in svgs:
        assert svg["role"] == "img"
        assert {"title", "desc"} == {i.rpartition("-")[2] for i in svg["aria-labelledby"].split()}
        assert set(svg["aria-labelledby"].split()) <= set(ids)
    used = {i for _, a, _ in page.elements for value in a.values() for i in re.findall(r"url\(#([^)]+)\)", value or "")}
    used |= {a["href"][1:] for a in page.all("use")}
    assert used
    assert used <= set(ids)


def test_the_first_sentence_is_the_headline_verdict(files, page):
    told = json.loads(files["report.json"])
    assert told["verdict"].startswith("On fashion_mini (mlp, 5 epochs, 200 steps): ")
    [head] = [v for v in told["verdicts"] if v["headline"]]
    body = " ".join(page.text.split()).partition(told["title"])[2].partition(told["title"])[2]
    assert body.startswith(f" {SYMBOLS[head['state']]} {head['state']} norm=bn against norm=none {told['verdict']} ")
    heading, sentence = files["report.md"].decode().split("\n\n")[1:3]
    assert heading.startswith("## ")
    assert sentence.replace("**", "") == escaped(told["verdict"])


def test_where_there_is_nothing_to_compare_the_first_sentence_says_why(tmp_path):
    for seed in range(3):
        write_run(tmp_path, norm="bn", seed=seed)
    files = report(tmp_path)
    told = json.loads(files["report.json"])
    assert told["verdict"].startswith("No verdict: there is nothing to compare")
    assert files["report.md"].decode().split("\n\n")[:2] == ["# normbench report", f"**{told['verdict']}**"]
    page = Page(files["report.html"].decode())
    assert page.errors == []
    assert page.words["strong"][0] == told["verdict"]


def test_a_state_is_a_word_a_symbol_and_a_colour(page, files):
    [head] = [v for v in json.loads(files["report.json"])["verdicts"] if v["headline"]]
    [section] = page.all("section")
    assert section["class"] == f"verdict {head['state'].replace(' ', '-')}"
    css = page.words["style"][0]
    for state in State:
        assert f".{state.replace(' ', '-')}" in css


def test_failures_and_methods_are_told(files):
    text = files["report.md"].decode()
    assert "| failed " in text
    assert "out of memory" in text
    assert "We compared norm=bn with the baseline norm=none (mlp on fashion_mini)." in text
    assert "Every arm had one learning rate; it was not tuned." in text
    assert "75% validation accuracy (declared beforehand)" in text
    assert "All 6 runs finished." in text
    assert files["tables/methods.tex"].decode().startswith("We compared norm=bn with")


def test_the_claim_is_set_apart_from_its_evidence():
    for words in EVIDENCE:
        card = Card("t", State.FASTER, f"On x (mlp): a is better ({words} 2.0). More (or less).", None, ())
        assert (card.claim, card.rest) == ("On x (mlp): a is better", f"({words} 2.0). More (or less).")
    card = Card("t", State.REFUSED, "On x (mlp): no verdict.", None, ())
    assert (card.claim, card.rest) == ("On x (mlp): no verdict.", "")


def test_many_contrasts_are_a_table_and_one_card_is_open(tmp_path):
    for norm in ("none", "a", "b", "c", "d", "e", "f", "g"):
        write_run(tmp_path, norm=norm)
    files = report(tmp_path, "--only", "curves")
    page = Page(files["report.html"].decode())
    assert page.errors == []
    assert len(page.all("section")) == 1
    assert len([a for a in page.all("details") if a.get("class", "").startswith("verdict")]) == 6
    assert "## All verdicts" in files["report.md"].decode()


def test_runs_are_listed_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "MOST_RUNS", 5)
    for seed in range(8):
        write_run(tmp_path, seed=seed, state="paused")
    files = report(tmp_path, "--format", "html,csv")
    text = files["report.html"].decode()
    assert text.count("The first 5 of 8 are listed; data/runs.csv has all.") == 2
    assert text.count("<td>paused</td>") == 10  # 5 among those not complete, and 5 among all
    assert len(files["data/runs.csv"].splitlines()) == 9


# -------------------------------------------------------------------------------------------------------------- figures


def drawn(name, points):
    figure = Figure(figsize=(3, 2))
    axis = figure.add_subplot()
    axis.plot(range(points), [i * 7919 % 101 for i in range(points)])
    return Drawn(name, figure, f"What {name} is. More <b>.", pd.DataFrame({"x": range(points), "y": [0.5] * points}))


def test_figures_share_no_id():
    made = [drawn(name, 5) for name in ("a", "b")]
    texts = [web.inline_svg(item, style.rendered(item.figure, "same", item.caption)["svg"]) for item in made]
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in texts]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert '<title id="a-title">What a is</title><desc id="a-desc">What a is. More &lt;b&gt;.</desc>' in texts[0]


def test_above_the_budget_the_largest_figure_becomes_a_png():
    made = [drawn("small", 5), drawn("large", 4000)]
    rendered = {item.name: style.rendered(item.figure, item.name, item.caption) for item in made}
    assert all("<svg" in text for text in web._images(made, rendered, 1_000_000).values())
    images = web._images(made, rendered, 80_000)
    assert images["small"].startswith("<svg")
    assert images["large"].startswith('<img src="data:image/png;base64,')
    assert 'width="600" height="400" alt="What large is. More &lt;b&gt;."' in images["large"]
    picture = web._picture(made[1], images["large"], FORMATS)
    assert "picture of points" in picture.note


def test_the_page_as_a_whole_keeps_to_the_budget(monkeypatch, tmp_path):
    pair(tmp_path)
    monkeypatch.setattr(web, "MOST_BYTES", 0)  # as after very many verdicts
    text = report(tmp_path, "--format", "html", "--only", "curves")["report.html"].decode()
    assert Page(text).errors == []
    assert (text.count("<svg"), text.count("<img")) in {(0, 1), (1, 0)}  # the smaller one
    monkeypatch.setattr(web, "_inline_png", lambda item, png: Markup("<img>"))
    assert report(tmp_path, "--format", "html", "--only", "curves")["report.html"].decode().count("<svg") == 0


def test_the_data_of_a_figure_are_shown_in_part():
    item = drawn("a", 40)
    item.data["n"] = pd.array([None, *range(39)], dtype="Int64")
    picture = web._picture(item, "", FORMATS)
    assert (len(picture.rows), picture.n_rows, picture.header) == (web.MOST_ROWS, 40, ("x", "y", "n"))
    assert picture.rows[:2] == (("0", "0.5", "–"), ("1", "0.5", "0"))
    assert picture.links == (("PDF", "figures/a.pdf"), ("SVG", "figures/a.svg"), ("CSV", "figures/a.csv"))


# -------------------------------------------------------------------------------------------------------- hostile names


def test_names_that_are_markup_stay_names(tmp_path):
    short = HOSTILE.replace("/", "")  # a norm's name is part of a folder's
    for seed in range(3):
        write_run(tmp_path, norm="none", seed=seed, dataset=HOSTILE)
        write_run(tmp_path, norm=short, seed=seed, dataset=HOSTILE)
    files = report(tmp_path, "--target", "0.7")
    page = Page(files["report.html"].decode())
    assert page.errors == []
    assert b"<script" not in files["report.html"] + files["report.md"]
    assert page.words["h1"] == [f"norm: {short} against none on {HOSTILE}"]
    assert page.words["title"][0] == page.words["h1"][0]
    pipes = {len(re.findall(r"(?<!\\)\|", line)) for line in files["tables/main.md"].decode().splitlines()}
    assert len(pipes) == 1
    tex = files["tables/main.tex"].decode()
    assert r"\textless{}script\textgreater{}alert(1)" in tex
    assert r"\textbar{}\$a\_b\$*\textbackslash{}{`}\{\}\&lt;" in tex
    assert json.loads(files["report.json"])["arms"][1]["setting"]["norm"] == short


def test_markdown_shows_text_as_it_is():
    assert escaped("a|b") == r"a\|b"
    assert escaped("$x$ <b> `c` *d* \\") == r"\$x\$ &lt;b> \`c\` \*d\* \\"
    assert escaped("[a](b) fashion_mini _e_ &lt;\n~f~") == r"[a]\(b) fashion_mini \_e\_ &amp;lt; \~f\~"
    assert markdown({"a": ["1", "2"]}, {(1, 0)}) == "| a     |\n|-------|\n| 1     |\n| **2** |\n"


def test_latex_sets_text_as_it_is():
    assert latex.escaped("50% of a_b & #1 ^~") == r"50\% of a\_b \& \#1 \textasciicircum{}\textasciitilde{}"
    assert latex.escaped("±–→é") == r"$\pm$--$\to$é"
    assert latex.escaped("中 \x07") == r"{[}U+4E2D{]} {[}U+0007{]}"
    cells = (Cell("a_b"), Cell("–"), Cell("2.0x [1.0x, 3.0x]", True), Cell("90 ± 1", True))
    made = Table("main", "T", "C", ("k", "–", "Ratio to", "x"), (cells,), 1, pd.DataFrame())
    row = latex.table(made).splitlines()[8]
    assert row == (
        r"a\_b & -- & \begin{tabular}[t]{@{}r@{}}\textbf{2.0x}\\\scriptsize \textbf{{[}1.0x, 3.0x{]}}\end{tabular} & "
        r"\textbf{90 $\pm$ 1} \\"
    )


def test_latex_tables_are_narrow():
    """What all rows share is in the caption, intervals are in the cell of their mean, arms below what they share."""
    rows = tuple(
        (Cell(norm), Cell(optimizer), Cell("0.1"), Cell("80 ± 1", norm == "bn"), Cell("[79, 81]"), Cell("–"), Cell(end))
        for optimizer, end in (("adam", "3/3"), ("sgd", "2/3")) for norm in ("none", "bn")
    )  # fmt: skip
    header = ("norm", "optimizer", "Learning rate", "Test accuracy, %", "95% CI", "Ratio", "Finished")
    made = Table("main", "T", "Means.", header, rows, 2, pd.DataFrame())
    lines = latex.table(made).splitlines()
    assert lines[2] == r"\caption{Means. In all rows: learning rate: 0.1.}"
    assert lines[4] == r"\begin{tabular}{lrr}"
    assert [line for line in lines if "itshape" in line] == [
        rf"\multicolumn{{3}}{{l}}{{\itshape optimizer={name}}} \\" for name in ("adam", "sgd")
    ]
    interval = r"\begin{tabular}[t]{@{}r@{}}80 $\pm$ 1\\\scriptsize {[}79, 81{]}\end{tabular}"
    assert lines[9] == rf"\quad none & {interval} & 3/3 \\"
    alike = replace(made, header=("norm", "n", "How"), heads=1, rows=((Cell("a"), Cell("3"), Cell("b" * 9)),) * 2)
    assert latex.table(alike).count(r" & 3 \\") == 2  # a table of names alone would be none
    assert "In all rows: how: bbbbbbbbb." in latex.table(alike)
    assert latex.paragraph("fashion_mini") == "fashion\\_\\allowbreak{}mini\n"


def test_the_template_ships_and_is_no_longer_than_it_must_be():
    root = Path(__file__).resolve().parent.parent
    shipped = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert shipped["normbench.report"] == ["template.html"]
    css = (root / "normbench/report/template.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert 50 < len(css.splitlines()) <= 150


def test_seeds_in_words():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7, 8"


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "85"], "given '85'; type --target 0.85"),
        (["--target", "85%"], "type --target 0.85"),
        (["--target", "high"], "type --target 0.85"),
        (["--target", "nan"], "type --target 0.85"),
        (["--target", "0"], "above 0 and at most 1"),
        (["--baseline", "norm"], "must be KEY=VALUE, given 'norm'; type --baseline norm=none"),
        (["--baseline", "norm=zz"], "no run has it; norm is one of none, bn"),
        (["--baseline", "colour=red"], "must be one of norm, optimizer"),
        (["--baseline", "clip=zz"], "no run has it; clip is none in all"),
        (["--x", "epochs"], "invalid choice: 'epochs'"),
        (["--tune-seeds", "a"], "type --tune-seeds 0,1,2"),
        (["--tune-seeds", "0,9"], "no used run has seed 9; the runs have 0, 1, 2"),
        (["--tune-seeds", "0,1,2"], "must leave seeds to report"),
        (["--tune", "optimizer.learning"], "no run has a setting optimizer.learning; did you mean optimizer.lr?"),
        (["--tune", "optimizer.momentu"], "no run has a setting optimizer.momentu"),
        (["--tune", "norm"], "norm and optimizer tell arms apart, given 'norm'"),
        (["--only", "curvs"], f"--only takes {', '.join(KEYS)}, given curvs"),
        (["--only", ","], "given nothing"),
        (["--format", "docx"], "--format takes html, md, json, tex, csv, svg, pdf, png, given docx"),
        (["--fail-on", "BAD"], "--fail-on takes FASTER"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_options_that_cannot_be_are_refused_in_words(tmp_path, capsys, options, said):
    pair(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main([str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("normbench report: ")
    assert said in error
    assert sorted(tmp_path.rglob("*")) == before


def test_the_target_and_the_unit_are_those_asked_for(tmp_path):
    pair(tmp_path)
    told = json.loads(report(tmp_path, "--target", "0.75", "--x", "examples", "--format", "json")["report.json"])
    head = told["verdicts"][0]
    assert (head["metric"], head["target_post_hoc"]) == ("examples_to_0.75", False)
    told = json.loads(report(tmp_path, "--x", "seconds", "--format", "json")["report.json"])
    assert told["verdicts"][0]["metric"].startswith("train_s_to_")
    assert told["verdicts"][0]["target_post_hoc"]


def test_the_baseline_is_the_one_asked_for(tmp_path):
    pair(tmp_path)
    told = json.loads(report(tmp_path, "--baseline", "norm=bn", "--format", "json")["report.json"])
    assert (told["verdicts"][0]["baseline"], told["verdicts"][0]["variant"]) == ("norm=bn", "norm=none")
    assert told["title"] == "norm: none against bn on fashion_mini"


def test_seeds_that_tune_are_not_reported(tmp_path):
    for lr in (0.1, 0.2):
        pair(tmp_path, range(5), optimizer__lr=lr)
    told = json.loads(report(tmp_path, "--tune-seeds", "0,1", "--format", "json")["report.json"])
    assert [[r["seed"] for r in a["reported"]] for a in told["arms"]] == [[2, 3, 4]] * 2
    assert {a["selection"]["how"] for a in told["arms"]} == {"tune/confirm"}


def test_only_what_is_asked_for_is_written_and_nothing_older_stays(tmp_path):
    pair(tmp_path)
    full = report(tmp_path)
    (tmp_path / "report/mine.txt").touch()
    assert {name.rpartition(".")[2] for name in full} == set(FORMATS)
    files = report(tmp_path, "--format", "html,md")
    assert {name.rpartition(".")[2] for name in files} == {"html", "md", "png", "txt"}
    assert not re.search(r"(figures|data|tables)/[\w]+\.(pdf|svg|csv|tex)\b", files["report.html"].decode())
    assert list(report(tmp_path, "--format", "json")) == ["mine.txt", "report.json"]
    told = json.loads(report(tmp_path, "--only", "curves")["report.json"])
    assert told["options"]["figures"] == ["curves"]


def test_a_state_can_fail_a_pipeline(tmp_path, capsys):
    """bn is ahead by 8 pp in each of 3 seeds: the headline of none against bn is WORSE where nothing is reached."""
    pair(tmp_path / "a")
    command = [str(tmp_path / "a"), "--baseline", "norm=bn", "--format", "json", "--target", "0.99"]
    assert main([*command, "--fail-on", "better"]) == 0
    told = json.loads((tmp_path / "a/report/report.json").read_text())
    state = told["verdicts"][0]["state"]
    assert main([*command, "--fail-on", f"BETTER,{state.lower().replace(' ', '_')}"]) == 1
    assert f"a headline verdict is {state}" in capsys.readouterr().err
    write_run(tmp_path / "b")
    assert main([str(tmp_path / "b"), "--format", "json", "--fail-on", "WORSE"]) == 0
    assert main([str(tmp_path / "b"), "--format", "json", "--fail-on", "REFUSED"]) == 1


def test_strict_fails_on_a_damaged_run(tmp_path, capsys):
    pair(tmp_path)
    assert main([str(tmp_path), "--format", "json", "--strict"]) == 0
    [folder, *_] = sorted(path for path in tmp_path.iterdir() if path.name != "report")
    (folder / "metrics.csv").write_text("step\n1\n")
    assert main([str(tmp_path), "--format", "json"]) == 0
    assert main([str(tmp_path), "--format", "json", "--strict"]) == 4
    assert f"1 damaged: {folder.name}" in capsys.readouterr().err
    assert json.loads((tmp_path / "report/report.json").read_text())["counts"]["states"]["damaged"] == 1


def test_help_tells_every_option_and_imports_nothing_heavy(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    for option in ("--out", "--target", "--baseline", "--x", "--tune-seeds", "--only", "--format", "--fail-on",
                   "--strict"):  # fmt: skip
        assert option in text
    with pytest.raises(InputError):
        parse(["--target", "2"])


KEYS_TUNED = ["optimizer.lr", "optimizer.weight_decay"]


def tuned_by_a_plan(root):
    """Two arms, two settings tuned on seeds 1000 and 1001, the best of each confirmed on three more."""
    for norm, best in (("none", 0.1), ("bn", 0.3)):
        for lr in (0.01, 0.1, 0.3, 1.0):
            for seed in (1000, 1001, *((0, 1, 2) if lr == best else ())):
                final = 0.85 if lr == best else 0.6
                write_run(root, norm=norm, optimizer="sgd", optimizer__lr=lr, seed=seed,
                          optimizer__weight_decay=lr / 10, steps=(0, 50, 100, 200), accuracies=(0.1, 0.5, final, final),
                          losses=(2.3, 1.5, 0.9, 0.6))  # fmt: skip
    ranges = plan.Range("optimizer.lr", "log", 0.01, 1.0), plan.Range("optimizer.weight_decay", "log", 1e-3, 0.1)
    arms = tuple(plan.Arm({"norm": norm}, ranges) for norm in ("none", "bn"))
    plan.write(root, plan.Plan("normbench compare norm=none,bn", arms, "grid", 4, 0, (1000, 1001), (0, 1, 2)))


def test_a_folder_with_a_plan_is_reported_by_it(tmp_path):
    tuned_by_a_plan(tmp_path)
    assert main([str(tmp_path), "--format", "json,md"]) == 0
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert told["options"]["compared_by"] == "normbench compare norm=none,bn"
    assert (told["options"]["tuned"], told["options"]["tune_seeds"]) == (KEYS_TUNED, [1000, 1001])
    assert [[r["seed"] for r in arm["reported"]] for arm in told["arms"]] == [[0, 1, 2]] * 2
    assert [arm["selection"]["best"] for arm in told["arms"]] == [[0.1, 0.01], [0.3, 0.03]]
    assert told["verdicts"][0]["target_post_hoc"] is False
    assert (
        "by grid search over optimizer.lr=log(0.01,1) and optimizer.weight_decay=log(0.001,0.1), 4 trials for every arm"
        in told["methods"]
    )


def test_what_was_tuned_can_be_typed(tmp_path):
    tuned_by_a_plan(tmp_path)
    (tmp_path / plan.FILE).unlink()
    given = ["--tune", ",".join(KEYS_TUNED), "--tune-seeds", "1000,1001"]
    assert main([str(tmp_path), "--format", "json", *given]) == 0
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert told["options"]["tuned"] == KEYS_TUNED
    assert [arm["selection"]["best"] for arm in told["arms"]] == [[0.1, 0.01], [0.3, 0.03]]
    assert {"setting": [0.1, 0.01], "n": 3} in told["arms"][0]["selection"]["counts"]


def test_a_damaged_plan_is_named(tmp_path, capsys):
    tuned_by_a_plan(tmp_path)
    (tmp_path / plan.FILE).write_text("{")
    assert main([str(tmp_path)]) == 2
    assert "compare.json is damaged" in (said := capsys.readouterr().err)
    assert "--tune-seeds" in said


def test_a_report_of_runs_for_a_claim_begins_with_it(tmp_path):
    pair(tmp_path)
    ask = {"measure": "test_acc", "of": "norm=bn", "than": "norm=none", "expect": "higher"}
    about = {"claim": "BN <b>helps</b>.", "source": "000 1", "number": "0.8 and 0.9", "remark": "Not so fast."}
    claim.write(tmp_path, claim.made("helps", about | {"asks": [ask]}, "quick"))
    assert main([str(tmp_path)]) == 0
    told = json.loads((tmp_path / "report" / "report.json").read_text())["claim"]
    (answer,) = told["answers"]
    assert (told["verdict"], answer["verdict"]) == ("supported", "supported")
    assert answer["of"].keys() == answer["than"].keys() == {"0", "1", "2"}
    md = (tmp_path / "report" / "report.md").read_text()
    assert md.index("**✓ Supported** (budget quick; 000 1)") < md.index("## ")
    html = (tmp_path / "report" / "report.html").read_text()
    assert "<h1>BN &lt;b&gt;helps&lt;/b&gt;.</h1>" in html
    assert 'class="verdict supported"' in html
    assert html.index("SUPPORTED</span>") < html.index("<figure") < html.index("Not so fast.")


@pytest.mark.parametrize("measure", ["speed", "fall"])
def test_a_claim_that_does_not_fit_the_runs_is_refused(tmp_path, capsys, measure):
    pair(tmp_path)
    ask = {"measure": measure, "of": "norm=bn", "than": "norm=none", "expect": "higher"}
    claim.write(tmp_path, claim.made("helps", {"claim": "So.", "source": "000 1", "asks": [ask]}, "quick"))
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("normbench report: ")
    assert not (tmp_path / "report" / "report.html").exists()
