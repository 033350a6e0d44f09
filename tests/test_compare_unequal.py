"""An unequal budget of tuning gets no verdict, with the reason and what to type; made-up runs, worked by hand."""

import csv

import pytest
from fakes import write_run

from normbench import plan as plans
from normbench.claim import Claim, Question
from normbench.plan import Arm, Plan, Range
from normbench.report import answers, main, verdict
from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study
from normbench.report.selection import Selection
from normbench.report.state import Flag

LR = "optimizer.lr"


def arm(root, norm, lrs=(0.05, 0.1, 0.2), seeds=range(5), lost=(), **settings):
    """norm=bn ends 2 pp above norm=none at any rate, 0.1 is the best. lost: (lr, seed) that failed."""
    for lr in lrs:
        for seed in seeds:
            final = 0.8 + 0.02 * (norm == "bn") - 0.1 * (lr != 0.1) + 0.001 * (seed % 10)
            state = "failed" if (lr, seed) in lost else "complete"
            top = {"reason": "out of memory"} if state == "failed" else {}
            write_run(root, norm=norm, optimizer="sgd", optimizer__lr=lr, seed=seed, accuracies=(0.1, 0.7, final),
                      state=state, top=top, **settings)  # fmt: skip


def accuracy(root, **options):
    """The verdict on test accuracy, each arm at its own best."""
    (contrast,) = study(*collect([root]), Options(**options)).contrasts
    return next(row for row in contrast.rows if row.metric == "test_acc")


def test_equal_budgets_have_a_verdict(tmp_path):
    arm(tmp_path, "none")
    arm(tmp_path, "bn")
    assert (str(accuracy(tmp_path).state), accuracy(tmp_path).flags) == ("BETTER", "")


@pytest.mark.parametrize("better", ["none", "bn"])
def test_more_settings_than_the_other_are_refused(better, tmp_path):
    arm(tmp_path, "none", lrs=(0.1, 0.2, 0.3) if better == "none" else (0.1,))
    arm(tmp_path, "bn", lrs=(0.1, 0.2, 0.3) if better == "bn" else (0.1,))
    other = {"bn": "none", "none": "bn"}[better]
    row = accuracy(tmp_path)
    assert str(row.state) == "REFUSED"
    assert (
        f"no verdict on the test accuracy of norm=bn against norm=none: norm={better} was tuned with 3 learning rates "
        f"and norm={other} with 1, and better tuned is not better; for a verdict train norm={other} with "
        "optimizer.lr=0.2,0.3, too." in row.sentence
    )


def test_rates_that_the_other_has_not_are_counted_not_named(tmp_path):
    arm(tmp_path, "none", lrs=(0.4,))
    arm(tmp_path, "bn", lrs=(0.1, 0.2, 0.3))
    assert "train norm=none with 2 more learning rates, too" in accuracy(tmp_path).sentence


def test_more_seeds_to_choose_by_are_refused(tmp_path):
    arm(tmp_path, "none", seeds=(0, 1, *range(10, 15)))
    arm(tmp_path, "bn", seeds=(0, 1, 2, *range(10, 15)))
    row = accuracy(tmp_path, tune_seeds=frozenset({0, 1, 2}))
    assert str(row.state) == "REFUSED"
    assert "norm=bn was tuned on the seeds 0,1,2 and norm=none on 0,1" in row.sentence
    assert "for a verdict train norm=none with seed=2, too" in row.sentence


def test_more_epochs_in_all_are_refused():
    def chosen(*epochs):
        tried = tuple((0.1, n) for n in epochs)
        return Selection("val_acc", (LR, "epochs"), "tune/confirm", {0: tried[0]}, tried[0], {tried[0]: 1}, 2, 2,
                         n_choosing=2, tried=tried, choosing=(8, 9))  # fmt: skip

    assert verdict.tuning_refusal(chosen(1, 5), chosen(5, 1)) == ""
    said = verdict.tuning_refusal(chosen(1, 5), chosen(4, 5), ("norm=none", "norm=bn"))
    assert said.startswith("norm=none with 6 epochs and norm=bn with 9 epochs over all settings")
    assert said.endswith("give both the same epochs")


def test_a_setting_that_failed_was_given_all_the_same(tmp_path):
    """Equal budgets: the verdict is lowered, not refused; also where it failed on every seed."""
    arm(tmp_path / "one", "none", lost=[(0.2, 4)])
    arm(tmp_path / "one", "bn")
    arm(tmp_path / "all", "none", lost=[(0.2, seed) for seed in range(5)])
    arm(tmp_path / "all", "bn")
    arm(tmp_path / "all", "none", lrs=(0.3,))  # else 0.1 would be the largest that finished
    arm(tmp_path / "all", "bn", lrs=(0.3,))
    for folder, done, of in (("one", 2, 3), ("all", 3, 4)):
        row = accuracy(tmp_path / folder)
        assert (str(row.state), row.flags) == ("PROBABLY", Flag.UNEQUAL_TUNING)
        assert f"{done} of {of} settings finished for the baseline, {of} of {of} for the variant" in row.sentence


def test_arms_that_were_not_tuned_may_have_other_seeds(tmp_path):
    arm(tmp_path, "none", lrs=(0.1,), seeds=range(4))
    arm(tmp_path, "bn", lrs=(0.1,), seeds=range(5))
    assert str(accuracy(tmp_path).state) == "BETTER"


def test_a_claim_is_not_decided_by_the_better_tuned(tmp_path):
    arm(tmp_path, "none", lrs=(0.1,))
    arm(tmp_path, "bn")
    made = study(*collect([tmp_path]), Options())
    ask = Question("test_acc", "norm=bn", "norm=none", "higher", (), "")
    (answer,) = answers.answers(made, Claim("n", "c", "s", "quick", (ask,)))
    assert (answer.verdict, str(answer.row.state)) == ("undecided", "REFUSED")
    assert "norm=bn was tuned with 3 learning rates and norm=none with 1" in answer.row.sentence


def test_a_trial_added_to_one_arm_of_a_comparison_is_found(tmp_path):
    """From the folder to the pages; without the trial there is a verdict."""
    span = Range(LR, "log", 0.05, 0.4)
    arms = tuple(Arm({"norm": norm}, (span,)) for norm in ("none", "bn"))
    plans.write(tmp_path, Plan("normbench compare", arms, "grid", 3, 0, (1000, 1001), tuple(range(5))))
    for norm in ("none", "bn"):
        arm(tmp_path, norm, seeds=(1000, 1001))
        arm(tmp_path, norm, lrs=(0.1,))
    states = []
    for more in ((), (0.15,)):
        arm(tmp_path, "bn", lrs=more, seeds=(1000, 1001))
        assert main([str(tmp_path), "--format", "md,csv", "--only", "curves"]) == 0
        with open(tmp_path / "report/data/comparisons.csv") as file:
            row = next(row for row in csv.DictReader(file) if row["metric"] == "test_acc")
        states.append(row["state"])
    assert states == ["BETTER", "REFUSED"]
    text = (tmp_path / "report/report.md").read_text()
    assert "norm=bn was tuned with 4 learning rates and norm=none with 3" in text
    assert "train norm=none with optimizer.lr=0.15, too" in text
