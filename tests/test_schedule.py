"""Learning-rate schedules: pure functions of the step, checked against their formulas."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench import build
from normbench.config import ConfigError
from normbench.schedule.constant import Constant
from normbench.schedule.cosine import Cosine


def made(settings, steps_per_epoch=10, **changes):
    return build.part("schedule", {**settings, **changes}, steps_per_epoch=steps_per_epoch)


# -------------------------------------------------------------------------------------------- the contract, each choice


@given(steps_per_epoch=st.integers(1, 50), epochs=st.integers(1, 20), warmup_share=st.floats(0, 1), data=st.data())
def test_a_factor_is_in_0_to_1_and_pure(schedule_settings, steps_per_epoch, epochs, warmup_share, data):
    schedule = made(schedule_settings, steps_per_epoch, warmup_epochs=warmup_share * epochs)
    total = steps_per_epoch * epochs
    steps = data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=5))
    factors = [schedule(step, total) for step in steps]
    assert all(isinstance(factor, float) and 0 <= factor <= 1 for factor in factors)
    assert [schedule(step, total) for step in reversed(steps)] == factors[::-1]  # no memory of what was asked
    fresh = made(schedule_settings, steps_per_epoch, warmup_epochs=warmup_share * epochs)
    assert [fresh(step, total) for step in steps] == factors


def test_without_warmup_the_first_step_is_whole(schedule_settings):
    assert made(schedule_settings)(0, 100) == 1


@given(steps_per_epoch=st.integers(1, 50), warmup_epochs=st.integers(1, 4))
def test_warmup_is_a_line_to_1(schedule_settings, steps_per_epoch, warmup_epochs):
    schedule = made(schedule_settings, steps_per_epoch, warmup_epochs=float(warmup_epochs))
    count, total = steps_per_epoch * warmup_epochs, steps_per_epoch * 5
    assert schedule(0, total) == pytest.approx(1 / count)  # not 0: the first step is not lost
    assert schedule(count - 1, total) == 1
    assert [schedule(step, total) for step in range(count)] == pytest.approx([(s + 1) / count for s in range(count)])


def test_warmup_takes_parts_of_epochs(schedule_settings):
    schedule = made(schedule_settings, 10, warmup_epochs=0.5)
    assert [schedule(step, 100) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert made(schedule_settings, 10, warmup_epochs=0.01)(0, 100) == 1  # less than half a step: none


def test_the_decay_takes_up_where_the_warmup_ends(schedule_settings):
    """Continuous: the first step after the warm-up has the factor 1 as well."""
    schedule = made(schedule_settings, 10, warmup_epochs=2.0)
    assert schedule(19, 100) == 1
    assert schedule(20, 100) == pytest.approx(1, abs=1e-12)


def test_a_run_that_is_all_warmup_ends_at_1(schedule_settings):
    schedule = made(schedule_settings, 10, warmup_epochs=3.0)
    assert schedule(29, 30) == 1


@pytest.mark.parametrize("warmup_epochs", [-0.5, math.nan, math.inf])
def test_a_warmup_is_refused(schedule_settings, warmup_epochs):
    with pytest.raises(ConfigError, match=rf"warmup_epochs must be .*got {warmup_epochs}.*schedule\.warmup_epochs=1"):
        made(schedule_settings, warmup_epochs=warmup_epochs)


# ------------------------------------------------------------------------------------------------------------- formulas


def test_constant():
    schedule = Constant(10)
    assert [schedule(step, 100) for step in range(100)] == [1.0] * 100
    assert [Constant(10, 1.0)(step, 100) for step in (10, 50, 99)] == [1.0] * 3


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 1.0), (25, (2 + math.sqrt(2)) / 4), (50, 0.5), (75, (2 - math.sqrt(2)) / 4), (99, 0.000246719)],
)
def test_cosine_at_chosen_steps(step, factor):
    """100 steps: (1 + cos(pi s / 100)) / 2."""
    assert Cosine(10)(step, 100) == pytest.approx(factor, abs=1e-9)


@pytest.mark.parametrize(
    ("step", "factor"), [(19, 1.0), (20, 1.0), (60, 0.55), (40, 0.1 + 0.9 * (2 + math.sqrt(2)) / 4)]
)
def test_cosine_is_stretched_over_what_the_warmup_leaves(step, factor):
    """20 of 100 steps are warm-up; 80 go from 1 down to 0.1, half way (0.55) at 20 + 40."""
    assert Cosine(10, warmup_epochs=2.0, final_factor=0.1)(step, 100) == pytest.approx(factor, abs=1e-12)


@given(total=st.integers(1, 300), final=st.floats(0, 1))
def test_cosine_never_rises_and_ends_above_its_final_factor(total, final):
    factors = [Cosine(10, final_factor=final)(step, total) for step in range(total)]
    assert all(b <= a + 1e-15 for a, b in pairwise(factors))
    assert factors[-1] >= final - 1e-15
    assert factors[-1] - final <= (1 - final) * (math.pi / total) ** 2  # one step before the end: 1 - cos is quadratic


@pytest.mark.parametrize("final_factor", [-0.1, 1.1, math.nan])
def test_cosine_refuses_a_final_factor(final_factor):
    with pytest.raises(ValueError, match=rf"final_factor must be .*got {final_factor}.*schedule\.final_factor=0"):
        Cosine(10, final_factor=final_factor)
