"""What a claim measures of layers.csv, each number worked by hand from made-up runs."""

import math

import pytest
from test_probe_report import along, probed, seen

from normbench.claim import Claim, Question
from normbench.report import answers
from normbench.report import probed as measured
from normbench.report.measures import MEASURES

STEPS = (0, 100, 200)


def number(root, name):
    """The measure of the only arm below root, of its one seed."""
    study = seen(root)
    (arm,) = study.arms
    rows = {int(row["seed"]): row for row in arm.runs.to_dict("records")}
    return MEASURES[name].of(study, {None: rows})


def norms(by_step, kind="grad"):
    """{step: (first layer, second, ...)} -> rows."""
    return [
        (step, f"blocks.{index}.linear", index, kind, stat, value)
        for step, values in by_step.items()
        for index, value in enumerate(values)
        for stat in ("norm_mean", "norm_max")
    ]


def unit(by_step):
    """{step: (p15, p50, p85)} of the last of two layers; nothing moves in the first."""
    return [
        (step, f"blocks.{index}.activation", index, "pre_act", f"unit_p{p}", value)
        for step, values in by_step.items()
        for index in (0, 1)
        for p, value in zip((15, 50, 85), values if index else (-1.0, 0.0, 1.0), strict=True)
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_the_gap_between_the_first_and_the_last_layer_counts_both_ways(tmp_path, order):
    table = {100: (0.001, 5.0, 1.0)[::order], 200: (0.01, 5.0, 1.0)[::order], 300: (0.1, 5.0, 1.0)[::order]}
    probed(tmp_path, norms(table), "gradients", keys={"every": 10})
    assert number(tmp_path, "gradient_gap") == {0: pytest.approx(2.0)}  # the median of 3, 2 and 1 decades


def test_a_gradient_of_zero_is_no_missing_number_and_nan_is(tmp_path):
    probed(tmp_path, norms({100: (0.0, 1.0), 200: (math.nan, 1.0)}), "gradients", keys={"every": 10})
    assert number(tmp_path, "gradient_gap") == {0: pytest.approx(38.0)}


def test_a_run_without_a_finite_number_has_none(tmp_path):
    probed(tmp_path, norms({100: (math.nan, math.inf)}), "gradients", keys={"every": 10})
    assert number(tmp_path, "gradient_gap") == number(tmp_path, "first_gradient") == {}


def test_gradient_and_weights_at_the_start_and_growth(tmp_path):
    weights = norms({100: (20.0, 1.0), 200: (20.0, 50.0), 300: (200.0, 100.0)}, "weight")
    rows = sorted(norms({100: (0.05, 1.0), 200: (7.0, 1.0)}) + weights)
    probed(tmp_path, rows, "gradients", keys={"every": 10})
    assert number(tmp_path, "first_gradient") == {0: pytest.approx(math.log10(0.05))}
    assert number(tmp_path, "scaled_gradient") == {0: pytest.approx(0.0)}  # 0.05 * 20 = 1
    assert number(tmp_path, "weight_growth") == {0: pytest.approx(2.0)}  # of the second layer, 1 to 100


def test_drift_of_the_median_and_of_the_spread_in_the_last_layer(tmp_path):
    probed(tmp_path, unit({0: (-1.0, 0.0, 1.0), 100: (-9.0, 1.0, 11.0), 200: (-10.0, -4.0, -8.0)}))
    # spreads 2, 20, 2; the median moves by 1 of 2, then by 5 of 20; the spread by 1 decade twice
    assert number(tmp_path, "median_drift") == {0: pytest.approx((0.5 + 0.25) / 2)}
    assert number(tmp_path, "spread_drift") == {0: pytest.approx(1.0)}


def test_a_unit_without_spread_has_no_drift(tmp_path):
    probed(tmp_path, unit(dict.fromkeys(STEPS, (1.0, 1.0, 1.0))))
    assert number(tmp_path, "median_drift") == number(tmp_path, "spread_drift") == {}


def test_shares_are_those_of_the_end_over_the_layers(tmp_path):
    rows = [
        (step, f"blocks.{index}.activation", index, "act", stat, value / (1 if step == 200 else 10))
        for step in STEPS
        for stat, values in (("saturated", (0.2, 0.4)), ("dead", (0.0, 0.5)))
        for index, value in enumerate(values)
    ]
    probed(tmp_path, rows)
    assert number(tmp_path, "saturated") == {0: pytest.approx(30.0)}
    assert number(tmp_path, "dead") == {0: pytest.approx(25.0)}


def test_along_the_gradient_the_median_after_the_first_step(tmp_path):
    rows = along(0.0, 1e6, steps=(0,)) + along(1.0, 2.0, steps=(100,)) + along(1.0, 11.0, steps=(200,))
    rows += along(1.0, 101.0, steps=(300,))
    probed(tmp_path, rows, "landscape", keys={"step_sizes": "[0.1, 0.4]"})
    assert number(tmp_path, "loss_range") == {0: pytest.approx(1.0)}  # of 1, 10 and 100
    assert number(tmp_path, "gradient_change") == {0: pytest.approx(math.log10(0.4))}
    assert number(tmp_path, "smoothness") == {0: pytest.approx(0.0)}


def test_a_question_of_it_and_one_without_the_probe(tmp_path):
    for seed, far in enumerate((1.0, 1.1, 0.9, 1.05)):
        for norm, first in (("none", 0.001 * far), ("bn", 0.5 * far)):
            probed(tmp_path, norms({100: (first, 1.0)}), "gradients", norm=norm, seed=seed, keys={"every": 10})
    ask = Question("gradient_gap", "norm=bn", "norm=none", "lower")
    (answer,) = answers.answers(seen(tmp_path), Claim("name", "So.", "there", "quick", (ask,)))
    assert answer.verdict == "supported"
    assert answer.row.effect == pytest.approx(-math.log10(500))
    other = Claim("name", "So.", "there", "quick", (Question("loss_range", "norm=bn", "norm=none", "lower"),))
    (blank,) = answers.answers(seen(tmp_path), other)
    assert (blank.verdict, blank.sides) == ("undecided", ({}, {}))


def test_a_list_can_be_typed_without_spaces(tmp_path):
    for seed in range(3):
        for hidden, first in (("[64, 64]", 0.1), ("[64]", 1.0 + seed)):
            keys = {"model__hidden": hidden, "keys": {"every": 10}}
            probed(tmp_path, norms({100: (first, 1.0)}), "gradients", seed=seed, **keys)
    ask = Question("first_gradient", "model.hidden=[64,64]", "model.hidden=[64]", "lower")
    (answer,) = answers.answers(seen(tmp_path), Claim("name", "So.", "there", "quick", (ask,)))
    assert answer.sides[0] == {seed: pytest.approx(-1.0) for seed in range(3)}


def test_every_reading_is_a_measure():
    assert set(measured.READINGS) <= set(MEASURES)
