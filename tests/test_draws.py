"""Settings drawn at random: their ranges, that they are independent and the same again, and the files they become."""

import math

import pytest
import yaml

from normbench import draws

RANGES = {
    "optimizer.lr": "log(1e-4,1)", "beta1": "one_minus_log(0.5,0.99)", "beta2": "linear(0.9,0.999)",
    "width": [16, 64], "depth": [1, 2, 3], "batch_size": [16, 256],
}  # fmt: skip


def test_draws_are_the_same_again_and_others_for_another_seed():
    one, two = draws.drawn("adam", RANGES, [0, 1], 40), draws.drawn("adam", RANGES, [0, 1], 40)
    assert one == two
    assert len({str(draw.settings) for draw in one}) == 80
    assert [(draw.name, draw.seed) for draw in one[39:41]] == [("adam_s0_39", 0), ("adam_s1_00", 1)]


def test_values_lie_in_their_ranges_on_their_scales():
    found = [draw.settings for draw in draws.drawn("adam", RANGES, [0], 400)]
    rates = sorted(draw["optimizer.lr"] for draw in found)
    assert 1e-4 <= rates[0] < rates[-1] <= 1
    assert math.log10(rates[200]) == pytest.approx(-2, abs=0.25)  # the middle of a log scale
    first = sorted(draw["optimizer.betas"][0] for draw in found)
    assert 1 - first[200] == pytest.approx(math.sqrt(0.5 * 0.01), rel=0.3)
    assert {tuple(draw["model.hidden"]) for draw in found} == {(w,) * d for w in (16, 64) for d in (1, 2, 3)}
    assert {draw["batch_size"] for draw in found} == {16, 256}
    assert all(0.9 <= draw["optimizer.betas"][1] <= 0.999 for draw in found)


def test_a_draw_is_a_file_that_hydra_reads(tmp_path):
    made = draws.drawn("adam", RANGES, [3], 2)
    draws.write(tmp_path, made)
    text = (tmp_path / "draw" / "adam_s3_01.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    read = yaml.safe_load(text)
    assert (read["seed"], read["batch_size"]) == (3, made[1].settings["batch_size"])
    assert read["model"] == {"hidden": made[1].settings["model.hidden"]}
    assert float(read["optimizer"]["lr"]) == made[1].settings["optimizer.lr"]


@pytest.mark.parametrize("value", ["log(1)", "exp(1,2)", [3], "0.1"])
def test_what_is_no_range_is_named(value):
    with pytest.raises(ValueError, match="width must be a list of values or linear"):
        draws.drawn("a", {"width": value}, [0], 1)
