"""`budget=`: what a comparison is predicted to take, what fits, and the time kept though predictions err."""

import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from normbench import compare
from normbench import plan as plans
from normbench.cli import main
from normbench.compare import budget, ending, planning, rounds
from normbench.compare.budget import Cost, Measured
from normbench.compare.launch import Launch
from normbench.config import ConfigError
from normbench.plan import Arm, Plan, Range
from normbench.sweep import pool

LR = Range("optimizer.lr", "log", 1e-4, 1.0)
ARMS = tuple(Arm({"norm": norm}, (LR,)) for norm in ("none", "bn"))
PLAN = Plan("normbench compare", ARMS, "quasirandom", 16, 1, (1000, 1001), tuple(range(6)))
TOO = [False, True]  # bn is trained at the rate of none, too
TINY = ["norm=none,bn", "dataset=synthetic", "batch_size=32", "model.hidden=[8]", "hydra.launcher.workers=1"]


def measured(*costs, **known):
    return Measured(tuple(Cost(*cost) for cost in costs), **({"start_s": 4.0} | known))


# ------------------------------------------------------------------------------------------------------------ predicted


def test_the_predicted_time_by_hand():
    """16 trials of two arms on two seeds of 1 + 5 x 2 s, then 6 seeds, of bn twice; two at once."""
    found = budget.seconds(PLAN, measured((2.0, 1.0), (2.0, 1.0)), 5, TOO, 2)
    assert found == 4 + (2 * 16 * 2 + 3 * 6) * 11 / 2


def test_a_process_that_waits_for_the_last_run_is_in_the_predicted_time():
    """Three runs of 10 s on two processes take 20 s, not 15."""
    plan = replace(PLAN, trials=1, zoom=0, tune_seeds=(1000,), seeds=(0, 1, 2))
    assert budget.seconds(plan, measured((10.0, 0.0)), 1, [False], 2) == 4 + 10 + 20
    assert budget.seconds(plan, measured((10.0, 0.0)), 1, [False], 1) == 4 + 10 + 30
    assert budget.seconds(plan, measured((10.0, 0.0), together=True), 1, [False], 2) == 4 + 5 + 15


def test_halving_and_seeds_are_in_the_predicted_time():
    plan = replace(PLAN, trials=9, zoom=0, tune_seeds=(1000,), seeds=(0, 1, 2))
    assert budget.seconds(plan, measured((1.0, 0.0)), 9, [False], 1) == 4 + 9 * 9 + 3 * 9
    halved = budget.seconds(replace(plan, halving=3), measured((1.0, 0.0)), 9, [True], 1)
    assert halved == 4 + 9 * 1 + 3 * 2 + 1 * 6 + 2 * 3 * 9


def test_the_report_takes_longer_where_others_work():
    assert budget.reporting_s(100, 2.0) == 2 * budget.reporting_s(100, 1.0)
    assert budget.report_s(100, 1.0) == pool.GRACE_S + 1 + 1.5 * budget.reporting_s(100, 1.0)
    assert budget.slowness(0.01) >= 1


def test_a_run_is_measured_and_what_it_takes_to_begin(compose):
    config = compose("dataset=synthetic", "batch_size=32", "epochs=2", "model.hidden=[8]")
    cost, start_s, slow = budget.measure(config, time.time() - 100)
    assert cost.an_epoch > 0
    assert cost.fixed > 0
    assert start_s > 100
    assert slow >= 1
    assert budget.measure(config, time.time() - 100)[1] == 0  # this process is ready


# ----------------------------------------------------------------------------------------------------------------- fits


def test_a_budget_is_filled_and_what_is_typed_stays():
    each, last = measured((1.0, 0.2), (1.0, 0.2)), 0
    for minutes in (3, 10, 30, 120):
        made, epochs = budget.fitting(PLAN, each, 5, TOO, 2, 60 * minutes, frozenset())
        seconds = budget.seconds(made, each, epochs, TOO, 2)
        assert last <= seconds <= 60 * minutes - budget.report_s(100, 1.0)
        last = seconds
    assert made.trials > 16
    later = replace(PLAN, seeds=(7,), tune_seeds=(1007,))
    made, _ = budget.fitting(later, each, 5, TOO, 2, 600, frozenset())
    assert (made.seeds[:3], made.tune_seeds[0]) == ((7, 8, 9), 1007)
    made, epochs = budget.fitting(PLAN, each, 5, TOO, 2, 600, frozenset({"seeds", "trials", "epochs"}))
    assert (made.trials, len(made.seeds), epochs) == (16, 6, 5)


def test_what_has_been_spent_and_a_slow_machine_leave_less():
    each = measured((1.0, 0.2), (1.0, 0.2))
    runs = [
        len(made.arms) * made.trials * len(made.tune_seeds) + 3 * len(made.seeds)
        for made, _ in (
            budget.fitting(PLAN, each, 5, TOO, 2, 600, frozenset()),
            budget.fitting(PLAN, each, 5, TOO, 2, 600, frozenset(), spent_s=300),
            budget.fitting(PLAN, replace(each, slow=20.0), 5, TOO, 2, 600, frozenset()),
        )
    ]
    assert runs[0] > runs[1]
    assert runs[0] > runs[2]


def test_too_little_time_is_refused_with_how_much_would_do():
    each = measured((1.0, 0.2), (1.0, 0.2))
    with pytest.raises(ConfigError, match=r"the least that gives a verdict takes about .*; type budget=\d+min") as told:
        budget.fitting(PLAN, each, 5, TOO, 2, 20, frozenset(), spent_s=3)
    enough = 60 * int(re.search(r"budget=(\d+)min", str(told.value))[1])
    budget.fitting(PLAN, each, 5, TOO, 2, enough, frozenset(), spent_s=3)


# --------------------------------------------------------------------------------------------------------- the deadline


def test_a_round_for_which_there_is_no_time_is_left_out_in_every_arm():
    class Clock(Launch):
        """Each run takes 1 s; nothing is trained."""

        def __call__(self, what, configs):
            self.trained, self.took_s, self.until = len(configs), float(len(configs)), self.until
            return [0.5 + 0.001 * number for number, _ in enumerate(configs)]

    contenders = made_contenders()
    plan = replace(PLAN, trials=4, seeds=(0, 1, 2, 3))
    for left_s, trials, zoom in ((3600, 4, 1), (1, 2, 0)):
        launch = Clock(1, until=time.monotonic() + left_s)
        found = rounds.tune(contenders, plan, launch, ending._fits(contenders, plan, launch))
        shorter = rounds.shortened(plan, found)
        assert {len(arm.tried) for arm in found} == {trials}
        assert (shorter.trials, shorter.zoom) == (trials, zoom)
    first = rounds.tune(contenders, shorter, Clock(1))
    assert [arm.tried for arm in first] == [arm.tried for arm in found]  # started again it asks for the same


def made_contenders():
    from normbench.app import register_plugins
    from normbench.compare import arms
    from normbench.sweep import loading

    register_plugins()
    with loading.opened(None) as loader:
        return arms.contenders(loader, ["norm=none,bn", "dataset=synthetic", "batch_size=32"], {})


class Machine:
    """A clock that a comparison moves: every run takes `wrong` times what was measured, the report 1.4 times."""

    def __init__(self, monkeypatch, wrong, cost_s, slow=1.3):
        self.now, self.wrong, self.cost_s, self.seeds, self.runs = 100.0, wrong, cost_s, 0, set()
        self.measured = measured((cost_s, 0.1), (cost_s, 0.1), slow=slow)
        for module in (compare, planning):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(budget, "costs", self.costs)
        monkeypatch.setattr(Launch, "__call__", lambda launch, what, configs: self.train(launch, what, configs))
        monkeypatch.setattr(Launch, "has_time_for", lambda launch, runs: self.now + runs * self.a_run <= self.until)
        monkeypatch.setattr(ending, "_report", self.report)

    @property
    def a_run(self):
        return self.wrong * (self.cost_s * self.epochs + 0.1)

    def costs(self, contenders, workers):
        self.now += 8.0
        return self.measured

    def train(self, launch, what, configs):
        self.epochs, self.until = configs[0].epochs, launch.ends - budget.report_s(launch.runs, self.measured.slow)
        each, runs = self.a_run, {config.folder: config for config in configs}
        self.runs |= runs.keys()
        done = min(len(runs), max(0, int((self.until - self.now) / each)))
        if what.startswith("confirmation"):
            seeds = [config.seed for config in list(runs.values())[:done]]
            self.seeds = sum(seeds.count(seed) == len(runs) / len({c.seed for c in configs}) for seed in set(seeds))
        if done < len(runs):
            self.now = self.until + pool.LOOK_S + pool.GRACE_S
            raise pool.TimeUp
        self.now += done * each
        return [0.5 + 1e-6 * (number * 7919 % 1000) for number in range(len(configs))]

    def report(self, folder, plan, args, late):
        self.now += 1.4 * budget.reporting_s(len(self.runs), self.measured.slow)
        return 0


@pytest.mark.parametrize("wrong", [0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize(("limit_s", "cost_s"), [(90, 0.2), (120, 0.4), (600, 0.4), (600, 5.0)])
def test_the_time_is_kept_however_wrong_the_prediction_and_at_twice_there_still_is_a_verdict(
    wrong, limit_s, cost_s, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    machine = Machine(monkeypatch, wrong, cost_s)
    assert main(["compare", *TINY, f"budget={limit_s}s", "epochs=5"]) == 0
    assert machine.now - 100.0 <= limit_s
    said, kept = capsys.readouterr().out, plans.read(tmp_path / "results/compare")
    if wrong <= 1:
        assert machine.seeds == len(kept.seeds)
        assert "the budget is spent" not in said
    if wrong <= 2 and (kept.zoom or kept.more):  # else there was no time for more than the least
        assert machine.seeds >= 3
    if kept.more:
        assert wrong > 1
        assert (kept.zoom, kept.more) == (0, (ending.OVER,))
        assert f"{ending.OVER}: {kept.trials} trials each" in said
