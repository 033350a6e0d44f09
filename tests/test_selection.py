"""Choosing settings, and what a search says of itself."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.plan import Range
from normbench.report import search, selection
from normbench.report.selection import choose

LRS = (0.001, 0.01, 0.1, 1.0)


def runs(scores, lrs=LRS, seeds=None):
    """scores[lr][seed] as a table of runs; None: that run is missing."""
    table = [
        {"optimizer.lr": lr, "lr": lr, "seed": seed, "score": score, "test_acc": score - 0.01}
        for lr, row in zip(lrs, scores, strict=True)
        for seed, score in zip(seeds or range(len(row)), row, strict=True)
        if score is not None
    ]
    return pd.DataFrame(table)


TABLE = runs([[0.50, 0.52, 0.51], [0.80, 0.70, 0.81], [0.79, 0.82, 0.80], [0.10, 0.10, 0.70]])


# ------------------------------------------------------------------------------------------------------------ choosing


def test_tune_seeds_choose_and_confirm_seeds_are_reported():
    table = pd.concat([TABLE, runs([[0.6, 0.6], [0.9, 0.9], [0.7, 0.71], [0.5, 0.5]], seeds=(100, 101))])
    found = choose(table, "val_acc", tune_seeds=(0, 1, 2), confirm_seeds=(100, 101))
    assert found.best == (0.1,)
    assert found.chosen == {100: (0.1,), 101: (0.1,)}
    assert (found.how, found.n_settings, found.n_finished, found.edges) == ("tune/confirm", 4, 4, ())
    assert found.values(table, "test_acc") == pytest.approx({100: 0.69, 101: 0.70})
    assert found.at((0.01,), table, "test_acc") == pytest.approx({100: 0.89, 101: 0.89})
    assert found.counts == {(0.1,): 2}


def test_leaving_one_seed_out_chooses_on_the_others():
    found = choose(TABLE, "val_acc")
    # without seed 0: .755 against .81; without 1: .805, .795; without 2: .75, .805
    assert found.chosen == {0: (0.1,), 1: (0.01,), 2: (0.1,)}
    assert found.counts == {(0.1,): 2, (0.01,): 1}
    assert (found.how, found.best) == ("leave-one-seed-out", (0.1,))
    assert found.values(TABLE, "score") == {0: 0.79, 1: 0.70, 2: 0.80}


def test_the_score_of_a_seed_never_chooses_for_itself():
    changed = TABLE.copy()
    changed.loc[changed["seed"] == 1, "score"] = np.random.default_rng(0).permutation(
        changed.loc[changed["seed"] == 1, "score"]
    )
    assert choose(changed, "val_acc").chosen[1] == choose(TABLE, "val_acc").chosen[1]


def test_of_equal_scores_the_smaller_lr_is_chosen_whatever_the_order_and_the_rounding():
    table = runs([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2], [0.2, 0.3, 0.1], [0.0, 0.0, 0.0]])
    for seed in range(5):
        mixed = table.sample(frac=1, random_state=seed)
        assert choose(mixed, "val_acc", tune_seeds=(0, 1, 2), confirm_seeds=(3,)).best == (0.001,)


def test_the_same_seeds_are_said_so():
    assert choose(TABLE, "val_acc", tune_seeds=(0, 1), confirm_seeds=(1, 2)).how == "same seeds"
    assert choose(runs([[0.5], [0.6], [0.7], [0.1]]), "val_acc").how == "same seeds"


def test_one_setting_is_no_choice():
    found = choose(runs([[0.5, 0.6]], lrs=(0.1,)), "val_acc")
    assert (found.how, found.chosen, found.edges) == ("one setting", {0: (0.1,), 1: (0.1,)}, ())


def test_a_setting_with_a_missing_run_does_not_take_part():
    for table in (
        runs([[0.5, 0.5, 0.5], [0.9, None, 0.9], [0.7, 0.7, 0.7], [0.1, 0.1, 0.1]]),
        runs([[0.5, 0.5, 0.5], [0.9, math.nan, 0.9], [0.7, 0.7, 0.7], [0.1, 0.1, 0.1]]),
    ):
        found = choose(table, "val_acc", tune_seeds=(0, 1, 2), confirm_seeds=(0,))
        assert (found.best, found.n_settings, found.n_finished) == ((0.1,), 4, 3)
    with pytest.raises(ValueError, match="run the missing ones"):
        choose(runs([[0.5, None], [None, 0.5]], lrs=(1, 2)), "val_acc")
    part = choose(TABLE, "val_acc", tune_seeds=(0, 1), confirm_seeds=(2, 3))
    assert part.values(TABLE, "score") == {2: 0.8}  # seed 3 has not run


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="several of seed 0"):
        choose(pd.concat([TABLE, TABLE]), "val_acc")
    with pytest.raises(ValueError, match="give both"):
        choose(TABLE, "val_acc", tune_seeds=(0,))


def test_a_choice_at_the_edge_names_the_wider_range():
    high = choose(runs([[0.1] * 3, [0.2] * 3, [0.3] * 3, [0.4] * 3]), "val_acc")
    assert high.edges == (selection.Edge("optimizer.lr", 1.0, "optimizer.lr=10,100"),)
    low = choose(runs([[0.4] * 3, [0.2] * 3, [0.1] * 3], lrs=(0.003, 0.01, 0.03)), "val_acc")
    assert low.edges == (selection.Edge("optimizer.lr", 0.003, "optimizer.lr=0.00027,0.0009"),)
    part = choose(runs([[0.1] * 3, [0.5, 0.5, 0.5], [0.4, 0.7, 0.4]], lrs=(1, 2, 4)), "val_acc")
    assert part.edges[0].wider == "optimizer.lr=8,16"  # some of the folds chose it
    zero = choose(runs([[0.4] * 3, [0.2] * 3], lrs=(0.0, 0.25)), "val_acc")
    assert zero.edges == (selection.Edge("optimizer.lr", 0.0, "optimizer.lr=-0.5,-0.25"),)


def test_several_settings_are_tuned_together():
    table = pd.DataFrame(
        [
            {"lr": lr, "clip": clip, "seed": seed, "score": 0.5 + 0.1 * (lr == 0.1) + 0.1 * (clip == "norm")}
            for lr, clip, seed in itertools.product((0.01, 0.1, 1.0), ("none", "norm"), range(3))
        ]
    )
    found = choose(table, "val_acc", tune=("lr", "clip"))
    assert (found.best, found.n_settings, found.edges) == ((0.1, "norm"), 6, ())


def test_a_random_search_over_several_settings_has_no_edge_but_one_over_lr_has():
    rng = np.random.default_rng(0)
    points = pd.DataFrame({"lr": rng.random(9), "momentum": rng.random(9)})
    table = pd.concat([points.assign(seed=s, score=points["lr"]) for s in range(3)])
    assert choose(table, "val_acc", tune=("lr", "momentum")).edges == ()
    assert choose(table, "val_acc", tune=("lr",)).edges[0].value == points["lr"].max()


SPAN = Range("optimizer.lr", "log", 1e-4, 1.0)
BETAS = Range("optimizer.momentum", "one_minus_log", 0.8, 0.99)


@pytest.mark.parametrize(
    ("best", "wider"),
    [(1.3e-4, "tune.optimizer.lr='log(1e-05,1)'"), (0.9, "tune.optimizer.lr='log(0.0001,10)'"), (0.01, None)],
)
def test_a_choice_at_the_end_of_its_range_names_a_longer_one(best, wider):
    """Also where several settings are tuned, and each value is tried once."""
    rng = np.random.default_rng(0)
    points = pd.DataFrame({"optimizer.lr": 10 ** rng.uniform(-3.5, -0.5, 9), "optimizer.momentum": 0.9})
    points.loc[4, "optimizer.lr"] = best
    score = (points.index == 4).astype(float)
    table = pd.concat([points.assign(seed=s, score=score) for s in range(3)])
    ranges = {"optimizer.lr": SPAN, "optimizer.momentum": BETAS}
    found = choose(table, "val_acc", tune=("optimizer.lr", "optimizer.momentum"), ranges=ranges)
    assert [edge.wider for edge in found.edges] == ([wider] if wider else [])


def test_the_extreme_of_what_was_tried_is_an_edge_where_one_setting_is_tuned():
    """With few trials the outermost lies well inside its range."""
    table = pd.concat(
        [pd.DataFrame({"optimizer.lr": [1e-3, 1e-2, 0.1], "seed": s, "score": [0.1, 0.2, 0.3]}) for s in range(3)]
    )
    (edge,) = choose(table, "val_acc", ranges={"optimizer.lr": SPAN}).edges
    assert (edge.value, edge.wider) == (0.1, "tune.optimizer.lr='log(0.0001,10)' trials=9")


def test_a_range_from_0_is_not_made_longer_below_it():
    table = pd.concat([pd.DataFrame({"k": [0.001, 0.3], "seed": s, "score": [0.3, 0.1]}) for s in range(3)])
    assert choose(table, "val_acc", tune=("k",), ranges={"k": Range("k", "linear", 0.0, 0.5)}).edges == ()


def test_a_choice_that_one_tune_seed_would_change_is_unstable():
    table = runs([[0.5, 0.5, 0.5], [0.6, 0.6, 0.6], [0.55, 0.55, 0.9]], lrs=(0.01, 0.1, 1.0))
    found = choose(table, "val_acc", tune_seeds=(0, 1), confirm_seeds=(2,))
    assert (found.unstable, found.n_choosing, selection.reselected(found, found)) == (False, 2, 0)
    moved = choose(table, "val_acc", tune_seeds=(1, 2), confirm_seeds=(0,))
    assert (moved.best, moved.unstable, selection.reselected(found, moved)) == ((1.0,), True, 2)
    one = choose(table, "val_acc", tune_seeds=(0,), confirm_seeds=(1, 2))
    assert (one.unstable, selection.reselected(found, one)) == (True, 1)  # nothing says how another would choose


def test_a_setting_that_no_tune_seed_has_was_not_tried():
    """Other arms' best settings are run on the confirm seeds alone, for the comparison at the same rate."""
    table = runs([[0.5, 0.5, 0.5], [0.6, 0.6, 0.6], [None, None, 0.9]], lrs=(0.01, 0.1, 1.0))
    found = choose(table, "val_acc", tune_seeds=(0, 1), confirm_seeds=(2,))
    assert (found.best, found.n_settings, found.n_finished) == ((0.1,), 2, 2)


def test_failures_are_scored():
    assert selection.scored_accuracy(0.9, True, 10) == 0.1
    assert selection.scored_accuracy(0.9, False, 10) == 0.9
    assert selection.scored_accuracy(math.nan, True, 10) == 0.1
    assert selection.scored_loss(0.5, 2.3) == 0.5
    assert [selection.scored_loss(x, 2.3) for x in (math.nan, math.inf, 7.0)] == [2.3] * 3


@given(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=2, max_size=5), st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(scores, seed):
    table = runs(scores, lrs=range(1, len(scores) + 1))
    assert choose(table.sample(frac=1, random_state=seed), "val_acc") == choose(table, "val_acc")


# -------------------------------------------------------------------------------------------------------------- search


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8))
def test_the_expected_best_is_the_mean_over_all_draws(values):
    found = search.expected_best(values)
    for n in range(1, len(values) + 1):
        assert found[n - 1] == pytest.approx(np.mean([max(draw) for draw in itertools.combinations(values, n)]))


def test_the_expected_best_of_a_large_search_is_finite_and_grows():
    values = np.random.default_rng(0).random(1500)
    found = search.expected_best(values)
    assert (np.diff(found) >= -1e-12).all()
    assert (found[0], found[-1]) == pytest.approx((values.mean(), values.max()))
    with pytest.raises(ValueError, match="all finite"):
        search.expected_best([0.5, math.nan])
    with pytest.raises(ValueError, match="at least one"):
        search.expected_best([])


def losses(*rows, lrs=(0.001, 0.01, 0.1), initial=2.0):
    table = runs(rows, lrs=lrs).rename(columns={"score": "loss"})
    return table.assign(initial_loss=initial)


def test_lr_sensitivity_by_hand():
    table = losses([1.0, 0.9], [0.5, 0.9], [math.nan, 5.0])
    assert search.lr_sensitivity(table) == pytest.approx({0: (1.0 + 0.5 + 2.0) / 3 - 0.5, 1: (0.9 + 0.9 + 2) / 3 - 0.9})
    assert search.lr_sensitivity(losses([1, 1], [1, 1], [1, 1])) == {0: 0, 1: 0}
    assert set(search.lr_sensitivity(losses([1, 1], [1, 1], [1, None]))) == {0}


def test_lr_sensitivity_needs_an_even_grid():
    for lrs in ((0.001, 0.01, 0.02), (0.1, 0.2)):
        with pytest.raises(ValueError, match="even on a log scale"):
            search.lr_sensitivity(losses(*[[1.0]] * len(lrs), lrs=lrs))
    assert search.lr_sensitivity(losses([1.0], [0.5], [1.0], lrs=(0.01, 0.03, 0.1)))


def test_the_usable_range_is_the_stretch_around_the_best():
    lrs = (0.001, 0.01, 0.1, 1.0, 10.0)
    table = runs([[0.85, 0.9], [0.70, 0.9], [0.845, 0.9], [0.85, 0.9], [0.3, 0.9]], lrs=lrs)
    found = search.usable_range(table).set_index("seed")
    assert found.loc[0].to_dict() == {"low": 0.001, "high": 0.001, "decades": 0, "at_low": True, "at_high": False}
    assert found.loc[1].to_dict() == {"low": 0.001, "high": 10, "decades": 4, "at_low": True, "at_high": True}
    middle = search.usable_range(runs([[0.1], [0.841], [0.85], [0.84], [0.1]], lrs=lrs))
    assert middle.iloc[0].to_dict() == {
        **{"seed": 0, "low": 0.01, "high": 1.0, "decades": 2, "at_low": False, "at_high": False},
    }
    assert len(search.usable_range(runs([[0.5, 0.5], [0.5, None]], lrs=(1, 2)))) == 1


def made(n, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "lr": 10 ** rng.uniform(-4, 0, n), "width": rng.choice([32, 64, 128], n),
            "norm": rng.choice(["none", "bn"], n), "nothing": rng.random(n), "noise": rng.normal(0, 0.05, n),
        }
    )  # fmt: skip


def test_importance_is_the_share_between_groups():
    table = made(60)
    table["score"] = 0.1 * np.log10(table["lr"]) + 0.2 * (table["norm"] == "bn") + table["noise"]
    found = search.importance(table, ["width", "nothing", "norm", "lr"]).set_index("setting")
    assert list(found.index[:2]) == ["lr", "norm"]
    y = table["score"]
    by_hand = sum(len(part) * (part.mean() - y.mean()) ** 2 for _, part in y.groupby(table["norm"]))
    total = ((y - y.mean()) ** 2).sum()
    assert found.loc["norm", "share"] == pytest.approx(by_hand / total)
    assert found.loc["norm", "adjusted"] == pytest.approx(1 - (1 - by_hand / total) * 59 / 58)
    assert found["groups"].to_dict() == {"lr": 5, "norm": 2, "width": 3, "nothing": 5}
    assert found.loc["lr", "chance"] == pytest.approx(4 / 59)
    assert (found["n"] == 60).all()
    quintiles = pd.qcut(table["lr"], 5, labels=False)
    by_hand = sum(len(part) * (part.mean() - y.mean()) ** 2 for _, part in y.groupby(quintiles))
    assert found.loc["lr", "share"] == pytest.approx(by_hand / total)
    assert abs(found.loc["nothing", "adjusted"]) < 0.1


def test_a_setting_without_effect_explains_nothing_on_average():
    found = [
        search.importance(made(20, seed).assign(score=lambda t: t["noise"]), ["nothing", "norm"]).set_index("setting")
        for seed in range(300)
    ]
    for name in ("nothing", "norm"):
        adjusted = np.array([table.loc[name, "adjusted"] for table in found])
        assert abs(adjusted.mean()) < 4 * adjusted.std() / math.sqrt(300)
        shares = np.array([table.loc[name, "share"] for table in found])
        assert abs(shares.mean() - found[0].loc[name, "chance"]) < 4 * shares.std() / math.sqrt(300)


def test_importance_at_the_ends():
    table = made(4).assign(score=[0.1, 0.2, 0.3, 0.4], same=1, yes=[True, False, True, False])
    found = search.importance(table, ["same", "lr", "yes"]).set_index("setting")
    assert math.isnan(found.loc["same", "share"])
    assert math.isnan(found.loc["lr", "share"])  # a group for each run explains everything and nothing
    assert found.loc["yes", "groups"] == 2
    assert math.isnan(search.importance(table.assign(score=0.5), ["yes"])["share"][0])
    with pytest.raises(ValueError, match="finite"):
        search.importance(table.assign(score=math.nan), ["yes"])
    assert search.importance(made(40).assign(score=lambda t: t["noise"]), ["lr"]).equals(
        search.importance(made(40).assign(score=lambda t: t["noise"], lr=lambda t: t["lr"] ** 3), ["lr"])
    )
