"""What ways of searching find in a table of runs whose best place is known."""

import itertools

import pandas as pd
import pytest
from fakes import write_run

from normbench import claim
from normbench.claim import Claim, Question
from normbench.report import answers, main, searched
from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study
from normbench.report.study import Refused

LR = "optimizer.lr"
LRS = (0.0001, 0.001, 0.01, 0.1, 1.0)


def table(score, keys=(LR,), levels=(LRS,), seeds=(0, 1)):
    rows = [
        dict(zip(keys, place, strict=True)) | {"seed": seed, "score": score(*place), "test_score": score(*place) - 0.01}
        for seed in seeds
        for place in itertools.product(*levels)
    ]
    return pd.DataFrame(rows)


def test_what_is_found_is_chosen_by_validation_and_told_by_test():
    runs = table(lambda lr: 0.9 if lr == 0.1 else 0.5)
    assert searched.accuracy(runs, [LR], "search=random", 5) == {0: pytest.approx(0.89), 1: pytest.approx(0.89)}
    runs["test_score"] = [0.3 if score == 0.9 else 0.99 for score in runs["score"]]
    assert searched.accuracy(runs, [LR], "search=random", 5)[0] == pytest.approx(0.3)


def test_two_different_places_at_random():
    found = searched.accuracy(table(lambda lr: 0.9 if lr == 0.1 else 0.4), [LR], "search=random", 2)[0]
    assert found == pytest.approx(0.39 + 0.5 * 2 / 5, abs=0.04)  # 500 draws of deviation 0.25


def test_random_sees_more_levels_of_the_one_setting_that_matters():
    keys, levels = (LR, "optimizer.momentum"), (tuple(range(1, 10)), tuple(range(9)))
    runs = table(lambda lr, _: 0.9 if lr == 7 else 0.5, keys, levels)
    random, grid = (searched.accuracy(runs, keys, way, 9)[0] for way in ("search=random", "search=grid"))
    assert grid == pytest.approx(0.49 + 0.4 * 3 / 9, abs=0.04)  # three of nine levels
    assert random == pytest.approx(0.49 + 0.4 * 0.667, abs=0.04)  # 1 - C(72, 9) / C(81, 9) = 0.673


def test_a_linear_scale_hardly_ever_draws_a_small_rate():
    runs = table(lambda lr: 0.9 if lr == 0.001 else 0.5)
    linear, log = (searched.accuracy(runs, [LR], way, 8)[0] for way in ("scale=linear", "scale=log"))
    assert linear < 0.49 + 0.4 * 0.06  # nearest to 0.001: 0.5 % of the draws
    assert log == pytest.approx(0.49 + 0.4 * (1 - 0.8**8), abs=0.04)


def test_a_second_round_looks_near_the_best_of_the_first():
    level = tuple(range(64))
    runs = table(lambda lr: 0.9 - abs(lr - 40) / 100, levels=(level,))
    one, two = (searched.accuracy(runs, [LR], way, 16)[0] for way in ("rounds=1", "rounds=2"))
    assert two > one + 0.005
    assert searched.accuracy(runs, [LR], "rounds=2", 64)[0] <= 0.89


@pytest.mark.parametrize(
    ("keys", "way", "trials", "words"),
    [([LR], "search=halving", 4, "of and than must be one of"), (["clip.max_norm"], "rounds=1", 4, "--tune"),
     ([LR], "rounds=1", 6, "at most 5"), ([LR], "scale=log", 1, "at least 2")],
)  # fmt: skip
def test_what_cannot_be_searched(keys, way, trials, words):
    with pytest.raises(searched.Incomplete, match=words):
        searched.accuracy(table(lambda lr: lr), keys, way, trials)


def test_a_grid_has_a_power_of_trials():
    runs = table(lambda lr, m: lr * m, (LR, "optimizer.momentum"), (LRS, LRS))
    with pytest.raises(searched.Incomplete, match="to the power of 2, given 5"):
        searched.accuracy(runs, (LR, "optimizer.momentum"), "search=grid", 5)


def test_a_seed_without_every_place_is_left_out():
    runs = table(lambda lr: lr)
    assert set(searched.accuracy(runs.iloc[1:], [LR], "search=random", 2)) == {1}


def test_a_question_of_two_ways(tmp_path):
    for seed in range(4):
        for rate in LRS:
            final = (0.9 if rate == 0.001 else 0.5) + 0.001 * seed
            write_run(tmp_path, accuracies=(0.1, final, final), seed=seed, optimizer__lr=rate)
    made = study(*collect([tmp_path]), Options())
    ask = Question("found", "scale=log", "scale=linear", "higher", ("trials=8",), LR)
    (answer,) = answers.answers(made, Claim("n", "c", "s", "quick", (ask,)))
    assert answer.verdict == "supported"
    assert answer.row.effect == pytest.approx(0.33, abs=0.04)
    claim.write(tmp_path, Claim("n", "c", "s", "quick", (ask,)))
    assert main([str(tmp_path), "--out", str(tmp_path / "report"), "--format", "md"]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "scale=log against scale=linear" in text
    assert "test accuracy, along optimizer.lr, claimed to be higher" in text
    with pytest.raises(Refused, match="found: of and than"):
        answers.answers(made, Claim("n", "c", "s", "quick", (Question("found", "a=b", "c=d", "same", (), LR),)))
