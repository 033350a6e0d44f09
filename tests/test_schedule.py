"""Schedules: pure functions of the step and the history, checked against their formulas and against torch's."""

import importlib
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from normbench import build, catalog, checkpoint, records, run
from normbench.config import ConfigError
from normbench.schedule import SCALED
from normbench.schedule.constant import Constant
from normbench.schedule.cosine import Cosine
from normbench.schedule.exponential import Exponential
from normbench.schedule.inverse_time import InverseTime
from normbench.schedule.linear import Linear
from normbench.schedule.onecycle import OneCycle
from normbench.schedule.plateau import METRICS, Plateau
from normbench.schedule.step import Step

ROOT = Path(__file__).resolve().parent.parent
GROUP = {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9}
BEGINS = {"onecycle": pytest.approx(1 / 25, rel=1e-12)}  # the factor where the decay begins, where it is not 1
ACTING = {"plateau": {"patience": 0, "threshold": 0.5}}  # settings with which it does something in a short run


def made(settings, steps_per_epoch=10, **changes):
    return build.part("schedule", {**settings, **changes}, steps_per_epoch=steps_per_epoch)


def rows_of(losses, every=1, **more):
    """The rows of evaluations with these losses, the first before training."""
    columns = dict.fromkeys(METRICS)
    return [{"step": i * every, **columns, "val_loss": loss, **more} for i, loss in enumerate(losses)]


# -------------------------------------------------------------------------------------------- the contract, each choice


@given(
    steps_per_epoch=st.integers(1, 50),
    epochs=st.integers(1, 20),
    warmup_share=st.floats(0, 1),
    losses=st.lists(st.floats(0, 5), max_size=12),
    data=st.data(),
)
def test_a_factor_is_in_0_to_1_and_pure(schedule_settings, steps_per_epoch, epochs, warmup_share, losses, data):
    changes = {"warmup_epochs": warmup_share * epochs, **ACTING.get(schedule_settings["name"], {})}
    schedule = made(schedule_settings, steps_per_epoch, **changes)
    total, rows = steps_per_epoch * epochs, rows_of(losses)
    asked = data.draw(st.lists(st.tuples(st.integers(0, total - 1), st.integers(0, len(rows))), min_size=1, max_size=5))
    asked = [(step, total, rows if count == len(rows) else rows[:count]) for step, count in asked]
    factors = [schedule(*one) for one in asked]
    assert all(isinstance(factor, float) and 0 <= factor <= 1 for factor in factors)
    assert [schedule(*one) for one in reversed(asked)] == factors[::-1]  # no memory of what was asked
    assert [made(schedule_settings, steps_per_epoch, **changes)(*one) for one in asked] == factors


def test_without_warmup_the_first_step_is_whole(schedule_settings):
    assert made(schedule_settings)(0, 100) == BEGINS.get(schedule_settings["name"], 1)


@given(steps_per_epoch=st.integers(1, 50), warmup_epochs=st.integers(1, 4))
def test_warmup_is_a_line_to_where_the_decay_begins(schedule_settings, steps_per_epoch, warmup_epochs):
    schedule = made(schedule_settings, steps_per_epoch, warmup_epochs=float(warmup_epochs))
    count, total = steps_per_epoch * warmup_epochs, steps_per_epoch * 5
    top = schedule(count - 1, total)
    assert top == made(schedule_settings, steps_per_epoch)(0, total - count)
    assert schedule(0, total) == pytest.approx(top / count)  # not 0: the first step is not lost
    line = [(s + 1) / count * top for s in range(count)]
    assert [schedule(step, total) for step in range(count)] == pytest.approx(line)


def test_warmup_takes_parts_of_epochs(schedule_settings):
    top = made(schedule_settings)(0, 95)
    schedule = made(schedule_settings, 10, warmup_epochs=0.5)
    assert [schedule(step, 100) for step in range(5)] == pytest.approx([top * k for k in (0.2, 0.4, 0.6, 0.8, 1.0)])
    assert made(schedule_settings, 10, warmup_epochs=0.01)(0, 100) == top  # less than half a step: none


def test_the_decay_takes_up_where_the_warmup_ends(schedule_settings):
    """Continuous, and from there on what it is without a warm-up in a run that is so much shorter."""
    schedule, without = made(schedule_settings, 10, warmup_epochs=2.0), made(schedule_settings, 10)
    assert schedule(20, 100) == pytest.approx(schedule(19, 100), abs=1e-12)
    assert [schedule(step, 100) for step in range(20, 100)] == [without(step, 80) for step in range(80)]


def test_a_run_that_is_all_warmup_ends_where_the_decay_would_begin(schedule_settings):
    schedule = made(schedule_settings, 10, warmup_epochs=3.0)
    assert schedule(29, 30) == made(schedule_settings, 10)(0, 1)


@pytest.mark.parametrize("warmup_epochs", [-0.5, math.nan, math.inf])
def test_a_warmup_is_refused(schedule_settings, warmup_epochs):
    with pytest.raises(ConfigError, match=rf"warmup_epochs must be .*got {warmup_epochs}.*schedule\.warmup_epochs=1"):
        made(schedule_settings, warmup_epochs=warmup_epochs)


def test_values_are_the_groups_own_times_the_factor(schedule_settings):
    schedule = made(schedule_settings, scales=["weight_decay", "lr"], warmup_epochs=1.0)
    for step in (0, 5, 10, 50, 99):
        factor, values = schedule(step, 100), schedule.values(step, 100, [], GROUP)
        assert values["lr"] == 0.1 * factor
        assert values["weight_decay"] == 0.01 * factor


def test_by_default_only_the_lr_is_scaled(schedule_settings):
    plain = {"lr": 0.1, "weight_decay": 0.01}
    assert made(schedule_settings).values(7, 100, [], plain) == {"lr": 0.1 * made(schedule_settings)(7, 100)}


def test_what_a_group_lacks_is_left_out(schedule_settings):
    schedule = made(schedule_settings, scales=["lr", "weight_decay"])
    assert set(schedule.values(7, 100, [], {"lr": 0.1})) == {"lr"}


@pytest.mark.parametrize("scales", [[], ["lr", "lr"], ["betas"], ["lr", "eps"]])
def test_scales_are_refused(schedule_settings, scales):
    with pytest.raises(ConfigError, match=r"scales must be a list out of lr, .*got \[.*try schedule\.scales=\[lr\]"):
        made(schedule_settings, scales=scales)


# ------------------------------------------------------------------------------------------------ in a run, each choice


@pytest.fixture
def trained(compose, tmp_path, schedule_settings):
    """trained("name=...", ...) -> the folder of a run of this schedule: 56 steps, an evaluation every 5."""
    fixed = (
        "dataset=synthetic", "model.hidden=[8]", "batch_size=32", "epochs=4", "eval.every_steps=5",
        f"schedule={schedule_settings['name']}", "schedule.warmup_epochs=1.5", "schedule.scales=[lr,weight_decay]",
        "optimizer=momentum", "optimizer.weight_decay=0.01", f"out={tmp_path}", "progress=false",
    )  # fmt: skip
    acting = [f"schedule.{key}={value}" for key, value in ACTING.get(schedule_settings["name"], {}).items()]

    def train(*overrides):
        return run.run(compose(*fixed, *acting, *overrides), announce=lambda _: None).folder

    return train


def told(folder):
    """The rows without the one column that a clock makes, the weights, and the settings of the optimizer."""
    rows = [{k: v for k, v in row.items() if k != "train_s"} for row in records.read_metrics(folder / "metrics.csv")]
    content = checkpoint.read(folder / "checkpoint.pt")
    weights = {name: weight.numpy().tobytes() for name, weight in content["model"].items()}
    return rows, weights, content["optimizer"]["param_groups"]


def test_paused_and_continued_is_the_run_that_was_never_paused(trained):
    whole = told(trained("name=whole"))
    for stop_epoch in (1, 3):  # in the warm-up, and after it; both between two evaluations
        trained("name=paused", f"stop_epoch={stop_epoch}")
    assert told(trained("name=paused")) == whole


def test_a_run_has_the_settings_that_the_schedule_says(trained, schedule_settings):
    folder = trained("name=whole")
    rows, _, [group] = told(folder)
    changes = {"warmup_epochs": 1.5, **ACTING.get(schedule_settings["name"], {})}
    schedule = made(schedule_settings, 14, **changes)
    for i, row in enumerate(rows):
        last = max(0, row["step"] - 1)  # the step before the row
        assert row["lr"] == 0.01 * schedule(last, 56, rows[:i])
    assert [row["step"] for row in rows] == [*range(0, 56, 5), 56]
    now = made(schedule_settings, 14, **changes, scales=SCALED[:2]).values(55, 56, rows[:-1], {**GROUP, "lr": 0.01})
    assert {key: group[key] for key in now} == now
    if schedule_settings["name"] != "constant":
        assert len({row["lr"] for row in rows if row["step"] > 21}) > 1, "in this run it does nothing; see ACTING"


@pytest.mark.parametrize(
    ("optimizer", "group"),
    [("sgd", {"momentum": 0}), ("momentum", {"momentum": 0.5}), ("adam", {"betas": (0.5, 0.999)})],
)
def test_a_run_cycles_the_momentum_of_an_optimizer_that_has_one(compose, tmp_path, optimizer, group):
    """The last step of a cycle has max_momentum."""
    few = ("dataset=synthetic", "model.hidden=[8]", "epochs=1", "progress=false", f"out={tmp_path}")
    cycle = ("schedule=onecycle", "schedule.max_momentum=0.5", "schedule.base_momentum=0.1")
    folder = run.run(compose(*few, *cycle, f"optimizer={optimizer}"), announce=lambda _: None).folder
    _, _, [found] = told(folder)
    assert {key: found[key] for key in group} == group
    assert found["lr"] == pytest.approx(found["initial"]["lr"] / 25e4, rel=1e-12)


def test_a_run_whose_lr_is_not_scaled_keeps_it(compose, tmp_path):
    few = ("dataset=synthetic", "model.hidden=[8]", "epochs=1", "progress=false", f"out={tmp_path}")
    scaled = ("schedule=cosine", "schedule.scales=[weight_decay]", "optimizer.weight_decay=0.1", "optimizer.lr=0.003")
    rows, _, [group] = told(run.run(compose(*few, *scaled), announce=lambda _: None).folder)
    assert {row["lr"] for row in rows} == {group["lr"]} == {0.003}
    assert 0 < group["weight_decay"] < 0.1


# ------------------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("cls", [Constant, Cosine, Linear, Step, Exponential, InverseTime])
@given(total=st.integers(1, 300), warmup_epochs=st.integers(0, 3))
def test_a_decay_never_rises(cls, total, warmup_epochs):
    schedule = cls(10, float(warmup_epochs))
    factors = [schedule(step, total) for step in range(warmup_epochs * 10, total)]
    assert all(b <= a + 1e-15 for a, b in pairwise(factors))


def test_constant():
    assert [Constant(10)(step, 100) for step in (0, 25, 50, 75, 99)] == [1.0] * 5
    assert [Constant(10, 1.0)(step, 100) for step in (10, 25, 50, 75, 99)] == [1.0] * 5


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
def test_cosine_ends_above_its_final_factor(total, final):
    last = Cosine(10, final_factor=final)(total - 1, total)
    assert last >= final - 1e-15
    assert last - final <= (1 - final) * (math.pi / total) ** 2  # one step before the end: 1 - cos is quadratic


@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (25, 0.8), (50, 0.6), (75, 0.4), (99, 0.208)])
def test_linear_at_chosen_steps(step, factor):
    """100 steps down to 0.2: 0.008 at each."""
    assert Linear(10, final_factor=0.2)(step, 100) == pytest.approx(factor, abs=1e-12)


def test_linear_is_stretched_over_what_the_warmup_leaves():
    assert [Linear(10, 2.0)(step, 100) for step in (20, 60, 99)] == pytest.approx([1.0, 0.5, 1 / 80])


@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (49, 1.0), (50, 0.1), (74, 0.1), (75, 0.01), (99, 0.01)])
def test_step_at_chosen_steps(step, factor):
    assert Step(10)(step, 100) == pytest.approx(factor)


@given(total=st.integers(2, 1000), data=st.data())
def test_step_falls_at_the_very_step_of_a_share(total, data):
    """No rounding moves a milestone: 0.29 of 100 steps is step 29, though 0.29 * 100 < 29 in floating point."""
    at = data.draw(st.integers(1, total - 1))
    schedule = Step(10, milestones=(at / total,), gamma=0.5)
    assert (schedule(at - 1, total), schedule(at, total)) == (1.0, 0.5)
    assert Step(10, milestones=(0.29,))(29, 100) == 0.1


def test_milestones_are_shares_of_what_the_warmup_leaves():
    schedule = Step(10, warmup_epochs=2.0, milestones=(0.25, 0.5), gamma=0.5)
    assert [schedule(step, 100) for step in (20, 39, 40, 59, 60, 99)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1.0), (5, 0.9746794344809), (10, 0.95), (20, 0.9025), (100, 0.598736939238379)]
)
def test_exponential_at_chosen_steps(step, factor):
    """0.95^epoch: 0.95 to the powers 0, 1/2, 1, 2 and 10."""
    assert Exponential(10)(step, 1000) == pytest.approx(factor, rel=1e-12)


def test_exponential_is_torchs_where_epochs_begin():
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    theirs = lr_scheduler.ExponentialLR(optimizer, 0.9)
    for epoch in range(20):
        assert Exponential(7, gamma=0.9)(7 * epoch, 1000) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (5, 0.8), (10, 2 / 3), (20, 0.5), (80, 0.2)])
def test_inverse_time_at_chosen_steps(step, factor):
    """1 / (1 + epoch / 2) at the epochs 0, 1/2, 1, 2 and 8."""
    assert InverseTime(10, decay_rate=0.5)(step, 1000) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("cls", [Exponential, InverseTime])
def test_what_counts_epochs_counts_them_from_the_warmup_and_not_by_the_length_of_the_run(cls):
    assert cls(10, warmup_epochs=2.0)(35, 100) == cls(10, warmup_epochs=2.0)(35, 1000) == cls(10)(15, 100)


# ------------------------------------------------------------------------------------------------------------- onecycle


def optimizers():
    parameter = [torch.ones(1, requires_grad=True)]
    return {
        "momentum": torch.optim.SGD(parameter, lr=0.1, momentum=0.9),
        "adam": torch.optim.Adam(parameter, lr=0.1, betas=(0.9, 0.99)),
    }


@pytest.mark.parametrize("kind", ["momentum", "adam"])
@pytest.mark.parametrize(
    ("total", "pct_start", "div_factor", "final_div_factor"),
    [(100, 0.3, 25.0, 1e4), (97, 0.25, 10.0, 100.0), (7, 0.3, 25.0, 1e4), (3, 0.1, 5.0, 1.0), (60, 0.0, 2.0, 3.0),
     (60, 1.0, 2.0, 3.0)],
)  # fmt: skip
def test_onecycle_is_torchs_step_by_step(kind, total, pct_start, div_factor, final_div_factor):
    optimizer = optimizers()[kind]
    arguments = {"pct_start": pct_start, "div_factor": div_factor, "final_div_factor": final_div_factor}
    schedule = OneCycle(10, **arguments)
    theirs = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=total, **arguments)
    [group] = optimizer.param_groups
    for step in range(total):
        values = schedule.values(step, total, [], GROUP)
        assert values["lr"] == pytest.approx(group["lr"], rel=1e-12)
        momentum = group["betas"][0] if kind == "adam" else group["momentum"]
        assert values["momentum"] == pytest.approx(momentum, rel=1e-12)
        optimizer.step()
        if step < total - 1:
            theirs.step()


@pytest.mark.parametrize(
    ("step", "factor", "momentum"),
    [(0, 0.04, 0.95), (10, 0.52, 0.90), (20, 1.0, 0.85), (60, 0.5000002, 0.90), (100, 4e-6, 0.95)],
)
def test_onecycle_at_chosen_steps(step, factor, momentum):
    """101 steps, the peak at step 20, where 21/101 of them are done; half way up and down at 10 and at 60."""
    schedule = OneCycle(10, pct_start=21 / 101, final_div_factor=1e4)
    values = schedule.values(step, 101, [], {**GROUP, "lr": 1.0})
    assert values == {"lr": pytest.approx(factor, abs=2e-6), "momentum": pytest.approx(momentum, abs=1e-9)}


def test_onecycle_comes_after_a_warmup():
    schedule = OneCycle(10, warmup_epochs=2.0)
    assert schedule(9, 120) == pytest.approx(0.5 / 25)
    assert [schedule.values(step, 120, [], GROUP)["momentum"] for step in (0, 19, 20)] == [0.95] * 3
    assert schedule.values(70, 120, [], GROUP) == OneCycle(10).values(50, 100, [], GROUP)


@pytest.mark.parametrize("its", [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.0}])
def test_onecycle_gives_no_momentum_to_an_optimizer_without(its):
    assert set(OneCycle(10).values(5, 100, [], its)) == {"lr"}


def test_onecycle_can_leave_the_momentum_or_scale_it():
    assert set(OneCycle(10, cycle_momentum=False).values(5, 100, [], GROUP)) == {"lr"}
    schedule = OneCycle(10, cycle_momentum=False, scales=("lr", "momentum"))
    assert schedule.values(5, 100, [], GROUP)["momentum"] == 0.9 * schedule(5, 100)


def test_a_run_of_one_step_is_at_a_value_of_the_cycle():
    assert 0 < OneCycle(10)(0, 1) <= 1
    assert OneCycle(10, pct_start=1.0)(0, 1) == 1  # where torch divides by zero


# -------------------------------------------------------------------------------------------------------------- plateau


@pytest.mark.parametrize("metric", ["val_loss", "val_acc"])
@given(
    found=st.lists(st.floats(0, 3) | st.sampled_from([0.5, 0.99, 1.0, 1.01]), max_size=40),
    patience=st.integers(0, 4),
    settings=st.fixed_dictionaries(
        {"factor": st.sampled_from([0.1, 0.5, 0.9]), "threshold": st.sampled_from([0.0, 1e-4, 0.2])}
    ),
    floor=st.sampled_from([0.0, 0.2]),
)
def test_plateau_is_torchs_after_every_evaluation(metric, found, patience, settings, floor):
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    mode = "min" if metric == "val_loss" else "max"
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, mode, patience=patience, min_lr=floor, eps=0, **settings)
    schedule = Plateau(10, metric=metric, patience=patience, min_factor=floor, **settings)
    rows = []
    for step, value in enumerate(found):
        rows.append({"step": step, **dict.fromkeys(METRICS), metric: value})
        theirs.step(value)
        assert schedule(step, 100, rows) == optimizer.param_groups[0]["lr"]


def factors_of(schedule, rows):
    """After each of the rows, from a list that grows as in a run."""
    grown = []
    return [schedule(row["step"], 100, grown) for row in rows if not grown.append(row)]


def test_plateau_by_hand():
    losses = [2.0, 1.0, 1.0, 0.9999, 0.9, 1.1, 1.2, 1.3, 1.4, 0.8]
    assert factors_of(Plateau(10, patience=1), rows_of(losses)) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert factors_of(Plateau(10, patience=0), rows_of(losses[:4])) == [1, 1, 0.5, 0.25]  # 0.9999: by less than 1e-4
    assert factors_of(Plateau(10, patience=0, threshold=0.0), rows_of(losses[:4])) == [1, 1, 0.5, 0.5]
    assert factors_of(Plateau(10, patience=0, min_factor=0.3), rows_of([1.0] * 5)) == [1, 0.5, 0.3, 0.3, 0.3]


def test_plateau_wants_an_accuracy_to_rise():
    rows = [{"step": step, "val_acc": acc} for step, acc in enumerate([0.1, 0.5, 0.6, 0.6, 0.5, 0.7])]
    assert factors_of(Plateau(10, metric="val_acc", patience=0), rows) == [1, 1, 1, 0.5, 0.25, 0.25]


def test_plateau_without_an_evaluation_is_1():
    assert Plateau(10)(0, 100) == Plateau(10)(50, 100, []) == 1


def test_plateau_passes_over_what_was_not_measured():
    """The running means of training do not exist before it."""
    rows = [{"step": step, "train_loss": loss} for step, loss in enumerate([None, 1.0, None, 1.0, 0.5])]
    assert factors_of(Plateau(10, metric="train_loss", patience=0), rows) == [1, 1, 1, 0.5, 0.5]


def test_evaluations_in_the_warmup_do_not_count():
    """Of those at the steps 0, 5, 10, ... that at 10 is the first: it sees what the warm-up left."""
    schedule, rows = Plateau(10, warmup_epochs=1.0, patience=0), rows_of([1.0, 2.0, 3.0, 2.5, 2.5], every=5)
    assert factors_of(schedule, rows[2:]) == factors_of(schedule, rows)[2:] == [1, 1, 0.5]
    assert schedule(5, 100, rows) == 0.6  # still warming up


def test_plateau_reads_a_row_once_however_often_it_is_asked():
    reads = []

    class Row(dict):
        def __getitem__(self, key):
            reads.append(key)
            return super().__getitem__(key)

    schedule, rows = Plateau(10, patience=0), []
    for row in rows_of([1.0] * 20):
        rows.append(Row(row))
        assert len({schedule(50, 100, rows) for _ in range(30)}) == 1
    assert reads.count("val_loss") == 20


def test_plateau_notices_another_history():
    schedule, rows = Plateau(10, patience=0), rows_of([1.0] * 6)
    assert schedule(50, 100, rows) == 0.5**5
    assert schedule(50, 100, rows[:3]) == 0.5**2
    assert schedule(50, 100, [*rows_of([3.0, 2.0]), rows[2]]) == 1  # with the row that was read last, at its place
    assert schedule(50, 100, rows) == 0.5**5
    rows[:] = rows_of([1.0, 0.5, 0.2, 0.2, 0.2, 0.2])  # as long as before, in the same list
    assert schedule(50, 100, rows) == 0.5**3
    rows.clear()
    assert schedule(50, 100, rows) == 1


def test_the_metrics_of_plateau_are_columns():
    assert set(METRICS) < set(records.METRICS)


# ----------------------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    ("cls", "key", "bad", "words"),
    [
        *((cls, "final_factor", v, r"in \[0, 1\].*=0$") for cls in (Cosine, Linear) for v in (-0.1, 1.1, math.nan)),
        *((Step, "milestones", v, r"rising numbers in \(0, 1\).*=\[0\.5,0\.75\]$")
          for v in ([], [0.0], [1.0], [0.5, 0.5], [0.7, 0.3], [math.nan])),
        *((cls, "gamma", v, r"in \(0, 1\].*=0\.\d+$") for cls in (Step, Exponential) for v in (0, 1.1, -0.5, math.nan)),
        *((InverseTime, "decay_rate", v, "a number >= 0.*=1$") for v in (-1.0, math.nan, math.inf)),
        *((OneCycle, "pct_start", v, r"in \[0, 1\].*=0\.3$") for v in (-0.1, 1.1, math.nan)),
        *((OneCycle, "div_factor", v, "a number >= 1.*=25$") for v in (0.5, 0, math.nan, math.inf)),
        *((OneCycle, "final_div_factor", v, "a number >= 1.*=10000$") for v in (0.5, 0, math.nan, math.inf)),
        *((OneCycle, "max_momentum", v, "a number >= 0 and < 1.*=0.95$") for v in (-0.1, 1.0, math.nan)),
        *((OneCycle, "base_momentum", v, r"from 0 to max_momentum=0\.95.*=0\.85$") for v in (-0.1, 0.96, math.nan)),
        *((Plateau, "metric", v, "one of val_loss, .*=val_loss$") for v in ("val_los", "test_acc", "grad_norm_mean")),
        *((Plateau, "factor", v, r"in \(0, 1\].*=0\.5$") for v in (0, 1.5, math.nan)),
        (Plateau, "patience", -1, "a whole number >= 0.*=2$"),
        *((Plateau, "threshold", v, r"in \[0, 1\).*=0\.0001$") for v in (-0.1, 1.0, math.nan)),
        *((Plateau, "min_factor", v, r"in \[0, 1\].*=0$") for v in (-0.1, 1.1, math.nan)),
    ],
)  # fmt: skip
def test_a_setting_is_refused(cls, key, bad, words):
    with pytest.raises(ValueError, match=rf"^{key} must be .*{words}") as error:
        cls(10, **{key: bad})
    assert f", got {bad}; try schedule.{key}=" in str(error.value)


def test_onecycle_does_not_set_the_momentum_twice():
    with pytest.raises(ValueError, match=r"scales has momentum, .*try schedule\.cycle_momentum=false"):
        OneCycle(10, scales=("lr", "momentum"))


# -------------------------------------------------------------------------------------------------- the page about them


def test_the_page_says_the_defaults():
    page = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ((?:`\w+=\S+` ?)*) ?\|", page, flags=re.MULTILINE)
    assert len(rows) == 8
    for name, settings in rows:
        text = (ROOT / "conf" / "schedule" / f"{name}.yaml").read_text().replace(", ", ",")
        written = re.findall(r"^(\w+): (\S+)$", text, flags=re.MULTILINE)
        own = [f"{key}={value}" for key, value in written if key not in ("name", "_target_", "warmup_epochs", "scales")]
        assert re.findall(r"`(\S+)`", settings) == own


def test_the_picture_shows_every_choice(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("schedules_figure")
    shown = list(script.panels())
    assert [name for name, what in shown if what == "lr"] == list(catalog.choices("schedule"))
    assert ("onecycle", "momentum") in shown
    assert script.main(["--out", str(tmp_path / "picture.png")]) == 0
    assert (tmp_path / "picture.png").stat().st_size < 150_000
