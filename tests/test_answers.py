"""What runs answer to the questions of a claim, each number worked by hand from made-up runs."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from fakes import write_run

from normbench import claim, records
from normbench.claim import Claim, Question
from normbench.report import answers, measures, probed
from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study

SEEDS = range(5)
JITTER = (0.0, 0.001, -0.001, 0.002, -0.002)


def asked(root, *questions, **options):
    made = study(*collect([root]), Options(**options))
    return answers.answers(made, Claim("name", "It is so.", "somewhere", "quick", questions))


def run(root, final, seed, **settings):
    lost = settings.pop("lost", False)
    write_run(root, steps=(0, 50, 100, 200), accuracies=(0.1, final, final, final), losses=(2.3, 0.9, 0.7, 0.6),
              seed=seed, state="diverged" if lost else "complete", **settings)  # fmt: skip


def pair(root, gain, **settings):
    for seed in SEEDS:
        run(root, 0.8, seed, norm="none", **settings)
        run(root, 0.8 + gain + JITTER[seed], seed, norm="bn", **settings)


BN = {"of": "norm=bn", "than": "norm=none"}


@pytest.mark.parametrize(
    ("gain", "expect", "verdict"),
    [
        (0.03, "higher", "supported"), (-0.03, "higher", "contradicted"), (0.0, "higher", "contradicted"),
        (0.005, "higher", "supported"),  # above 0 by an amount that may be too small to matter
        (0.03, "lower", "contradicted"), (-0.03, "lower", "supported"), (0.0, "same", "supported"),
        (0.03, "same", "contradicted"), (0.005, "same", "undecided"),
    ],
)  # fmt: skip
def test_the_interval_decides(tmp_path, gain, expect, verdict):
    pair(tmp_path, gain)
    (answer,) = asked(tmp_path, Question("test_acc", expect=expect, **BN))
    assert answer.verdict == verdict
    assert answer.row.effect == pytest.approx(gain)
    assert (answer.row.baseline, answer.row.variant) == ("norm=none", "norm=bn")
    assert answers.overall([answer]) == verdict


def test_too_few_or_too_different_seeds_decide_nothing(tmp_path):
    for seed in range(2):
        run(tmp_path, 0.8, seed, norm="none")
        run(tmp_path, 0.9, seed, norm="bn")
    (answer,) = asked(tmp_path, Question("test_acc", expect="higher", **BN))
    assert (answer.verdict, answer.row.state) == ("undecided", "REFUSED")


def test_all_must_support_and_what_is_also_contradicted_holds_in_part(tmp_path):
    pair(tmp_path, 0.03)
    yes, no = (Question("test_acc", expect=expect, **BN) for expect in ("higher", "lower"))
    found = asked(tmp_path, yes, no)
    assert [answer.verdict for answer in found] == ["supported", "contradicted"]
    assert answers.overall(found) == "in part"
    assert answers.overall(found[:1]) == "supported"
    assert answers.overall(found[1:]) == "contradicted"
    undecided = replace(found[1], question=replace(no, where=("seed=1",)), verdict="undecided")
    assert answers.overall([*found, undecided]) == "in part"
    assert answers.overall([found[1], undecided]) == "contradicted"
    assert answers.overall([found[0], undecided]) == "undecided"
    assert answers.overall([]) == "undecided"


def test_what_else_varies_gives_an_answer_each(tmp_path):
    for optimizer, gain in (("sgd", 0.03), ("adam", -0.03)):
        pair(tmp_path, gain, optimizer=optimizer)
    found = asked(tmp_path, Question("test_acc", expect="higher", **BN))
    assert [(answer.where, answer.verdict) for answer in found] == [
        ("optimizer=adam", "contradicted"), ("optimizer=sgd", "supported"),
    ]  # fmt: skip
    (one,) = asked(tmp_path, Question("test_acc", expect="higher", where=("optimizer=sgd",), **BN))
    assert (one.verdict, one.where) == ("supported", "optimizer=sgd")  # named, or two questions would look like one
    assert "(mlp, optimizer=sgd, " in one.row.sentence
    probed = replace(one.question, where=("probe=activations", "batch_size=4"))
    assert answers._shown(probed, {"optimizer": "sgd"}) == {"batch_size": "4", "optimizer": "sgd"}


def test_models_and_data_sets_that_vary_are_named(tmp_path):
    for model in ("mlp", "lenet"):
        pair(tmp_path, 0.03, model=model)
    found = asked(tmp_path, Question("test_acc", expect="higher", **BN))
    assert [answer.where for answer in found] == ["model=lenet", "model=mlp"]


def test_the_time_to_a_target(tmp_path):
    for seed in SEEDS:
        for norm, steps in (("none", (0, 80, 160, 200)), ("bn", (0, 40, 80, 200))):
            write_run(tmp_path, steps=steps, accuracies=(0.1, 0.5, 0.9, 0.9), losses=(2.3, 0.9, 0.7, 0.6), norm=norm,
                      seed=seed)  # fmt: skip
    (answer,) = asked(tmp_path, Question("step", expect="lower", **BN), target=0.85)
    assert (answer.verdict, answer.row.effect) == ("supported", pytest.approx(2.0))
    assert answer.sides == (dict.fromkeys(SEEDS, 80.0), dict.fromkeys(SEEDS, 160.0))
    assert answer.effect.startswith("2.00x [")
    assert answer.effect.endswith("] sooner")
    (other,) = asked(tmp_path, Question("step", expect="higher", **BN), target=0.85)
    assert (other.verdict, other.why) == (
        "contradicted", "it is the other way, though evaluations are more than 10% of the time to target apart"
    )  # fmt: skip
    (turned,) = asked(tmp_path, Question("step", "norm=none", "norm=bn", "lower"), target=0.85)
    assert turned.effect.startswith("2.00x [")
    assert turned.effect.endswith("] later")


def timed(root, times, **settings):
    """A run a seed of each norm that crosses 0.7 and 0.8 at these steps; evaluations every 10 steps, to step 100."""
    for norm, (first, second) in times.items():
        steps = tuple(range(0, 101, 10))
        curve = [0.9 if step >= second else 0.75 if step >= first else 0.1 for step in steps]
        for seed in SEEDS:
            write_run(root, steps=steps, accuracies=curve, losses=[1.0] * len(steps), norm=norm, seed=seed, **settings)


def of_targets(root, question, *targets):
    made = study(*collect([root]), Options())
    return answers.answers(made, Claim("name", "It is so.", "somewhere", "quick", (question,), targets=targets))


def test_a_time_is_told_at_every_target_of_the_claim(tmp_path):
    timed(tmp_path, {"none": (40, 80), "bn": (20, 60)})
    found = of_targets(tmp_path, Question("step", expect="lower", **BN), 0.7, 0.85)
    assert [answer.row.metric for answer in found] == ["steps_to_0.7", "steps_to_0.85"]
    assert [answer.row.effect for answer in found] == [pytest.approx(2.0), pytest.approx(8 / 6)]
    assert "post_hoc_target" not in found[0].row.flags
    assert answers.overall(found) == "supported"


def test_a_target_that_cannot_be_told_says_nothing_beside_one_that_can(tmp_path):
    timed(tmp_path, {"none": (10, 80), "bn": (10, 40)})  # 0.7 by the first evaluation
    found = of_targets(tmp_path, Question("step", expect="lower", **BN), 0.7, 0.85, 0.99)
    assert [answer.row.state for answer in found] == ["REFUSED", "PROBABLY", "REFUSED"]  # coarse
    assert "by the first evaluation" in found[0].row.sentence
    assert (found[1].verdict, found[1].why) == (
        "supported", "though evaluations are more than 10% of the time to target apart"
    )  # fmt: skip
    assert answers.with_reason(found[1].verdict, found[1].why).startswith("supported, though evaluations")
    (turned,) = of_targets(tmp_path, Question("step", "norm=none", "norm=bn", "lower"), 0.85)
    assert (turned.verdict, turned.why) == (
        "contradicted", "it is the other way, though evaluations are more than 10% of the time to target apart"
    )  # fmt: skip
    assert answers.overall(found) == "supported"
    assert answers.overall(found[::2]) == "undecided"


def test_runs_that_never_get_there_have_no_time(tmp_path):
    timed(tmp_path, {"none": (20, 1000), "bn": (10, 60)})
    (answer,) = of_targets(tmp_path, Question("step", expect="lower", **BN), 0.85)
    assert answer.sides == (dict.fromkeys(SEEDS, 60.0), {})
    assert answer.row.censored_a == len(SEEDS)


def test_what_is_not_supported_says_why(tmp_path):
    for seed in SEEDS[:3]:
        run(tmp_path, 0.8, seed, norm="none")
        run(tmp_path, 0.8 + 0.1 * (seed - 1), seed, norm="bn")
        run(tmp_path, 0.8, seed, norm="ln")
        run(tmp_path, 0.8, seed, norm="gn")
    for seed in SEEDS[:2]:
        run(tmp_path, 0.8, seed, norm="in")
    whys = {
        than: asked(tmp_path, Question("test_acc", "norm=ln", f"norm={than}", "higher"))[0].why
        for than in ("bn", "gn", "in")
    }
    assert whys == {
        "bn": "3 seeds cannot tell", "gn": "no difference that matters",
        "in": "2 paired seeds; at least 3 are needed",
    }  # fmt: skip
    (one,) = asked(tmp_path, Question("test_acc", "norm=ln", "norm=gn", "same"))
    assert (one.verdict, one.why) == ("supported", "")


def test_what_a_grid_cannot_resolve_is_not_the_same(tmp_path):
    """All seeds agree on the grid, and the step of the grid is wider than what matters."""
    for seed in SEEDS:
        for lr in (0.01, 0.1, 1.0):
            for norm in ("none", "bn"):
                run(tmp_path, 0.8, seed, norm=norm, optimizer="sgd", optimizer__lr=lr)
    names = ("usable_range", "largest", "share_trained")
    found = asked(tmp_path, *(Question(name, expect="higher", along="optimizer.lr", **BN) for name in names))
    assert [answer.verdict for answer in found] == ["undecided"] * 3
    assert all(answer.row.ci_low < -answer.margin < answer.margin < answer.row.ci_high for answer in found)


def test_the_learning_rate_casts_no_doubt_on_milliseconds(tmp_path):
    rates(tmp_path)
    pace, accuracy = asked(tmp_path, *(Question(name, expect="same", **BN) for name in ("pace", "test_acc")))
    assert "lr_at_edge" in accuracy.row.flags
    assert pace.row.flags == ""


def test_one_target_the_other_way_contradicts_in_part(tmp_path):
    timed(tmp_path, {"none": (40, 60), "bn": (20, 90)})
    found = of_targets(tmp_path, Question("step", expect="lower", **BN), 0.7, 0.85)
    assert [answer.verdict for answer in found] == ["supported", "contradicted"]
    assert answers.overall(found) == "in part"


def rates(root):
    """At 0.01, 0.1 and 1: norm none 0.5, 0.8, 0.6 and bn 0.7, 0.71, 0.82, in validation as in test."""
    for seed in SEEDS:
        for lr, none, bn in ((0.01, 0.5, 0.7), (0.1, 0.8, 0.71), (1.0, 0.6, 0.82)):
            for norm, final in (("none", none), ("bn", bn)):
                run(root, final + JITTER[seed], seed, norm=norm, optimizer="sgd", optimizer__lr=lr)


def test_a_side_may_name_a_value_of_what_is_tuned(tmp_path):
    rates(tmp_path)
    fixed = Question("test_acc", "norm=bn optimizer.lr=0.01", "norm=none optimizer.lr=0.010", "higher")
    own = Question("test_acc", expect="higher", **BN)
    best = Question("best_found", "norm=bn", "norm=none optimizer.lr=1", "higher", along="optimizer.lr")
    found = asked(tmp_path, fixed, own, best)
    assert [answer.row.effect for answer in found] == [pytest.approx(v) for v in (0.2, 0.02, 0.22)]
    assert "tuned" not in found[0].row.sentence.replace("not tuned", "")
    with pytest.raises(ValueError, match=r"no runs have norm=bn optimizer\.lr=3"):
        asked(tmp_path, Question("test_acc", "norm=bn optimizer.lr=3", "norm=none", "higher"))


def test_the_best_is_found_by_validation(tmp_path):
    rates(tmp_path)
    runs, metrics = collect([tmp_path])
    runs.loc[runs["cfg.optimizer.lr"] == 1.0, "test_acc"] = 0.3
    made = study(runs, metrics, Options())
    question = Question("best_found", expect="same", along="optimizer.lr", **BN)
    (answer,) = answers.answers(made, Claim("name", "It is so.", "somewhere", "quick", (question,)))
    assert answer.sides[0] == dict.fromkeys(SEEDS, 0.3)  # bn's best, 0.82 in validation
    assert answer.sides[1][0] == pytest.approx(0.8)


def test_several_arms_of_one_side_are_never_mixed(tmp_path):
    for seed in SEEDS:
        for size in (8, 32):
            run(tmp_path, 0.8, seed, norm="gn", batch_size=size)
            for ghost, final in ((0, 0.8), (2, 0.6)):
                run(tmp_path, final, seed, norm="bn", norm__ghost_size=ghost, batch_size=size)
    ask = Question("fall", "norm=bn", "norm=gn", "higher", along="batch_size")
    with pytest.raises(ValueError, match="fall: norm=bn names several arms"):
        asked(tmp_path, ask)
    (answer,) = asked(tmp_path, replace(ask, of="norm=bn norm.ghost_size=0"))
    assert answer.sides[0] == dict.fromkeys(SEEDS, pytest.approx(0.0))


def scales(root):
    """none works at two of four scales, bn at all; bn loses less."""
    for seed in SEEDS:
        for scale, none, bn in ((0.1, 0.5, 0.79), (1.0, 0.8, 0.81), (10.0, 0.1, 0.80), (100.0, None, 0.75)):
            for norm, final in (("none", none), ("bn", bn)):
                final = None if final is None else final + JITTER[seed] * (final > 0.2)
                run(root, final or 0.1, seed, norm=norm, lost=final is None, model__init_scale=scale)


def test_measures_along_a_key(tmp_path):
    scales(tmp_path)
    along = "model.init_scale"
    ask = [Question(name, expect="higher", along=along, **BN) for name in ("share_trained", "largest", "fall")]
    ask.append(Question("accuracy_lost", expect="lower", along=along, **BN))
    share, largest, fall, lost = asked(tmp_path, *ask)
    assert share.sides == (dict.fromkeys(SEEDS, 100.0), dict.fromkeys(SEEDS, 50.0))
    assert largest.sides == (dict.fromkeys(SEEDS, 2.0), dict.fromkeys(SEEDS, 0.0))
    assert fall.sides[0][0] == pytest.approx(-4.0)
    assert fall.sides[1][0] == pytest.approx(100 * (0.1 - 0.5))  # a diverged run counts as guessing
    assert lost.sides[0][0] == pytest.approx(100 * (0.81 - (0.79 + 0.81 + 0.80 + 0.75) / 4))
    assert lost.sides[1][0] == pytest.approx(100 * (0.8 - (0.5 + 0.8 + 0.1 + 0.1) / 4))
    assert [answer.verdict for answer in (share, largest, fall, lost)] == ["supported"] * 4


def test_along_the_learning_rate_all_runs_of_an_arm_count(tmp_path):
    for seed in SEEDS:
        for lr, none, bn in ((0.01, 0.5, 0.8), (0.1, 0.8, 0.805), (1.0, 0.1, 0.802)):
            run(tmp_path, none, seed, norm="none", optimizer="sgd", optimizer__lr=lr)
            run(tmp_path, bn, seed, norm="bn", optimizer="sgd", optimizer__lr=lr)
    usable, largest = asked(
        tmp_path, *(Question(m, expect="higher", along="optimizer.lr", **BN) for m in ("usable_range", "largest"))
    )
    assert usable.sides == (dict.fromkeys(SEEDS, pytest.approx(2.0)), dict.fromkeys(SEEDS, 0.0))
    assert largest.sides == (dict.fromkeys(SEEDS, 0.0), dict.fromkeys(SEEDS, pytest.approx(-1.0)))


def test_the_gap_and_the_pace(tmp_path):
    pair(tmp_path, 0.03)
    runs, metrics = collect([tmp_path])
    norms = metrics["run_id"].map(dict(zip(runs["run_id"], runs["norm"], strict=True)))
    metrics["train_eval_acc"] = metrics["val_acc"] + norms.map({"none": 0.1, "bn": 0.04})
    questions = Question("gap", expect="lower", **BN), Question("pace", expect="same", **BN)
    made = Claim("name", "It is so.", "somewhere", "quick", questions)
    gap, pace = answers.answers(study(runs, metrics, Options()), made)
    assert gap.sides == (dict.fromkeys(SEEDS, pytest.approx(4.0)), dict.fromkeys(SEEDS, pytest.approx(10.0)))
    assert (gap.verdict, gap.row.effect) == ("supported", pytest.approx(-6.0))
    assert pace.sides[0] == dict.fromkeys(SEEDS, pytest.approx(1000 * 2.0 / 200))
    assert pace.verdict == "supported"


def test_what_probes_saw_in_the_layers(tmp_path):
    """At the last step, over the layers in their order."""
    pair(tmp_path, 0.0)
    runs, metrics = collect([tmp_path])
    rows = []
    for run_id, norm in zip(runs["run_id"], runs["norm"], strict=True):
        first, last, share = (1e-3, 10.0, 0.5) if norm == "none" else (2.0, 20.0, 0.1)
        for step, factor in ((100, 7.0), (200, 1.0)):
            rows += [
                (run_id, step, 1, "grad", "norm_mean", last),
                (run_id, step, 0, "grad", "norm_mean", first * factor),
            ]
            rows += [(run_id, step, layer, "act", "saturated", share * layer * factor) for layer in (0, 1)]
            rows.append((run_id, step, 0, "act", "dead", 1.0))
    layers = pd.DataFrame(rows, columns=["run_id", "step", "layer_index", "kind", "stat", "value"])
    made = replace(study(runs, metrics, Options()), layers=layers)
    asks = (Question("gradient_kept", expect="higher", **BN), Question("saturated", expect="lower", **BN))
    kept, saturated = answers.answers(made, Claim("name", "It is so.", "somewhere", "quick", asks))
    assert kept.sides == (dict.fromkeys(SEEDS, pytest.approx(-1.0)), dict.fromkeys(SEEDS, pytest.approx(-4.0)))
    assert saturated.sides == (dict.fromkeys(SEEDS, pytest.approx(5.0)), dict.fromkeys(SEEDS, pytest.approx(25.0)))
    assert (kept.verdict, saturated.verdict) == ("supported", "supported")


def test_without_a_probe_nothing_is_made_up(tmp_path):
    pair(tmp_path, 0.0)
    (answer,) = asked(tmp_path, Question("saturated", expect="lower", **BN))
    assert (answer.sides, answer.row.state, answer.verdict) == (({}, {}), "REFUSED", "undecided")


def test_a_gradient_that_has_gone_is_the_smallest_number_there_is():
    rows = [(100, layer, "grad", "norm_mean", value) for layer, value in ((0, 0.0), (1, 10.0))]
    table = pd.DataFrame(rows, columns=["step", "layer_index", "kind", "stat", "value"])
    assert probed.READINGS["gradient_kept"][2](table) == pytest.approx(math.log10(probed.TINY) - 1)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question("speed", expect="lower", **BN), "measure must be one of"),
        (Question("test_acc", "norm=gn", "norm=none", "higher"), "no runs have both norm=gn and norm=none"),
        (Question("fall", expect="higher", **BN), "fall needs along: a key"),
        (Question("gap", expect="lower", along="optimizer.lr", **BN), "gap takes no along"),
    ],
)
def test_questions_that_cannot_be_answered_are_named(tmp_path, question, said):
    pair(tmp_path, 0.0)
    with pytest.raises(ValueError, match=said):
        asked(tmp_path, question)


def test_every_measure_is_finite_or_left_out(tmp_path):
    scales(tmp_path)
    made = study(*collect([tmp_path]), Options())
    for name, measure in measures.MEASURES.items():
        if name in probed.READINGS:
            continue  # tests/test_probed.py
        question = Question(name, expect="same", along="model.init_scale" if measure.along else "",
                            where=() if measure.along else ("model.init_scale=100",), **BN)  # fmt: skip
        for answer in answers.answers(made, Claim("n", "c", "s", "quick", (question,))):
            assert all(math.isfinite(value) for side in answer.sides for value in side.values())


# ---------------------------------------------------------------------------------------------------------- claim files


DATA = {"claim": "It is so.", "source": "000 1", "asks": [{"measure": "test_acc", "expect": "higher", **BN}]}


def test_only_a_claim_about_time_has_targets():
    assert claim.made("it", DATA, "full").targets == ()
    asks = [{"measure": "step", "expect": "lower", **BN}]
    assert claim.made("it", DATA | {"asks": asks}, "full").targets == claim.TARGETS
    assert claim.made("it", DATA | {"asks": asks, "targets": [0.5]}, "full").targets == (0.5,)


def test_a_claim_is_read_as_it_was_written(tmp_path):
    made = claim.made("it", DATA | {"number": "0.8 and 0.9", "figure": "curves", "targets": [0.7, 0.8]}, "full")
    claim.write(tmp_path, made)
    assert claim.read(tmp_path) == made
    assert claim.read(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"claim": ""}, "needs a key claim"), ({"asks": []}, "needs a key asks"),
        ({"asks": [{"measure": "test_acc", **BN}]}, "a question needs expect"),
        ({"asks": [{"measure": "test_acc", "expect": "more", **BN}]}, "expect must be one of higher, lower, same"),
        ({"asks": [{"measure": "a", "expect": "same", "of": "bn", "than": "norm=none"}]}, "of must be key=value"),
        ({"asks": [{"measure": "a", "expect": "same", "colour": 1, **BN}]}, "asks has no key colour"),
    ],
)  # fmt: skip
def test_what_is_no_claim_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        claim.made("it", DATA | change, "full")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format_version": 2}', "null"])
def test_a_damaged_claim_is_named(tmp_path, text):
    (tmp_path / claim.FILE).write_text(text)
    with pytest.raises(records.Damaged, match=r"claim\.json"):
        claim.read(tmp_path)
