import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.report import stats, target
from normbench.report.target import compare, crossing

BUDGET = 1000


def rows(accuracies, every=100, batch=64, second=0.01):
    steps = np.arange(len(accuracies)) * every
    return pd.DataFrame({"step": steps, "examples": steps * batch, "train_s": steps * second, "val_acc": accuracies})


def reaching(step, every=10, budget=BUDGET, **more):
    """A run that is at the target from `step` on; never, if that lies beyond the budget."""
    return rows([0.9 if s >= step else 0.5 for s in range(0, budget + 1, every)], every, **more)


def arm(*steps, goal=0.85, budget=BUDGET, **more):
    return {seed: crossing(reaching(s, budget=budget, **more), goal, budget) for seed, s in enumerate(steps)}


# ------------------------------------------------------------------------------------------------------------ crossing


def test_the_first_of_two_consecutive_evaluations_is_the_time():
    found = crossing(rows([0.1, 0.86, 0.84, 0.85, 0.9, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9]), 0.85, BUDGET)
    assert (found.reached, found.step, found.examples, found.train_s) == (True, 300, 19_200, 3.0)
    assert found.gap == pytest.approx(1 / 3)
    assert crossing(rows([0.1, 0.86, 0.84]), 0.85, 200, sustain=1).step == 100
    assert crossing(rows([0.1, 0.86, 0.84, 0.9, 0.9, 0.9]), 0.85, 500, sustain=3).step == 300
    assert not crossing(rows([0.1, 0.86, 0.84, 0.9, 0.9]), 0.85, 400, sustain=3).reached


def test_a_target_is_met_when_equalled_and_never_between_evaluations():
    assert crossing(rows([0.1, 0.85, 0.85]), 0.85, 200).step == 100
    assert crossing(rows([0.849, 0.851, 0.851]), 0.85, 200).step == 100  # not 50


def test_the_row_at_step_0_is_an_evaluation():
    found = crossing(rows([0.9, 0.9, 0.9]), 0.85, 200)
    assert (found.reached, found.step, found.gap) == (True, 0, 0)


def test_a_single_last_evaluation_has_not_reached_the_target():
    found = crossing(rows([0.1, 0.2, 0.9]), 0.85, 200)
    assert (found.reached, found.step, found.examples, found.train_s) == (False, 200, 12_800, 2.0)
    assert crossing(rows([0.1, 0.9]), 0.85, 100, sustain=1).reached


def test_nan_is_below_every_target():
    assert crossing(rows([0.1, math.nan, 0.9, math.nan, 0.9, 0.9]), 0.85, 500).step == 400


def test_a_diverged_run_never_reaches_the_target_it_is_not_censored_at_the_crash():
    found = crossing(rows([0.1, 0.5, 0.9]), 0.85, BUDGET)  # its rows end at step 200
    assert (found.reached, found.step, found.examples, found.train_s) == (False, 1000, 64_000, 10.0)
    at_once = crossing(rows([0.1]), 0.85, BUDGET)
    assert (at_once.reached, at_once.step) == (False, 1000)
    assert math.isnan(at_once.train_s)
    before = crossing(rows([0.1, 0.9, 0.9]), 0.85, BUDGET)  # what it reached before it diverged, it reached
    assert (before.reached, before.step) == (True, 100)


def test_rows_may_come_in_any_order():
    table = rows([0.1, 0.2, 0.86, 0.9, 0.9])
    assert crossing(table.iloc[::-1], 0.85, 400) == crossing(table, 0.85, 400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 85}, "for 85 % type 0.85"),
        ({"target": 0}, r"accuracy in \(0, 1\]"),
        ({"metric": "val_loss"}, "of val_loss"),
        ({"sustain": 0}, "at least 1 evaluation"),
    ],
)
def test_bad_questions_are_refused(change, message):
    settings = {"target": 0.85, "budget_steps": 200, **change}
    table = rows([0.1, 0.2, 0.3]).assign(val_loss=1.0)
    with pytest.raises(ValueError, match=message):
        crossing(table, **settings)


def test_doubled_or_missing_rows_are_refused():
    table = rows([0.1, 0.2])
    for bad in (pd.concat([table, table]), table.iloc[:0]):
        with pytest.raises(ValueError, match="one row an evaluation"):
            crossing(bad, 0.85, 100)


def test_the_table_has_the_columns_of_time_to_target_csv():
    found = target.table({"b": crossing(rows([0.1, 0.2, 0.3]), 0.85, 200), "a": crossing(reaching(300), 0.85, BUDGET)})
    assert tuple(found) == target.COLUMNS
    expected = "a,0.85,val_acc,2,True,300,19200,3.0,1000\nb,0.85,val_acc,2,False,,,,200\n"
    assert found.to_csv(index=False, header=False, lineterminator="\n") == expected
    assert tuple(target.table({})) == target.COLUMNS


# ------------------------------------------------------------------------------------------------------------ two arms


def test_two_arms_are_compared_by_their_ratio():
    slow, fast = (400, 460, 380, 480, 420), (200, 200, 200, 200, 200)
    found = compare(arm(*slow), arm(*fast))
    i = found.interval
    assert [round(x, 2) for x in (i.estimate, i.low, i.high)] == [2.13, 1.89, 2.40]
    assert (found.kind, found.bound, found.refused, found.wins, found.censored_a, found.censored_b) == (
        *("ratio", "", ""),
        *(5, 0, 0),
    )
    assert found.resolution == pytest.approx(10 / 200)
    mirrored = compare(arm(*fast), arm(*slow))
    assert mirrored.interval.estimate == pytest.approx(1 / i.estimate)
    assert mirrored.interval.high == pytest.approx(1 / i.low)
    assert compare(arm(*slow), arm(*fast), "examples").interval == i
    assert compare(arm(*slow), arm(*fast), "train_s").interval.estimate == pytest.approx(i.estimate)


def test_equal_ratios_keep_the_width_that_evaluations_leave():
    found = compare(arm(400, 400, 400), arm(200, 200, 200))
    floor = 0.5 * math.hypot(10 / 400, 10 / 200)
    expected = stats.ratio(dict.fromkeys(range(3), 400.0), dict.fromkeys(range(3), 200.0), floor=floor)
    assert found.interval == expected.interval
    assert found.interval.low < 1.9 < 2.1 < found.interval.high
    same = compare(arm(400, 300, 500), arm(400, 300, 500)).interval
    assert (same.low, same.estimate, same.high) == (1, 1, 1)


def test_only_the_slower_arm_censored_gives_a_lower_bound():
    found = compare(arm(2000, 900, 2000, 2000, 950), arm(300, 280, 310, 290, 300))
    times = {0: 1000.0, 1: 900.0, 2: 1000.0, 3: 1000.0, 4: 950.0}
    expected = stats.ratio(times, dict(enumerate((300.0, 280.0, 310.0, 290.0, 300.0))), floor=found.sd).interval
    assert found.interval.estimate == pytest.approx(expected.estimate)
    assert found.interval.low == pytest.approx(expected.low)
    assert (found.bound, found.interval.high, found.censored_a, found.censored_b) == ("low", math.inf, 3, 0)
    assert found.wins == 5
    mirrored = compare(arm(300, 280, 310, 290, 300), arm(2000, 900, 2000, 2000, 950))
    assert (mirrored.bound, mirrored.interval.low, mirrored.censored_b, mirrored.wins) == ("high", 0, 3, 0)
    assert mirrored.interval.high == pytest.approx(1 / expected.low)


def test_all_of_the_slower_arm_censored_is_still_a_bound():
    found = compare(arm(*[2000] * 5), arm(300, 280, 310, 290, 300))
    assert (found.bound, found.censored_a) == ("low", 5)
    assert 3.1 < found.interval.low < found.interval.estimate < 3.5


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (
            (2000, 200, 200),
            (2000, 300, 300),
            ["2/3 runs of the baseline (median 200 steps", "2 and 0 of 3 pairs"],
        ),
        ((2000, 200, 200), (300, 400, 400), ["2/3 runs", "3/3 runs of the variant (median 400", "2 and 1 of 3 pairs"]),
        ((2000, 2000, 200), (2000, 300, 300), ["1/3 runs of the baseline (median not reached)", "1 and 1 of 3 pairs"]),
    ],
)
def test_a_faster_arm_that_missed_the_target_allows_no_ratio(a, b, said):
    found = compare(arm(*a), arm(*b))
    assert math.isnan(found.interval.estimate)
    for part in said:
        assert part in found.refused
    assert compare(arm(*b), arm(*a)).refused


def test_what_cannot_be_compared_is_refused_with_the_reason():
    usual = arm(300, 300, 300)
    assert "no run reached 0.85 (0/3 and 0/3)" in compare(arm(*[2000] * 3), arm(*[2000] * 3)).refused
    assert "budgets differ (500 to 1,000 steps)" in compare(usual, arm(300, 300, 300, budget=500)).refused
    assert "different batch sizes (64, 256)" in compare(usual, arm(300, 300, 300, batch=256)).refused
    assert "budgets differ (64,000 to 256,000 examples)" in (
        compare(usual, arm(300, 300, 300, batch=256), "train_s").refused
    )
    assert "before the first step" in compare(usual, arm(0, 300, 300)).refused
    assert "no runs of the same seeds" in compare(usual, {}).refused
    never_started = usual | {2: crossing(rows([0.1]), 0.85, BUDGET)}
    assert "never made a step" in compare(never_started, arm(100, 100, 100), "train_s").refused
    assert compare(never_started, arm(100, 100, 100), "step").bound == "low"


def test_different_batch_sizes_are_compared_by_examples():
    small = arm(400, 420, 380)
    large = {s: crossing(reaching(t, budget=250, batch=256), 0.85, 250) for s, t in enumerate((50, 60, 50))}
    found = compare(small, large, "examples")
    ratios = [400 * 64 / (50 * 256), 420 * 64 / (60 * 256), 380 * 64 / (50 * 256)]
    assert found.interval.estimate == pytest.approx(math.prod(ratios) ** (1 / 3))


def test_a_mistyped_unit_or_mixed_targets_are_errors():
    with pytest.raises(ValueError, match="one of step, examples, train_s, given 'steps'"):
        compare(arm(300), arm(300), "steps")
    with pytest.raises(ValueError, match="one target"):
        compare(arm(300), arm(300, goal=0.6))


def test_unpaired_arms_are_compared_too():
    a = arm(400, 460, 380, 480, 420)
    b = {s + 10: c for s, c in arm(200, 210, 190).items()}
    found = compare(a, b, paired=False)
    assert (found.paired, found.n_a, found.n_b, found.left_out) == (False, 5, 3, 0)
    assert found.interval.low < 2.13 < found.interval.high


def test_coarse_evaluations_show():
    coarse = compare(arm(400, 400, 500, every=100), arm(200, 200, 300, every=100))
    assert coarse.resolution == pytest.approx(100 / 200)
    # denser at the start: what counts is the interval beside the time, not the largest interval
    log = rows([0.1, 0.2, 0.9, 0.9, 0.9, 0.9]).assign(step=[0, 95, 100, 200, 400, 1000])
    assert crossing(log, 0.85, BUDGET).gap == pytest.approx(0.05)


crossings = st.lists(st.integers(1, 120).map(lambda k: 10 * k), min_size=3, max_size=6)


@given(crossings, crossings, st.randoms(use_true_random=False))
def test_swapping_and_shuffling(a, b, random):
    n = min(len(a), len(b))
    one, other = arm(*a[:n]), arm(*b[:n])
    found, mirrored = compare(one, other), compare(other, one)
    mixed = list(other.items())
    random.shuffle(mixed)
    assert repr(compare(one, dict(mixed))) == repr(found)
    assert bool(found.refused) == bool(mirrored.refused)
    assert (found.censored_a, found.censored_b) == (mirrored.censored_b, mirrored.censored_a)
    if not found.refused:
        assert {"": "", "low": "high", "high": "low"}[found.bound] == mirrored.bound
        assert found.interval.estimate == pytest.approx(1 / mirrored.interval.estimate)
        low = math.inf if mirrored.interval.low == 0 else 1 / mirrored.interval.low
        assert found.interval.high == pytest.approx(low)


@given(crossings, crossings)
def test_what_the_budget_hides_never_makes_a_ratio_larger(a, b):
    """The restricted ratio is a lower bound: with a longer budget it can only grow."""
    n = min(len(a), len(b))
    short, long = (compare(arm(*a[:n], budget=budget), arm(*b[:n], budget=budget)) for budget in (BUDGET, 1300))
    if short.bound == "low" and not long.refused:
        assert short.interval.estimate <= long.interval.estimate + 1e-9


# -------------------------------------------------------------------------------------------------------- many targets


def test_the_automatic_target_is_the_largest_round_one_that_half_of_the_baseline_reaches():
    def runs(*finals):
        return [rows([0.1, 0.3, f, f]) for f in finals]

    assert target.automatic_target(runs(0.84, 0.86, 0.86, 0.80)) == 0.85
    assert target.automatic_target(runs(0.84, 0.86, 0.86, 0.80, 0.80)) == 0.8
    assert target.automatic_target(runs(0.923, 0.931, 0.94)) == 0.93
    assert target.automatic_target(runs(0.9912, 0.9931, 0.995)) == 0.993
    assert target.automatic_target([rows([0.1, 0.86, 0.7, 0.86, 0.7])]) == 0.7  # never twice in a row above it
    assert target.automatic_target(runs(0.1, 0.1)) is None
    assert target.automatic_target([rows([0.75, 0.76, 0.78, 0.79])]) is None  # 0.75 is there at step 0
    assert target.automatic_target([rows([0.1, math.nan, 0.6, 0.6])]) == 0.6
    assert target.automatic_target([]) is None


def test_round_targets_are_round():
    found = target.round_targets()
    assert list(found) == sorted(set(found))
    assert {0.05, 0.5, 0.85, 0.9, 0.91, 0.99, 0.991, 0.999} <= set(found)
    assert not {0.86, 0.995001, 0.905} & set(found)


def test_the_speedup_as_a_function_of_the_target():
    ramp = np.linspace(0, 0.9, 101)
    slow = {s: rows(np.minimum(ramp * (1 + 0.02 * s), 0.8), every=10) for s in range(3)}
    fast = {s: rows(np.minimum(2 * ramp * (1 + 0.01 * s), 0.88), every=10) for s in range(3)}
    grid = target.target_grid([*slow.values(), *fast.values()], 0.05)
    assert grid == [round(0.05 * k, 10) for k in range(1, 18)]
    found = target.speedup(slow, fast, [*grid, 0.95], (1000, 1000)).set_index("target")
    assert len(found) == 18
    assert found.loc[0.8, "ratio"] == pytest.approx(2, rel=0.05)
    assert found.loc[0.8, "bound"] == ""
    assert found.loc[0.85, "bound"] == "low"
    assert found.loc[0.85, "ci_high"] == math.inf
    assert (found.loc[0.85, "reached_a"], found.loc[0.85, "reached_b"]) == (0, 3)
    assert "no run reached" in found.loc[0.95, "refused"]
    assert (found["n_pairs"] == 3).all()
    assert list(target.speedup(slow, fast, [], (1, 1)))[:2] == ["target", "ratio"]
