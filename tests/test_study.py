"""What is compared with what, at which learning rate, on which seeds."""

import shutil

import pytest
from fakes import write_run

from normbench.plan import Arm, Plan, Range
from normbench.report import methods, planning
from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study
from normbench.report.study import Refused

STEPS = tuple(range(0, 2001, 100))


def curve(reaches, final=0.9):
    """Accuracies that stand at 0.8 from step `reaches` on, and end at `final`."""
    return tuple(0.1 if step < reaches else final if step == STEPS[-1] else 0.8 for step in STEPS)


def add(root, reaches=1000, final=0.9, **settings):
    losses = tuple(2.3 - a for a in curve(reaches, final))
    top = {"total_steps": STEPS[-1], **settings.pop("top", {})}
    return write_run(root, steps=STEPS, accuracies=curve(reaches, final), losses=losses, top=top, **settings)


def made(root, **options):
    return study(*collect([root]), Options(**options))


def states(contrast):
    return {(row.metric, index): (str(row.state), row.flags) for index, row in enumerate(contrast.rows)}


@pytest.fixture
def twice_as_fast(tmp_path):
    for seed in range(6):
        add(tmp_path, 1000 + 100 * (seed % 2), 0.85 + seed / 1000, norm="none", seed=seed)
        add(tmp_path, 500 + 100 * (seed % 2), 0.86 + seed / 1000, norm="bn", seed=seed)
    return tmp_path


def test_two_arms_make_one_contrast_with_the_baseline_none(twice_as_fast):
    found = made(twice_as_fast, target=0.8)
    assert [arm.norm for arm in found.arms] == ["none", "bn"]
    (contrast,) = found.contrasts
    assert (contrast.key, contrast.baseline.norm, contrast.variant.norm) == ("norm", "none", "bn")
    steps, seconds, accuracy = contrast.rows
    assert (steps.metric, seconds.metric, accuracy.metric) == ("steps_to_0.8", "train_s_to_0.8", "test_acc")
    assert steps.effect == pytest.approx((2 * 1100 / 600) ** 0.5)  # of the per-seed ratios 2 and 1.8333
    assert accuracy.effect == pytest.approx(0.01)
    assert (str(accuracy.state), accuracy.flags, accuracy.n_pairs) == ("BETTER", "", 6)
    assert steps.sentence.startswith("On fashion_mini (mlp, 5 epochs, 2,000 steps): norm=bn")


def test_the_order_of_folders_changes_nothing(twice_as_fast, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for number, folder in enumerate(sorted(twice_as_fast.iterdir(), reverse=True)):
        shutil.copytree(folder, other / f"{number}" / folder.name)
    assert [c.rows for c in made(other).contrasts] == [c.rows for c in made(twice_as_fast).contrasts]


def test_each_arm_is_reported_at_its_own_best_rate_and_both_at_the_baselines(tmp_path):
    for seed in range(4):
        for lr, none, bn in ((0.01, 0.70, 0.60), (0.1, 0.80, 0.75), (1.0, 0.50, 0.85)):
            add(tmp_path, final=none, norm="none", optimizer__lr=lr, seed=seed)
            add(tmp_path, final=bn, norm="bn", optimizer__lr=lr, seed=seed)
    (contrast,) = made(tmp_path, target=0.8).contrasts
    assert contrast.baseline.selection.best == (0.1,)
    assert contrast.variant.selection.best == (1.0,)
    own, same = (row for row in contrast.rows if row.metric == "test_acc")
    assert own.effect == pytest.approx(0.05)
    assert same.effect == pytest.approx(-0.05)
    assert "lr_at_edge" in own.flags
    assert "also try optimizer.lr=10,100" in own.sentence
    assert "lr_at_edge" not in same.flags
    assert "both at the learning rate 0.1" in same.sentence


def test_seeds_that_tune_are_not_reported(tmp_path):
    for seed in range(6):
        for lr in (0.1, 1.0):
            add(tmp_path, final=0.7 + lr / 10, norm="none", optimizer__lr=lr, seed=seed)
            add(tmp_path, final=0.8, norm="bn", optimizer__lr=lr, seed=seed)
    (contrast,) = made(tmp_path, tune_seeds=frozenset({0, 1})).contrasts
    assert contrast.baseline.selection.how == "tune/confirm"
    assert sorted(contrast.baseline.reported) == [2, 3, 4, 5]
    assert "chosen on other seeds" in contrast.rows[0].sentence


def test_a_target_of_the_runs_that_tuned_is_declared_before_those_reported(tmp_path):
    for seed in range(6):
        for lr in (0.1, 1.0):
            add(tmp_path, final=0.9 if lr == 1.0 else 0.7, norm="none", optimizer__lr=lr, seed=seed)
            add(tmp_path, final=0.9, norm="bn", optimizer__lr=lr, seed=seed)
    (after,) = made(tmp_path).contrasts
    (before,) = made(tmp_path, tune_seeds=frozenset({0, 1})).contrasts
    assert (after.post_hoc, before.post_hoc) == (True, False)
    assert before.target == after.target
    assert "post_hoc_target" in after.rows[0].flags
    assert "post_hoc_target" not in before.rows[0].flags
    assert before.baseline.tuning.keys() == {0, 1}


def test_several_settings_are_tuned_and_searched_where_the_plan_says(tmp_path):
    points = [(0.01, 0.5), (0.5, 0.9), (0.03, 0.95), (0.2, 0.8)]
    for seed in range(5):
        for norm, best in (("none", 0), ("bn", 1)):
            for number, (lr, momentum) in enumerate(points):
                final = 0.8 if number == best else 0.6 + number / 100
                if seed < 2 or number in (0, best):
                    add(tmp_path, final=final, norm=norm, optimizer="momentum", optimizer__lr=lr,
                        optimizer__momentum=momentum, seed=seed)  # fmt: skip
    keys = ("optimizer.lr", "optimizer.momentum")
    ranges = (Range(keys[0], "log", 1e-3, 0.5), Range(keys[1], "linear", 0.0, 1.0))
    plan = Plan("", (Arm({"norm": "bn"}, ranges),), "random", 4, 0, (0, 1), (2, 3, 4))
    found = made(tmp_path, tuned=keys, tune_seeds=frozenset({0, 1}), plan=plan)
    assert "optimizer.momentum" not in found.keys
    none, bn = sorted(found.arms, key=lambda arm: arm.norm, reverse=True)
    assert (none.selection.best, bn.selection.best) == (points[0], points[1])
    assert (none.selection.n_settings, bn.selection.n_settings) == (4, 4)
    assert [edge.wider for edge in bn.selection.edges] == ["tune.optimizer.lr='log(0.001,2.36)' trials=9"]
    assert none.selection.edges == ()  # the plan knows no ranges of it
    own, same = (row for row in found.contrasts[0].rows if row.metric == "test_acc")
    assert "each at its best of 4 settings (chosen on other seeds)" in own.sentence
    assert "both at optimizer.lr=0.01 optimizer.momentum=0.5, the baseline's best" in same.sentence


def test_what_halving_stopped_was_tried(tmp_path):
    """Of 6 trials an arm two have been trained to the end in one, three in the other: the budget was the same."""
    for seed in range(5):
        for norm, lrs in (("none", (0.1, 0.2)), ("bn", (0.1, 0.2, 0.3))):
            for lr in lrs if seed < 2 else lrs[:1]:
                add(tmp_path, final=0.9 - lr, norm=norm, optimizer__lr=lr, seed=seed)
    arms = tuple(Arm({"norm": norm}, (Range("optimizer.lr", "log", 1e-3, 10.0),)) for norm in ("none", "bn"))
    plan = Plan("", arms, "random", 6, 0, (0, 1), (2, 3, 4), halving=3)
    (contrast,) = made(tmp_path, tune_seeds=frozenset({0, 1}), plan=plan).contrasts
    assert "each at its best of 6 learning rates" in contrast.rows[0].sentence
    assert "unequal_tuning" not in contrast.rows[0].flags
    assert "(wider, as a choice hangs on one seed)" in contrast.rows[0].sentence  # of those stopped it is not known
    (plain,) = made(tmp_path, tune_seeds=frozenset({0, 1})).contrasts
    assert "norm=bn was tuned with 3 learning rates and norm=none with 2" in plain.rows[0].sentence


def test_the_one_setting_that_halving_leaves_was_chosen(tmp_path):
    for seed in range(4):
        for norm in ("none", "bn"):
            add(tmp_path, final=0.8 + 0.01 * seed * (norm == "bn"), norm=norm, optimizer__lr=0.1, seed=seed)
    arms = tuple(Arm({"norm": norm}, (Range("optimizer.lr", "log", 1e-3, 10.0),)) for norm in ("none", "bn"))
    plan = Plan("", arms, "random", 9, 0, (0,), (1, 2, 3), halving=3, more=("halved so",))
    found = made(tmp_path, tune_seeds=frozenset({0}), plan=plan)
    own = next(row for row in found.contrasts[0].rows if row.metric == "test_acc")
    assert "each at its best of 9 learning rates (chosen on other seeds)" in own.sentence
    assert own.ci_high - own.ci_low == pytest.approx(2 * 2 * planning.half_width(0.01, 3))  # one seed chose: 1/3 + 1
    assert "9 trials for every arm (halved so): as the one with the highest" in methods.paragraph(found)


def test_where_no_run_learned_there_is_no_verdict(tmp_path):
    for seed in range(3):
        add(tmp_path, final=0.1, norm="none", seed=seed)
        add(tmp_path, final=0.101 + 0.001 * seed, norm="bn", seed=seed)
    (contrast,) = made(tmp_path).contrasts
    assert {row.state for row in contrast.rows} == {"REFUSED"}
    assert "no run of either arm ended better than it began; try other settings" in contrast.rows[0].sentence


def test_where_nothing_learned_at_the_same_rate_only_that_row_has_no_verdict(tmp_path):
    for seed in range(3):
        for lr, none, bn in ((0.1, 0.101, 0.1), (0.2, 0.1, 0.8)):
            add(tmp_path, final=none, norm="none", optimizer__lr=lr, seed=seed)
            add(tmp_path, final=bn, norm="bn", optimizer__lr=lr, seed=seed)
    (contrast,) = made(tmp_path).contrasts
    rows = [row for row in contrast.rows if row.metric == "test_acc"]
    refused = ["no run of either arm ended better than it began" in row.sentence for row in rows]
    assert refused == [False, True]


def test_only_seeds_that_choose_report_nothing(tmp_path):
    for seed in range(2):
        for norm in ("none", "bn"):
            for lr in (0.1, 0.2):
                add(tmp_path, norm=norm, optimizer__lr=lr, seed=seed)
    (contrast,) = made(tmp_path, tune_seeds=frozenset({0, 1})).contrasts
    assert "all runs are of the seeds [0, 1], which choose" in contrast.rows[0].sentence


def test_other_settings_are_compared_apart(tmp_path):
    for seed in range(3):
        for optimizer in ("sgd", "adam"):
            for norm in ("none", "bn", "ln"):
                add(tmp_path, norm=norm, optimizer=optimizer, seed=seed)
    found = made(tmp_path)
    assert [(c.where["optimizer"], c.variant.norm) for c in found.contrasts] == [
        ("adam", "bn"), ("adam", "ln"), ("sgd", "bn"), ("sgd", "ln"),
    ]  # fmt: skip
    by_optimizer = made(tmp_path, baseline=("optimizer", "adam"))
    assert [(c.where["norm"], c.variant.optimizer) for c in by_optimizer.contrasts] == [
        ("none", "sgd"), ("bn", "sgd"), ("ln", "sgd"),
    ]  # fmt: skip


def test_a_setting_that_only_some_norms_have_belongs_to_the_variant(tmp_path):
    for seed in range(3):
        add(tmp_path, norm="none", seed=seed)
        for groups in (2, 4):
            add(tmp_path, norm="gn", norm__num_groups=groups, seed=seed)
    found = made(tmp_path)
    assert [(c.baseline.norm, c.variant.setting["norm.num_groups"]) for c in found.contrasts] == [
        ("none", 2),
        ("none", 4),
    ]
    assert "norm=gn norm.num_groups=2" in found.contrasts[0].rows[0].sentence


def test_a_block_without_the_baseline_is_told(tmp_path):
    for seed in range(3):
        add(tmp_path, norm="none", batch_size=64, seed=seed)
        add(tmp_path, norm="bn", batch_size=64, seed=seed)
        add(tmp_path, norm="bn", batch_size=8, seed=seed)
    found = made(tmp_path)
    assert len(found.contrasts) == 1
    assert found.notes == ("No comparison for batch_size=8: there is no baseline norm=none among them.",)


def test_nothing_to_compare_is_told(tmp_path):
    add(tmp_path, seed=0)
    found = made(tmp_path)
    assert (found.contrasts, len(found.arms)) == ((), 1)
    assert "nothing to compare" in found.notes[0]


@pytest.mark.parametrize(
    ("baseline", "words"),
    [(("norm", "ln"), "norm is one of none, bn"), (("nrom", "none"), "--baseline must be one of norm, optimizer")],
)
def test_a_baseline_that_no_run_has_is_refused(twice_as_fast, baseline, words):
    with pytest.raises(Refused, match=words):
        made(twice_as_fast, baseline=baseline)


def test_a_diverged_run_counts_as_guessing_and_never_reaches_the_target(tmp_path):
    for seed in range(4):
        add(tmp_path, norm="none", seed=seed)
        lost = {"state": "diverged"} if seed == 0 else {}
        add(tmp_path, norm="bn", seed=seed, **lost)
    (contrast,) = made(tmp_path, target=0.8).contrasts
    accuracy = contrast.rows[-1]
    assert accuracy.effect == pytest.approx((0.1 - 0.9) / 4)
    assert contrast.variant.diverged(contrast.variant.reported) == 1


def test_seeds_that_are_not_shared_are_compared_without_pairs(tmp_path):
    for seed in range(4):
        add(tmp_path, final=0.80 + seed / 1000, norm="none", seed=seed)
        add(tmp_path, final=0.85 + seed / 1000, norm="bn", seed=seed + 10)
    accuracy = made(tmp_path).contrasts[0].rows[-1]
    assert (accuracy.paired, accuracy.n_pairs) == (False, 0)
    assert "not paired" in accuracy.sentence


@pytest.mark.parametrize("other", [{"git_commit": "def"}, {"device": "cuda:0"}, {"git_commit": "abc-dirty"}])
def test_runs_of_other_origin_lower_the_verdict(twice_as_fast, tmp_path, other):
    add(twice_as_fast, 500, 0.867, norm="bn", seed=6, top=other)
    add(twice_as_fast, 1000, 0.857, norm="none", seed=6)
    accuracy = made(twice_as_fast).contrasts[0].rows[-1]
    assert (str(accuracy.state), accuracy.flags) == ("PROBABLY", "mixed_origin")


def test_too_few_seeds_give_no_verdict(tmp_path):
    for seed in range(2):
        add(tmp_path, norm="none", seed=seed)
        add(tmp_path, norm="bn", seed=seed)
    assert {str(row.state) for row in made(tmp_path, target=0.8).contrasts[0].rows} == {"REFUSED"}


def test_an_automatic_target_is_said_to_be_chosen_afterwards(twice_as_fast):
    contrast = made(twice_as_fast).contrasts[0]
    assert (contrast.target, contrast.post_hoc) == (0.8, True)
    assert "post_hoc_target" in contrast.rows[0].flags
    assert "post_hoc_target" not in contrast.rows[-1].flags


def test_the_accuracy_leads_where_evaluations_are_too_far_apart_to_tell_a_time(tmp_path):
    for seed in range(3):
        for norm, reaches in (("none", 1000), ("bn", 500)):
            values = tuple(0.1 if step < reaches else 0.8 for step in (0, 500, 1000, 1500, 2000))
            write_run(
                tmp_path, steps=(0, 500, 1000, 1500, 2000), accuracies=values, losses=tuple(2.3 - v for v in values),
                norm=norm, seed=seed, top={"total_steps": 2000},
            )  # fmt: skip
    assert [row.metric for row in made(tmp_path).contrasts[0].rows][:2] == ["test_acc", "steps_to_0.8"]
    assert made(tmp_path, target=0.8).contrasts[0].rows[0].metric == "steps_to_0.8"


def test_where_too_many_never_reach_a_target_chosen_afterwards_the_accuracy_leads(tmp_path):
    """Half of the baseline's runs reach 0.8, and some of each arm never do: there is no ratio of times."""
    for seed in range(6):
        for norm, fails in (("none", seed % 2 == 0), ("bn", seed % 3 == 0)):
            add(tmp_path, 10**6 if fails else 1000, 0.75 if fails else 0.9, norm=norm, seed=seed)
    (contrast,) = made(tmp_path).contrasts
    assert contrast.rows[0].metric == "test_acc"
    assert next(row.state for row in contrast.rows if row.effect_kind == "ratio") == "REFUSED"
    (asked,) = made(tmp_path, target=0.8).contrasts
    assert asked.rows[0].metric == "steps_to_0.8"  # who asks for it is told that it can't be told
