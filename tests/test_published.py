"""Runs against a paper's number, with made-up runs: what passes, what fails, and what can't be compared."""

import json

import pytest
from fakes import write_run

from normbench import claim
from normbench.claim import Claim, Paper, Question
from normbench.report import main, published
from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study

SETTING = ("dataset=cifar10", "model=mlp", "batch_size=64")
NUMBER = Paper("91.25% (He et al. 2015)", "1 h (an estimate)", SETTING, "norm=bn", 0.9125, 0.005)


def runs(root, *accuracies, **settings):
    for seed, accuracy in enumerate(accuracies):
        write_run(root, steps=(0, 100, 200), accuracies=(0.1, accuracy, accuracy), losses=(2.3, 0.9, 0.6), seed=seed,
                  **{"norm": "bn", "dataset": "cifar10"} | settings)  # fmt: skip


def judged(root, paper=NUMBER, verdict="undecided"):
    made = study(*collect([root]), Options())
    return published.judged(made, Claim("name", "It is so.", "a paper", "paper", (), paper=paper), verdict)


@pytest.mark.parametrize(
    ("accuracies", "state", "said"),
    [
        ((0.9120, 0.9125, 0.9130), "PASS", "91.25% [91.13, 91.37] over 3 seeds against the published 91.25%"),
        ((0.8990, 0.9000, 0.9010), "FAIL", "90.00%"), ((0.93, 0.931, 0.932), "FAIL", "93.10%"),
        ((0.9060, 0.9125, 0.9190), "NOT COMPARABLE", "the interval reaches over the edge"),
        ((0.9070, 0.9072, 0.9074), "NOT COMPARABLE", "the interval reaches over the edge"),  # 0.9075 is the edge
        ((0.9125, 0.9125), "NOT COMPARABLE", "2 seeds of norm=bn"),
    ],
)  # fmt: skip
def test_a_number_is_met_within_its_tolerance_or_not(tmp_path, accuracies, state, said):
    runs(tmp_path, *accuracies)
    found = judged(tmp_path)
    assert found.state == state
    assert said in found.words


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "imagefolder"}, "3 of 3 runs have another dataset than cifar10"),
        ({"batch_size": 32}, "3 of 3 runs have another batch_size than 64"),
    ],
)
def test_another_setting_is_not_comparable_whatever_comes_out(tmp_path, settings, said):
    runs(tmp_path, 0.9120, 0.9125, 0.9130, **settings)
    found = judged(tmp_path)
    assert (found.state, said in found.words) == ("NOT COMPARABLE", True)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [("supported", "PASS"), ("contradicted", "FAIL"), ("in part", "FAIL"), ("undecided", "NOT COMPARABLE")],
)
def test_an_order_is_met_where_the_questions_support_it(tmp_path, verdict, state):
    runs(tmp_path, 0.9, 0.9, 0.9)
    assert judged(tmp_path, Paper("BN is ahead", "1 h", SETTING), verdict).state == state


def test_other_budgets_have_no_published_number(tmp_path):
    runs(tmp_path, 0.9, 0.9, 0.9)
    assert judged(tmp_path, None) is None


def test_the_report_says_so_first(tmp_path):
    runs(tmp_path, 0.9120, 0.9125, 0.9130)
    made = Claim("it", "ResNet has 91.25%.", "a paper", "paper", (), figure="curves", paper=NUMBER)
    claim.write(tmp_path, made)
    assert claim.read(tmp_path) == made
    assert main([str(tmp_path), "--format", "md,html,json"]) == 0
    told = json.loads((tmp_path / "report/report.json").read_text())["claim"]
    assert (told["verdict"], told["paper"]["state"], told["paper"]["value"]) == ("supported", "PASS", 0.9125)
    assert told["runs"] == {"n": 3, "seeds": 3, "train_s": pytest.approx(6.0), "dataset": ["cifar10"], "model": ["mlp"]}
    text = (tmp_path / "report/report.md").read_text()
    assert "**PASS**: 91.25% [91.13, 91.37] over 3 seeds" in text
    assert "What was asked" not in text
    assert "<strong>PASS</strong>" in (tmp_path / "report/report.html").read_text()


DATA = {"claim": "It is so.", "source": "a paper", "paper": {"says": "91%", "cost": "1 h", "setting": ["a=b"]}}
ASK = {"measure": "test_acc", "of": "norm=bn", "than": "norm=none", "expect": "higher"}


def test_a_papers_questions_go_before_the_claims_own():
    other = {**ASK, "than": "norm=gn"}
    both = DATA | {"asks": [ASK], "paper": {**DATA["paper"], "asks": [other]}}
    assert claim.made("it", both, "paper").asks == (Question(**other),)
    assert claim.made("it", both, "quick").asks == (Question(**ASK),)
    assert claim.made("it", both, "quick").paper is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"paper": {}}, "needs a key paper"), ({}, "needs a key asks"),
        ({"paper": {"says": "91%", "cost": "1 h"}}, "paper needs setting"),
        ({"paper": {**DATA["paper"], "colour": 1}}, "paper has no key colour"),
    ],
)  # fmt: skip
def test_what_is_no_paper_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        claim.made("it", DATA | change, "paper")
