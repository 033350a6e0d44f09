"""Which setting explains how much of the accuracy, from runs whose variance is known."""

import itertools

import pandas as pd
import pytest

from normbench.claim import Question
from normbench.report import shares
from normbench.report.study import Refused

KEYS = "optimizer.lr width depth"


def table(score, seeds=(0, 1)):
    """A run of every lr, width and depth, each seed the same ones."""
    rows = [
        {"seed": seed, "optimizer.lr": lr, "cfg.model.hidden": str([width] * depth), "score": score(lr, width, depth)}
        for seed in seeds
        for lr, width, depth in itertools.product((0.1, 1.0), (16, 32, 64), (1, 2))
    ]
    return pd.DataFrame(rows)


def question(of, than, along=KEYS):
    return Question("importance", of, than, "higher", along=along)


def test_a_share_is_that_of_the_variance_between_the_groups():
    """score = lr + depth with values 0, 1 and 0, 3: of the total of 12 * (0.25 + 2.25) lr explains a tenth."""
    runs = table(lambda lr, width, depth: float(lr == 1.0) + 3.0 * (depth == 2))
    n, found = 12, shares.table(runs, KEYS.split())[0]
    plain = {"optimizer.lr": (0.1, 2), "width": (0.0, 3), "depth": (0.9, 2)}
    for key, (share, groups) in plain.items():
        assert found[key] == pytest.approx(100 * (1 - (1 - share) * (n - 1) / (n - groups)))


def test_the_sides_are_a_mean_and_the_largest():
    runs = table(lambda lr, width, depth: float(lr == 1.0) + 3.0 * (depth == 2))
    own = shares.table(runs, KEYS.split())[1]
    of, than = shares.sides(question("share=optimizer.lr,depth", "largest=width,optimizer.lr"), runs)
    assert of[1] == pytest.approx((own["optimizer.lr"] + own["depth"]) / 2)
    assert than == {0: pytest.approx(own["optimizer.lr"]), 1: pytest.approx(own["optimizer.lr"])}


def test_every_seed_is_a_search_of_its_own():
    runs = pd.concat([table(lambda lr, *_: lr, seeds=(0,)), table(lambda lr, width, depth: depth, seeds=(1,))])
    of, _ = shares.sides(question("share=optimizer.lr", "share=width"), runs.reset_index(drop=True))
    assert of[0] == pytest.approx(100.0)
    assert of[1] < 0


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (question("most=width", "share=depth"), "must be one of share, largest, given 'most'"),
        (question("share=eps", "share=depth"), "must be along, eps is not"),
        (question("share=width", "share=depth", "width depth batch_size"), "no run has a setting batch_size"),
    ],
)
def test_what_cannot_be_told_is_named(ask, said):
    with pytest.raises(Refused, match=said):
        shares.sides(ask, table(lambda lr, width, depth: lr))


def test_too_few_runs_and_settings_that_stay_are_refused():
    runs = table(lambda lr, width, depth: lr)
    with pytest.raises(Refused, match="at least 10 runs, seed 0 has 9"):
        shares.table(runs[:9], ["optimizer.lr"])
    with pytest.raises(Refused, match=r"optimizer\.lr must vary"):
        shares.table(pd.concat([runs[runs["optimizer.lr"] == 1.0]] * 2), ["optimizer.lr", "width"])
