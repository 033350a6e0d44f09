"""The protocol of a comparison on simulated response surfaces, what is typed and refused, plans that go on."""

import itertools
import math
import re
import statistics
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from normbench import plan as plans
from normbench import records
from normbench.app import register_plugins
from normbench.cli import main
from normbench.compare import arms, asked, ending, planning, rounds, search, space, telling
from normbench.config import ConfigError, run_id
from normbench.plan import Arm, Plan, Range
from normbench.report import selection, stats
from normbench.report.planning import seeds_needed, seeds_to_tell
from normbench.report.selection import Edge
from normbench.report.state import State, Subject
from normbench.report.verdict import judge
from normbench.sweep import loading

LR = Range("optimizer.lr", "log", 1e-4, 1.0)
CONFIG = ("dataset=synthetic", "batch_size=32", "epochs=9")


def plan_of(*made, **changes):
    usual = {"search": "quasirandom", "trials": 16, "zoom": 1, "tune_seeds": (1000, 1001), "seeds": tuple(range(6))}
    return Plan("normbench compare", made, **(usual | changes))


def arm(norm="none", ranges=(LR,), **choices):
    return Arm({"norm": norm, **choices}, tuple(ranges))


@pytest.fixture(scope="module")
def contenders():
    """contenders("norm=none,bn", ..., tune={}) -> the arms of that command."""
    register_plugins()

    def make(*typed, tune=None):
        with loading.opened(None) as loader:
            return arms.contenders(loader, [*CONFIG, *typed], tune or {})

    return make


def values(config, keys):
    return [getattr(config, key.partition(".")[0])[key.partition(".")[2]] for key in keys]


class Surface:
    """Trains nothing: the accuracy at an lr is `peak` at `best`, falls by `fall` a decade squared, and has the noise of
    its seed. What was asked for is noted.
    """

    def __init__(self, noise=0.003, best=0.01, fall=0.02, peaks=None, lost=lambda config: False):
        self.noise, self.best, self.fall, self.peaks, self.lost = noise, best, fall, peaks or {}, lost
        self.asked = []

    def true(self, config):
        away = math.log10(config.optimizer["lr"] / self.best)
        return self.peaks.get(config.norm["name"], 0.9) - self.fall * away**2

    def __call__(self, what, configs):
        self.asked.append((what, list(configs)))
        return [None if self.lost(config) else self.score(config) for config in configs]

    def score(self, config):
        if not self.noise:
            return self.true(config)
        digest = int(run_id(replace(config, stop_epoch=None))[-12:], 16)  # the same run has the same luck
        return self.true(config) + self.noise * float(np.random.default_rng(digest).standard_normal())


# ------------------------------------------------------------------------------------------------------------ protocol


def test_what_is_confirmed_is_not_optimistic(contenders):
    """Reported on fresh seeds the chosen setting's accuracy is right on average; on the tune seeds it is too high."""
    made, luck = contenders("norm=none,bn"), {"tune": [], "confirm": []}
    for number in range(150):
        plan = plan_of(*(c.arm for c in made), search_seed=number, seeds=(0, 1, 2))
        surface = Surface(fall=0.001)  # so flat that luck decides
        found = rounds.tune(made, plan, surface)
        rounds.confirm(found, plan, surface)
        for one in found:
            true = surface.true(one.contender.at(one.best, 0))
            fresh = [surface.score(one.contender.at(one.best, seed)) for seed in plan.seeds]
            luck["confirm"].append(statistics.mean(fresh) - true)
            luck["tune"].append(one.mean() - true)
    assert abs(statistics.mean(luck["confirm"])) < 0.0005  # 0.05 pp
    assert statistics.mean(luck["tune"]) > 0.002


def test_every_arm_gets_the_same_trials_epochs_and_seeds_and_the_same_points(contenders):
    made = contenders("norm=none,bn", "optimizer=sgd,adam")
    plan, surface = plan_of(*(c.arm for c in made), trials=7), Surface()
    found = rounds.tune(made, plan, surface)
    assert [len(set(one.tried)) for one in found] == [7] * 4
    assert [what for what, _ in surface.asked] == ["round 1 of 2", "round 2 of 2"]
    assert [len(configs) for _, configs in surface.asked] == [4 * 4 * 2, 4 * 3 * 2]
    assert {config.seed for _, configs in surface.asked for config in configs} == {1000, 1001}
    places = [[one.contender.arm.ranges[0].place(s[0]) for s in one.tried[:4]] for one in found]
    assert places[0] == pytest.approx(places[1], abs=2e-3)  # sgd's and adam's ranges differ, the places do not
    assert found[0].tried[:4] == found[2].tried[:4]


def test_a_further_round_searches_a_quarter_of_the_range_round_the_best(contenders):
    made, surface = contenders("norm=none,bn"), Surface(noise=0, best=0.002)
    first = rounds.tune(made, plan_of(*(c.arm for c in made), zoom=0, trials=8), surface)[0]
    both = rounds.tune(made, plan_of(*(c.arm for c in made), zoom=1, trials=16), surface)[0]
    span = made[0].arm.ranges[0]
    middle, later = span.place(first.best[0]), [span.place(setting[0]) for setting in both.tried[8:]]
    assert both.tried[:8] == first.tried
    assert max(abs(place - middle) for place in later) <= 0.126
    assert abs(math.log10(both.best[0] / 0.002)) < abs(math.log10(first.best[0] / 0.002))


def test_a_box_at_the_end_of_a_range_stays_inside():
    assert search.shrunk(arm(), (1.0,), 1)["optimizer.lr"] == pytest.approx((0.75, 1.0))
    assert search.shrunk(arm(), (1e-4,), 2)["optimizer.lr"] == pytest.approx((0, 1 / 16))


def test_the_confirmation_is_at_each_best_and_at_the_baselines(contenders):
    made, surface = contenders("norm=none,bn", "optimizer=sgd,adam"), Surface()
    plan = plan_of(*(c.arm for c in made), trials=4, zoom=0, seeds=(0, 1, 2))
    found = rounds.tune(made, plan, surface)
    for one, best in zip(found, [(0.1,), (0.01,), (0.2,), (0.01,)], strict=True):
        one.best = best
    rounds.confirm(found, plan, surface)
    asked_for = [(c.norm["name"], c.optimizer["name"], c.optimizer["lr"]) for c in surface.asked[-1][1]]
    assert {c.seed for c in surface.asked[-1][1]} == {0, 1, 2}
    # bn with sgd at none's 0.1, too; with adam both have the same best, so there is nothing more to train
    assert dict.fromkeys(asked_for) == dict.fromkeys([
        ("none", "sgd", 0.1), ("none", "adam", 0.01), ("bn", "sgd", 0.2), ("bn", "adam", 0.01), ("bn", "sgd", 0.1)
    ])  # fmt: skip


def test_a_learning_rate_of_one_optimizer_is_none_of_another(contenders):
    made = contenders("optimizer=sgd,adam")
    found = [rounds.Tuned(c, best=(0.1 * i,)) for i, c in enumerate(made, 1)]
    assert len(rounds.contrasts(found)) == 1
    assert rounds.at_the_baselines(found) == []


def test_trials_that_fail_do_not_take_part_and_an_arm_without_any_is_said_to_have_none(contenders):
    made = contenders("norm=none,bn")
    plan = plan_of(*(c.arm for c in made), trials=4)
    surface = Surface(lost=lambda config: config.norm["name"] == "bn" or config.optimizer["lr"] < 1e-3)
    found = rounds.tune(made, plan, surface)
    rounds.confirm(found, plan, surface)
    assert {config.norm["name"] for config in surface.asked[-1][1]} == {"none"}
    said = ending.ledger(found, plan)
    assert re.search(r"none +optimizer.lr=\S+, best of \d finished of 4 trials", said)
    assert "bn    nothing: none of its 4 trials finished; it is not confirmed, and there is no verdict on it" in said


def test_where_all_diverge_the_smallest_is_chosen(contenders):
    made = contenders("norm=none,bn")
    found = rounds.tune(made, plan_of(*(c.arm for c in made)), lambda what, configs: [0.1] * len(configs))
    assert [one.best for one in found] == [(min(setting[0] for setting in one.tried),) for one in found]
    said = ending.ledger(found, plan_of(*(c.arm for c in made)))
    assert said.count("all its trials came out alike: diverged or untrained") == 2
    assert all(one.alike for one in found)  # so that no wider range is proposed round a best that there is not


def test_started_again_it_asks_for_the_same_runs(contenders):
    made = contenders("norm=none,bn")
    plan, first, second = plan_of(*(c.arm for c in made), halving=3), Surface(), Surface()
    for surface in (first, second):
        rounds.confirm(rounds.tune(made, plan, surface), plan, surface)
    assert first.asked == second.asked


def test_halving_trains_a_third_on_the_same_for_every_arm(contenders):
    made, surface = contenders("norm=none,bn"), Surface(noise=0)
    plan = plan_of(*(c.arm for c in made), trials=9, zoom=0, halving=3)
    found = rounds.tune(made, plan, surface)
    assert [what for what, _ in surface.asked] == ["trials, to epoch 1", "trials, to epoch 3", "trials, to epoch 9"]
    assert [len(configs) for _, configs in surface.asked] == [2 * 9 * 2, 2 * 3 * 2, 2 * 1 * 2]
    assert [{config.stop_epoch for config in configs} for _, configs in surface.asked] == [{1}, {3}, {None}]
    everything = rounds.tune(made, replace(plan, halving=0), Surface(noise=0))
    assert [one.best for one in found] == [one.best for one in everything]
    assert "21 epochs instead of 81 for each tune seed" in telling.with_words(made, plan).more[0]


def test_what_is_ahead_is_the_mean_and_of_equal_ones_the_smaller():
    scores = {(0.3,): {0: 0.8, 1: 0.8}, (0.1,): {0: 0.9, 1: 0.7}, (0.2,): {0: 0.9}, (1.0,): {0: 0.9, 1: 0.9}}
    assert rounds.ahead(scores, 2, (0, 1)) == [(1.0,), (0.1,)]


# --------------------------------------------------------------------------------------------------------------- edges


def at_an_edge(made, ranges, surface, **plan):
    """In which share of studies the learning rate is said to lie at an end, and what is to type."""
    told = []
    for number in range(20):
        one = replace(made[0], arm=replace(made[0].arm, ranges=ranges))
        found = rounds.tune([one], plan_of(one.arm, search_seed=number, tune_seeds=(1000,), **plan), surface)
        told.append([edge.wider for edge in found[0].edges if edge.setting == LR.key])
    return statistics.mean(map(bool, told)), {wider for edges in told for wider in edges}


@pytest.mark.parametrize(
    ("trials", "zoom", "caught", "false"), [(4, 0, 0.9, 0.3), (8, 0, 0.75, 0.1), (16, 1, 0.75, 0.02)]
)
def test_a_best_beyond_the_range_is_told_with_one_and_with_two_tuned(trials, zoom, caught, false, contenders):
    made = contenders("norm=none,bn", "optimizer=momentum")
    momentum = Range("optimizer.momentum", "one_minus_log", 0.8, 0.99)
    more = " trials=9" if trials < 8 else ""
    for ranges in ((LR,), (LR, momentum)):
        above, typed = at_an_edge(made, ranges, Surface(0, best=3.0), trials=trials, zoom=zoom)
        assert (above >= caught, typed) == (True, {f"tune.optimizer.lr='log(0.0001,10)'{more}"})
        below, typed = at_an_edge(made, ranges, Surface(0, best=3e-5), trials=trials, zoom=zoom)
        assert (below >= caught, typed) == (True, {f"tune.optimizer.lr='log(1e-05,1)'{more}"})
        assert at_an_edge(made, ranges, Surface(0, best=0.01), trials=trials, zoom=zoom)[0] <= false


@pytest.mark.parametrize(
    ("span", "value", "wider"),
    [(Range("optimizer.momentum", "one_minus_log", 0.8, 0.999), 0.999, "one_minus_log(0.8,0.999734)"),
     (Range("optimizer.momentum", "one_minus_log", 0.0, 0.99), 0.01, None),
     (Range("optimizer.momentum", "linear", 0.5, 0.9), 0.9, "linear(0.5,0.95)"),
     (Range("optimizer.weight_decay", "linear", 0.01, 0.1), 0.01, "linear(0,0.1)"),
     (Range("norm.num_groups", "log", 1.0, 8.0), 1, None), (Range("norm.num_groups", "log", 1.0, 8.0), 8, "log(1,13)")],
)  # fmt: skip
def test_the_wider_range_can_be_typed(span, value, wider):
    (one,) = selection.choose(
        pd.DataFrame({span.key: [value], "seed": [0], "score": [0.5]}), "val_acc", tune=(span.key,),
        tune_seeds=(0,), confirm_seeds=(1,), ranges={span.key: span},
    ).edges or (None,)  # fmt: skip
    assert (one and one.wider) == (wider and f"tune.{span.key}='{wider}' trials=9")
    if wider:
        assert isinstance(space.read(span.key, wider, type(value)(0)), Range)


def test_the_command_that_looks_farther_has_every_best_inside(contenders):
    """In its own optimizer's range, where others have others; what is typed twice is joined."""
    made = contenders("norm=none,bn", "optimizer=sgd,adam")
    plan = plan_of(*(c.arm for c in made))
    sgd, adam = (plan.ranges(made[i].arm)["optimizer.lr"] for i in (0, 1))
    assert (sgd.key, adam.key) == ("optimizer.sgd.lr", "optimizer.adam.lr")
    assert plan_of(arm(), arm("bn")).ranges(arm())["optimizer.lr"].key == "optimizer.lr"
    edges = [
        Edge("optimizer.lr", 9.9, "tune.optimizer.sgd.lr='log(0.001,100)'"),
        Edge("optimizer.lr", 0.001, "tune.optimizer.sgd.lr='log(0.0001,10)' trials=9"),
    ]
    args = ["norm=none,bn", "trials=4", "tune.optimizer.sgd.lr=log(1e-3,10)", "name=first", "seeds=3"]
    assert ending.farther(args, edges, "first") == (
        "normbench compare norm=none,bn seeds=3 'tune.optimizer.sgd.lr=log(0.0001,100)' trials=9 name=first2"
    )
    assert [planning.another(name) for name in ("compare", "compare2", "run-09")] == ["compare2", "compare3", "run-10"]


def test_the_ledger_says_what_lies_at_an_end(contenders):
    made = contenders("norm=none,bn", tune={"optimizer.lr": "log(1e-4,1)"})
    plan = plan_of(*(c.arm for c in made))
    said = ending.ledger(rounds.tune(made, plan, Surface(noise=0, best=3.0)), plan)
    assert said.count("; at the end of what was tried: optimizer.lr") == 2
    assert "at the end" not in ending.ledger(rounds.tune(made, plan, Surface(noise=0, best=0.01)), plan)


# -------------------------------------------------------------------------------------------------------------- search


@pytest.mark.parametrize("method", ["quasirandom", "random"])
def test_settings_are_different_inside_and_of_three_digits(method):
    momentum = Range("optimizer.momentum", "one_minus_log", 0.8, 0.99)
    one = arm(ranges=[LR, momentum])
    found = search.trials(one, plan_of(one, search=method, trials=64, zoom=0), 0, {}, (), {})
    assert len(set(found)) == 64
    for lr, beta in found:
        assert 1e-4 <= lr <= 1
        assert 0.8 <= beta <= 0.99
        assert float(f"{lr:.3g}") == lr
        assert len(str(beta)) <= 7
    assert np.mean([lr < 0.01 for lr, _ in found]) == pytest.approx(0.5, abs=0.15)
    assert np.mean([beta < 1 - math.sqrt(0.2 * 0.01) for _, beta in found]) == pytest.approx(0.5, abs=0.15)


def test_quasirandom_points_lie_in_every_eighth():
    one = arm()
    for seed in range(20):
        found = search.trials(one, plan_of(one, zoom=0, trials=8, search_seed=seed), 0, {}, (), {})
        assert len({min(7, int(8 * LR.place(lr) + 0.02)) for (lr,) in found}) >= 7


def test_a_grid_has_both_ends_and_needs_a_fitting_number():
    one = arm(ranges=[LR, Range("norm.momentum", "linear", 0.0, 0.5)])
    found = search.trials(one, plan_of(one, search="grid", trials=9, zoom=0), 0, {}, (), {})
    assert found == list(itertools.product((1e-4, 0.01, 1.0), (0.0, 0.25, 0.5)))
    with pytest.raises(ConfigError, match=r"grid of 2 settings has, got trials=10; type trials=9"):
        search.trials(one, plan_of(one, search="grid", trials=10, zoom=0), 0, {}, (), {})


def test_whole_numbers_and_listed_values_are_tried_once_each():
    groups = Range("norm.num_groups", "log", 1, 8)
    one = Arm({"norm": "gn"}, (groups,), {"norm.kind": ("a", "b")})
    found = search.trials(one, plan_of(one, trials=16, zoom=0), 0, {}, (), {"norm.num_groups": True})
    assert set(found) == set(itertools.product(range(1, 9), "ab"))
    with pytest.raises(ConfigError, match="hold only 16 different settings; type trials=16 zoom=0"):
        search.trials(one, plan_of(one, trials=17, zoom=0), 0, {}, (), {"norm.num_groups": True})


def test_trials_are_split_over_the_rounds_and_halvings_over_the_epochs():
    assert search.per_round(16, 1) == [8, 8]
    assert search.per_round(16, 2) == [6, 5, 5]
    assert search.halvings(9, 3) == [1, 3, 9]
    assert search.halvings(2, 3) == [1, 2]
    assert search.halvings(5, 0) == [5]
    assert search.kept(16, 3, 3) == [16, 6, 2]


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log(1,1e-3)", r"LOW below HIGH, got log\(1,1e-3\); try tune.optimizer.lr='log\(0.001,1\)'"),
        ("log(1,1)", "LOW below HIGH"),
        ("log(0,1)", "both ends of log must be above 0"),
        ("log(-1,1)", "both ends of log must be above 0"),
        ("log(1)", "must be log"),
        ("log(nan,1)", "must be log"),
        ("lag(1,2)", "must be log"),
        ("one_minus_log(0.5,1)", "HIGH < 1"),
        ("0.1", "to give optimizer.lr one value in every arm type optimizer.lr=0.1"),
        ("0.1,abc", "'abc' is no value like the default 0.1"),
    ],
)
def test_what_is_no_range_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        space.read("optimizer.lr", text, 0.1)


def test_what_is_a_range():
    assert space.read("optimizer.lr", "log(1e-4, 1)", 0.1) == LR
    assert space.read("optimizer.lr", "0.1,0.01,0.1", 0.1) == (0.01, 0.1)
    assert space.read("optimizer.lr", "null", 0.1) is None
    assert space.read("model.hidden", "null", [64]) is None
    with pytest.raises(ConfigError, match="is a list"):
        space.read("optimizer.betas", "log(1e-4,1)", [0.9, 0.999])
    with pytest.raises(ConfigError, match="is no number"):
        space.read("model.activation", "log(1e-4,1)", "relu")


def test_each_optimizers_own_range_is_two_decades_on_each_side():
    from importlib.resources import files

    for file in (files("normbench.conf") / "optimizer").iterdir():
        if file.name.endswith(".yaml"):
            made = OmegaConf.create(file.read_text())
            span = space.read("optimizer.lr", made.tune.lr, made.lr)
            assert (span.scale, span.low * 100, span.high / 100) == (
                "log",
                pytest.approx(made.lr),
                pytest.approx(made.lr),
            )


def test_where_settings_are_tuned_is_no_part_of_a_run(contenders):
    (none, bn) = contenders("norm=none,bn", tune={"optimizer.lr": "log(1e-4,1)"})
    assert "tune" not in bn.config.optimizer
    assert none.arm.ranges == bn.arm.ranges == (LR,)
    assert contenders("norm=none,bn")[1].config == bn.config


def test_a_range_of_one_choice_goes_before_that_of_all(contenders):
    found = contenders("optimizer=sgd,adam", tune={"optimizer.sgd.lr": "log(0.1,1)", "optimizer.lr": "log(1e-4,1)"})
    assert [one.arm.ranges[0].low for one in found] == [0.1, 1e-4]
    (none, bn) = contenders("norm=none,bn", tune={"norm.momentum": "linear(0.01,1)"})
    assert (none.arm.tuned, bn.arm.tuned) == (("optimizer.lr",), ("optimizer.lr", "norm.momentum"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["norm=bn"], "at least two arms"),
        (["norm=none,bn", "tune.lr=log(1,2)"], "did you mean tune.optimizer.lr"),
        (["norm=none,bn", "tune.optimzer.lr=log(1,2)"], "did you mean tune.optimizer.lr"),
        (["epochs=1,2"], "every arm gets the same epochs, so epochs can't be a list; type epochs=ONE"),
        (["dataset=synthetic,fashion_mini"], "compared on the same test images, so dataset can't be a list"),
        (["norm=none,bn", "optimizer.lr=0.1", "trials=2"], "trials has no effect where nothing is tuned; leave it out"),
        (["norm=none,bn", "tune.optimizer.lr=0.1,0.1"], "one value in every arm type optimizer.lr=0.1\n"),
        (["norm=none,bn", "tune.optimizer.momentum=linear(0,0.9)"], "no arm has it: unknown key optimizer.momentum"),
        (["norm=none,bn", "tune.optimizer.sgd.lr=log(1,2)"], "no arm has optimizer=sgd"),
        (["norm=none,bn", "optimizer.lr=0.1", "tune.optimizer.lr=log(1,2)"], "leave one of them out"),
        (["optimizer=momentum", "norm=none,bn", "tune.optimizer.momentum=linear(0,1)"], "an end of what is tuned"),
        (["norm=none,bn", "seed=1"], "the runs' seeds are the comparison's"),
        (["norm=none,bn", "stop_epoch=1"], "every run goes to its end"),
        (["norm=none,bn", "trails=4"], "did you mean trials"),
        (["norm=none,bn", "trials=0"], "trials must be a whole number from 1 to 1,000,000, got 0"),
        (["norm=none,bn", "tune.optimizer.lr"], "tune.optimizer.lr needs a range, as tune.optimizer.lr='log(1e-4,1)'"),
        (["norm=none,bn", "tune.=log(1,2)"], "what is tuned is a setting of a group"),
        (["norm=none,bn", "trials=1"], "can't be split over 2 rounds"),
        (["norm=none,bn", "seeds=1001"], "seeds must be a whole number from 1 to 1,000"),
        (["norm=none,bn", "first_seed=-1"], "first_seed must be a whole number from 0 to 1,000,000, got -1"),
        (["norm=none,bn", "search=bayes"], "search must be quasirandom, random, grid"),
        (["norm=none,bn", "search=grid", "zoom=1"], "search=grid has one round"),
        (["norm=none,bn", "budget=10"], "budget must be a time as 90s, 30min or 2h"),
        (["norm=none,bn", "halving=1"], "halving must be 0"),
        (["norm=none,bn", "name=a,b"], "can't be a list"),
        (["norm=none,bn", "norm=ln"], "norm is given twice"),
        (["norm=none,bn", "--foo"], "unknown option --foo"),
        (["norm=none,bn", "hydra/launcher=basic"], "no settings of Hydra's but"),
        (["norm=nne,bn"], "did you mean none"),
        (["study=nowhere.yaml"], "study=nowhere.yaml can't be read"),
        (["norm=none,bn", "tune.optimizer.lr=null", "tune.norm.momentum=linear(0.1,1)"], "has nothing to tune"),
        (["norm=none,bn", "tune.optimizer.lr=0.1,0.2", "trials=4"], "only 2 different settings"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_written(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = [] if args[0].startswith("dataset") else ["dataset=synthetic"]
    assert main(["compare", *data, "batch_size=32", *args]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("normbench: ")
    assert not list(tmp_path.glob("results"))


def test_a_study_file_says_what_is_typed(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "# mine\nnorm: none,bn\nmodel.hidden: [32, 16]\ntune.optimizer.lr: log(1e-4,1)\n"
        "trials: 8\nepochs: 1\nname: 007\n"
    )
    found = asked.read([f"study={file}", "trials=4", "seeds=3"])
    assert (found.trials, found.seeds, found.tune) == (4, 3, {"optimizer.lr": "log(1e-4,1)"})
    assert {"norm=none,bn", "model.hidden=choice([32,16])", "epochs=1"} <= set(found.settings)
    assert found.given == {"trials", "seeds"}
    file.write_text("norm: [none, bn]\n")
    assert "norm=none,bn" in asked.read([f"study={file}"]).settings
    for text, words in (
        ("- norm", "must hold lines"),
        ("norm: {a: b}", "must hold lines"),
        ("study: x", "another study"),
        ("norm: none,bn\nnorm: none,ln", "norm is given twice"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            asked.read([f"study={file}"])


@pytest.mark.parametrize("before", [None, plan_of(arm("none"), arm("bn"))])
def test_a_comparison_once_more_has_none_of_the_seeds_of_the_first(contenders, before):
    typed = asked.read(["norm=none,bn", "first_seed=100", "seeds=3", "tune_seeds=2"])
    plan = planning.made(typed, contenders("norm=none,bn", tune={"optimizer.lr": "log(1e-4,1)"}), before, "x", 1, 0)[1]
    assert (plan.seeds, plan.tune_seeds) == ((100, 101, 102), (1100, 1101))


def test_another_plan_in_the_same_folder_is_refused_more_seeds_are_not(tmp_path):
    before = plan_of(arm("none"), arm("bn"))
    planning.refuse_other(before, replace(before, seeds=tuple(range(9)), command="x"), tmp_path, [])
    wider = replace(LR, high=10.0)
    for now, words in (
        (replace(before, trials=8), "it had trials=16, now trials=8; for this one type normbench "),
        (plan_of(arm("none", [wider]), arm("bn")), r"it tuned optimizer.lr log\(0.0001,1\), now"),
        (plan_of(arm("none"), arm("ln")), "it had the arm norm=bn; it had not the arm norm=ln"),
        (replace(before, halving=3), "halving=0, now halving=3"),
        (replace(before, seeds=(100, 101), tune_seeds=(1100, 1101)), "it had first_seed=0, now first_seed=100; for"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            planning.refuse_other(before, now, tmp_path, ["norm=none,bn"])


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = plan_of(Arm({"norm": "gn"}, (LR,), {"norm.num_groups": (1, 2)}), halving=3, search_seed=7)
    plans.write(tmp_path / "new", plan)
    assert plans.read(tmp_path / "new") == plan
    assert plan.tuned == ("optimizer.lr", "norm.num_groups")


@pytest.mark.parametrize(
    ("before", "after"),
    [('"trials": 16', '"trials": "four"'), ('"low": 0.0001', '"low": -5'), ("1000,", '"x",'), ('"log"', '"lot"')],
)
def test_a_plan_that_was_tampered_with_is_damaged_and_no_other_comparison(tmp_path, before, after):
    plans.write(tmp_path, plan_of(arm("none"), arm("bn")))
    text = (tmp_path / "compare.json").read_text()
    assert before in text
    (tmp_path / "compare.json").write_text(text.replace(before, after))
    with pytest.raises(records.Damaged, match=r"compare\.json is damaged: it is not a plan"):
        plans.read(tmp_path)


def test_two_of_the_same_command_at_once_do_not_write_one_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with records.Lock(tmp_path / "results" / "compare"):
        assert main(["compare", *CONFIG, "norm=none,bn", "trials=2", "zoom=0"]) == 3
    assert "results/compare is in use by process" in capsys.readouterr().err
    assert not list(tmp_path.glob("results/compare/*.json"))


def test_the_seeds_needed_are_read_from_the_sentence_of_the_report():
    effect = stats.difference({0: 0.8, 1: 0.8, 2: 0.8}, {0: 0.81, 1: 0.78, 2: 0.815}, resolution=1 / 2000)
    subject = Subject("test_acc", "norm=none", "norm=bn", "fashion_mini", "mlp", "2,000 steps", "")
    row = judge(effect, subject)
    assert row.state == State.UNCLEAR
    assert ending.NEEDED.search(row.sentence)[1] == str(seeds_needed(effect.sd, 0.005))
    typed = ["norm=none,bn", "seeds=3", "tune.optimizer.lr=log(1e-4,1)"]
    effect = stats.difference({0: 0.8, 1: 0.8, 2: 0.8}, {0: 0.86, 1: 0.9, 2: 0.81}, resolution=1 / 2000)
    needed = seeds_to_tell(effect.interval.estimate, effect.sd)
    assert ending.NEEDED.search(judge(effect, subject).sentence)[1] == str(needed)
    effect = stats.difference({0: 0.8, 1: 0.8, 2: 0.8}, {0: 0.81, 1: 0.82, 2: 0.83}, resolution=1 / 2000, reselected=1)
    assert ending.UNSURE in judge(effect, subject).sentence
    assert ending.more_that_choose([*typed, "tune_seeds=1"], plan_of(tune_seeds=(1000,)), "compare") == (
        "normbench compare norm=none,bn seeds=3 'tune.optimizer.lr=log(1e-4,1)' tune_seeds=4 name=compare2"
    )
    assert ending.more_seeds(typed, 25) == "normbench compare norm=none,bn 'tune.optimizer.lr=log(1e-4,1)' seeds=25"


def test_a_folder_of_other_runs_is_not_taken_over(tmp_path):
    (tmp_path / "mlp-bn-adam-s0-000000000000").mkdir()
    (tmp_path / "mlp-bn-adam-s0-000000000000" / "run.json").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"holds runs, but no compare\.json of a comparison that made them; type another name="
    ):
        planning.kept(tmp_path)
    assert planning.kept(tmp_path / "new") is None
