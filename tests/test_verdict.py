"""The state machine over every kind of case, and what its sentences say and never say."""

import itertools
import math
import re
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.report import planning, sentence, stats, target, verdict
from normbench.report.selection import Edge, Selection
from normbench.report.state import SENTENCES, Flag, State, Subject, lowered, state_of
from normbench.report.stats import Effect, Interval
from normbench.report.verdict import judge

ACC = Subject(
    "test_acc", "norm=none", "norm=bn", "fashion_mini", "mlp", "2,000 steps", "each at one setting, not tuned"
)
LOSS = replace(ACC, metric="test_loss")
TIME = replace(ACC, metric="step", target=0.85)
MIRROR = {
    State.FASTER: State.SLOWER, State.BETTER: State.WORSE, State.SLOWER: State.FASTER, State.WORSE: State.BETTER,
}  # fmt: skip


def arm(values):
    return dict(enumerate(map(float, values)))


def gain(*differences, resolution=1 / 2000, **more):
    return stats.difference(
        arm([0.8] * len(differences)), arm([0.8 + d for d in differences]), resolution=resolution, **more
    )


def speed(*ratios):
    return stats.ratio(arm([100 * r for r in ratios]), arm([100] * len(ratios)))


def interval(low, high, kind="difference", **more):
    middle = (low + high) / 2 if kind == "difference" else math.sqrt(low * high)
    return Effect(kind, Interval(middle, low, high, 5, "t"), n_a=5, n_b=5, sd=0.01, p=0.5, p_exact=0.5, **more)


def said(effect, subject=ACC, **more):
    return judge(effect, subject, **more).sentence


# --------------------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [
        (0.006, 0.02, State.BETTER),
        (0.005, 0.02, State.PROBABLY),  # not wholly beyond
        (0.001, 0.02, State.PROBABLY),
        (0.001, 0.004, State.SAME),  # there is a difference, and it does not matter
        (-0.005, 0.005, State.SAME),
        (0, 0, State.SAME),
        (0, 0.02, State.UNCLEAR),
        (-0.01, 0.02, State.UNCLEAR),
        (-0.0051, 0.001, State.UNCLEAR),
    ],
)
def test_the_interval_and_the_margin_decide(low, high, state):
    effect = interval(low, high)
    assert state_of(effect, 0.005) == state
    mirrored = interval(-high, -low)
    assert state_of(mirrored, 0.005) == MIRROR.get(state, state)
    assert state_of(mirrored, 0.005, lower_is_better=True) == state
    as_ratio = interval(math.exp(20 * low), math.exp(20 * high), "ratio")  # margin exp(.1) = 1.105
    expected = {State.BETTER: State.FASTER}.get(state, state)
    assert state_of(as_ratio, math.exp(20 * 0.005 * (1 + 1e-12))) == expected


def test_a_censored_slower_arm_makes_a_bound():
    assert state_of(interval(1.5, math.inf, "ratio", bound="low"), 1.1) == State.LOWER_BOUND
    assert state_of(interval(1.05, math.inf, "ratio", bound="low"), 1.1) == State.PROBABLY
    assert state_of(interval(0.95, math.inf, "ratio", bound="low"), 1.1) == State.UNCLEAR
    mirrored = Effect("ratio", Interval(0.4, 0.0, 0.6, 5, "t"), bound="high")
    assert state_of(mirrored, 1.1) == State.LOWER_BOUND


@given(st.floats(-0.03, 0.03), st.floats(0, 0.03), st.integers(0, 3))
def test_swapped_arms_have_the_mirrored_state(middle, half, flags):
    one, other = interval(middle - half, middle + half), interval(-middle - half, -middle + half)
    state = lowered(state_of(one, 0.005), flags)
    assert lowered(state_of(other, 0.005), flags) == MIRROR.get(state, state)


def test_a_margin_of_nothing_is_refused():
    for effect, margin in ((interval(0, 1), 0), (interval(1, 2, "ratio"), 1.0), (interval(0, 1), math.nan)):
        with pytest.raises(ValueError, match="margin of a"):
            state_of(effect, margin)
    with pytest.raises(ValueError, match="no margin is known for drift"):
        judge(gain(0.1, 0.2, 0.3), replace(ACC, metric="drift"))


def test_each_flag_lowers_one_level():
    for state in (State.FASTER, State.SLOWER, State.BETTER, State.WORSE, State.LOWER_BOUND):
        steps = [lowered(state, k) for k in range(4)]
        assert steps == [state, State.PROBABLY, State.UNCLEAR, State.UNCLEAR]
    assert lowered(State.SAME, 1) == State.UNCLEAR
    assert lowered(State.UNCLEAR, 3) == State.UNCLEAR
    assert lowered(State.REFUSED, 2) == State.REFUSED


# --------------------------------------------------------------------------------------------------------------- cases


def test_plain_cases():
    assert judge(gain(0.02, 0.025, 0.018, 0.022, 0.021), ACC).state == State.BETTER
    assert judge(gain(-0.02, -0.025, -0.018, -0.022, -0.021), ACC).state == State.WORSE
    assert judge(gain(-0.05, -0.06, -0.07, resolution=0), LOSS).state == State.BETTER
    assert judge(speed(2.0, 2.3, 1.9, 2.4, 2.1), TIME).state == State.FASTER
    assert judge(speed(*(1 / r for r in (2.0, 2.3, 1.9, 2.4, 2.1))), TIME).state == State.SLOWER
    assert judge(speed(1.01, 1.0, 0.99, 1.02, 1.0), TIME).state == State.SAME


@pytest.mark.parametrize("n", [3, 5, 10])
def test_identical_arms_are_the_same(n):
    for effect, subject in ((gain(*[0] * n), ACC), (gain(*[0] * n, resolution=0), LOSS), (speed(*[1] * n), TIME)):
        found = judge(effect, subject)
        assert (found.state, found.p, found.p_exact) == (State.SAME, 1, 1)


def test_three_equal_differences_are_believed_up_to_the_resolution_of_the_test_set():
    assert judge(gain(0.02, 0.02, 0.02, resolution=1 / 2000), ACC).state == State.BETTER
    # on 100 images one image more on each of three seeds is nothing; without the floor it would be BETTER
    assert judge(gain(0.01, 0.01, 0.01, resolution=1 / 100), ACC).state == State.UNCLEAR
    assert judge(gain(0.01, 0.01, 0.01, resolution=0), ACC).state == State.BETTER


def test_three_seeds_have_a_wide_interval():
    assert judge(gain(0.01, 0.02, 0.03), ACC).state == State.UNCLEAR  # 2.48 SD to either side
    assert judge(gain(0.01, 0.02, 0.03, 0.01, 0.03), ACC).state == State.BETTER


@pytest.mark.parametrize("n", [0, 1, 2])
def test_below_three_pairs_there_is_no_verdict(n):
    for effect, subject in ((gain(*[0.02] * n), ACC), (speed(*[2.0] * n), TIME)):
        found = judge(effect, subject)
        assert found.state == State.REFUSED
        assert f"{n} paired seed{'' if n == 1 else 's'}; at least 3 are needed" in found.sentence
        assert math.isnan(found.ci_low)


def test_one_arm_that_always_diverges_is_worse_and_that_is_said():
    good, bad = arm([0.84, 0.85, 0.83, 0.84, 0.85]), arm([0.1] * 5)
    effect = stats.difference(bad, good, resolution=1 / 2000)
    found = judge(effect, ACC, diverged=(5, 0))
    assert (found.state, found.flags) == (State.BETTER, "")
    assert "diverged: 5/5 runs of norm=none, 0/5 of norm=bn" in found.sentence
    assert judge(stats.difference(good, bad), ACC, diverged=(0, 5)).state == State.WORSE


def test_two_arms_that_always_diverge_are_no_tie():
    found = judge(gain(0, 0, 0, 0, 0), ACC, diverged=(5, 5))
    assert found.state == State.REFUSED
    assert "every run of both arms diverged" in found.sentence


def test_diverged_runs_of_the_arm_ahead_lower_it_and_those_of_the_other_do_not():
    effect = gain(0.02, 0.025, 0.018, 0.022, 0.021)
    assert judge(effect, ACC, diverged=(0, 1)).state == State.PROBABLY
    assert judge(effect, ACC, diverged=(0, 1)).flags == "diverged_in_winner"
    assert judge(effect, ACC, diverged=(1, 0)).state == State.BETTER
    behind = gain(-0.02, -0.025, -0.018, -0.022, -0.021)
    assert judge(behind, ACC, diverged=(1, 0)).state == State.PROBABLY
    assert judge(gain(0, 0, 0), ACC, diverged=(1, 1)).flags == ""  # nobody is ahead


def test_refusals_of_times_are_carried_over():
    never = {s: target.Crossing(0.85, False, 100, 6400, 1, 0, 100, 6400, 64) for s in range(5)}
    found = judge(target.compare(never, never), TIME)
    assert found.state == State.REFUSED
    assert "no run reached 0.85 (0/5 and 0/5)" in found.sentence
    assert (found.censored_a, found.censored_b) == (5, 5)
    longer = {s: replace(c, budget_steps=200) for s, c in never.items()}
    assert "budgets differ" in said(target.compare(never, longer), TIME)


def test_a_bound_says_at_least_and_who_never_reached_the_target():
    def crossed(step):
        return target.Crossing(0.85, step < 2000, step, step * 64, step / 100, 0.01, 2000, 128_000, 64)

    slow, fast = ({s: crossed(t) for s, t in enumerate(times)} for times in ([2000] * 5, [700, 650, 690, 720, 710]))
    found = judge(target.compare(slow, fast), TIME)
    assert (found.state, found.ci_high, found.censored_a) == (State.LOWER_BOUND, math.inf, 5)
    assert "norm=bn needs at least 2.88x fewer steps than norm=none" in found.sentence
    assert "norm=none reached it in 0/5 runs, norm=bn in 5/5" in found.sentence
    assert re.search(r"95% CI from 2\.\d\dx upward", found.sentence)
    mirrored = judge(target.compare(fast, slow), TIME)
    assert mirrored.state == State.LOWER_BOUND
    assert "norm=bn needs at least 2.88x as many steps as norm=none" in mirrored.sentence
    flagged = judge(target.compare(slow, fast), TIME, flags={Flag.POST_HOC_TARGET: ""})
    assert flagged.state == State.PROBABLY
    assert (
        "probably needs fewer steps than norm=none to reach 85% validation accuracy, at least 2.88x" in flagged.sentence
    )


def test_coarse_evaluations_lower_a_time_and_a_tie_of_times():
    for ratios in ((2.0, 2.3, 1.9, 2.4, 2.1), (1, 1, 1)):
        effect = replace(speed(*ratios), resolution=0.2)
        found = judge(effect, TIME)
        assert found.flags == "coarse_evaluation"
        assert found.state == (State.PROBABLY if ratios[0] == 2 else State.UNCLEAR)
        assert "20%; set a smaller eval.every_steps" in found.sentence
        assert judge(replace(effect, resolution=0.1), TIME).flags == ""


def test_a_p_that_holds_only_unadjusted_lowers():
    effect = gain(0.02, 0.025, 0.018)
    assert 0.001 < effect.p < 0.02
    assert judge(effect, ACC, p_holm=3 * effect.p).state == State.BETTER
    lower = judge(effect, ACC, p_holm=0.06)
    assert (lower.state, lower.flags, lower.p_holm) == (State.PROBABLY, "only_unadjusted", 0.06)
    assert judge(gain(0, 0, 0), ACC, p_holm=1.0).flags == ""


def test_the_primary_comparison_is_not_adjusted():
    effects = [interval(0, 1), interval(0, 1), interval(0, 1)]
    effects = [replace(e, p=p) for e, p in zip(effects, (0.02, 0.03, math.nan), strict=True)]
    assert verdict.adjusted(effects) == pytest.approx([0.04, 0.04, math.nan], nan_ok=True)
    assert verdict.adjusted(effects, primary=0) == pytest.approx([0.02, 0.03, math.nan], nan_ok=True)


def test_flags_of_times_are_no_flags_of_accuracies():
    effect = gain(0.02, 0.025, 0.018, 0.022, 0.021)
    assert judge(effect, ACC, flags={Flag.POST_HOC_TARGET: ""}).state == State.BETTER


# -------------------------------------------------------------------------------------------------------------- tuning


def chosen(metric="val_acc", how="leave-one-seed-out", n=7, finished=None, edges=(), tune=("optimizer.lr",)):
    done = n if finished is None else finished
    return Selection(metric, tune, how, {0: (0.1,)}, (0.1,), {(0.1,): 1}, n, done, edges)


def test_tuning_says_what_is_wrong_with_it():
    assert verdict.tuning_flags(chosen(), chosen()) == {}
    edge = verdict.tuning_flags(chosen(edges=(Edge("lr", 0.1, "lr=0.3,1"),)), chosen())
    assert edge == {Flag.LR_AT_EDGE: "baseline: lr=0.1, also try lr=0.3,1"}
    assert verdict.tuning_flags(chosen(n=7), chosen(n=3)) == {}  # no verdict at all: test_compare_unequal.py
    assert "6 of 7" in verdict.tuning_flags(chosen(), chosen(finished=6))[Flag.UNEQUAL_TUNING]
    assert set(verdict.tuning_flags(chosen(), chosen(how="same seeds"))) == {Flag.SAME_SEEDS}


def test_a_choice_that_depends_on_the_seed_left_out_is_flagged():
    moved = replace(chosen(), counts={(0.1,): 3, (0.2,): 2})
    flags = verdict.tuning_flags(moved, chosen())
    assert flags == {Flag.UNSTABLE_CHOICE: "baseline: 2 settings, variant: 1 setting; confirm on fresh seeds"}
    two_phases = replace(moved, how="tune/confirm")
    assert verdict.tuning_flags(two_phases, chosen()) == {}


def test_test_data_read_for_the_selection_allow_no_verdict():
    refusal = verdict.tuning_refusal(chosen(), chosen(metric="test_acc"))
    found = judge(gain(0.02, 0.02, 0.02), ACC, refusal=refusal)
    assert found.state == State.REFUSED
    assert "test data were read for the selection" in found.sentence
    assert verdict.tuning_refusal(chosen(), chosen()) == ""


def test_tuning_in_words():
    words = verdict.tuning_words
    assert (
        words(chosen(), chosen()) == "each at its best of 7 learning rates (for each seed the best on the other seeds)"
    )
    one = chosen(how="one setting", n=1)
    assert words(one, one) == "each at one setting, not tuned"
    tuned = chosen(how="tune/confirm")
    assert words(one, tuned) == "at the best of 1 and of 7 learning rates (chosen on other seeds)"
    assert "7 settings" in words(chosen(tune=("lr", "clip")), chosen(tune=("lr", "clip")))


# ----------------------------------------------------------------------------------------------------------- sentences


def test_the_sentence_of_the_specification():
    found = said(
        speed(2.0, 2.3, 1.9, 2.4, 2.1),
        replace(TIME, tuning=verdict.tuning_words(chosen(), chosen())),
        beside=[
            ("In seconds", "train_s", speed(1.7, 1.6, 1.8, 1.75, 1.7)),
            ("At the same learning rate", "step", speed(1.3, 1.2, 1.4, 1.3, 1.3)),
            ("Test accuracy", "test_acc", gain(0.014, 0.016, 0.012)),
        ],
    )
    assert found == (
        "On fashion_mini (mlp, 2,000 steps): norm=bn needs 2.13x fewer steps than norm=none to reach 85% validation "
        "accuracy, 47% of them (geometric mean of per-seed ratios, norm=none to norm=bn: 2.13x, 95% CI 1.89x to 2.40x, "
        "5 paired seeds, each at its best of 7 learning rates (for each seed the best on the other seeds); 10/10 runs "
        "reached it). In seconds: 1.71x [1.62x, 1.80x]. At the same learning rate: 1.30x [1.21x, 1.39x]. Test "
        "accuracy: +1.40 pp [+0.90, +1.90]."
    )


def test_an_unclear_sentence_says_how_many_seeds_would_do():
    effect = gain(0.01, -0.01, 0.02, 0.0, 0.003)
    found = judge(effect, ACC)
    assert found.state == State.UNCLEAR
    assert "5 seeds cannot tell whether norm=bn or norm=none ends with the better test accuracy" in found.sentence
    assert f"about {planning.seeds_needed(effect.sd, 0.005)} would be needed to know the difference to 0.5 pp" in (
        found.sentence
    )


def test_an_interval_that_is_narrow_enough_but_lies_across_asks_for_half_the_margin():
    effect = gain(0.0035, -0.001, 0.005, 0.006, 0.0015, resolution=0)
    assert state_of(effect, 0.005) == State.UNCLEAR
    needed = int(re.search(r"about (\d+) would be needed to know the difference to half the margin", said(effect))[1])
    assert 5 < needed < 30


def test_the_sentence_of_a_lowered_verdict_names_what_lowered_it():
    effect = speed(2.0, 2.3, 1.9, 2.4, 2.1)
    one = judge(effect, TIME, flags={Flag.POST_HOC_TARGET: ""})
    assert one.state == State.PROBABLY
    assert one.sentence.endswith(f"Lowered from FASTER: {Flag.POST_HOC_TARGET.sentence}.")
    assert "too small to matter" not in one.sentence
    two = judge(effect, TIME, flags={Flag.POST_HOC_TARGET: "", Flag.LR_AT_EDGE: "baseline: lr=0.1, also try lr=0.3,1"})
    assert two.state == State.UNCLEAR
    assert two.flags == "lr_at_edge;post_hoc_target"
    assert "(baseline: lr=0.1, also try lr=0.3,1)" in two.sentence
    assert "seeds would" not in two.sentence  # more seeds would not help
    assert "the seeds alone would say FASTER" in two.sentence


def test_seeds_without_a_partner_are_mentioned():
    effect = stats.difference(arm([0.8] * 5), arm([0.82, 0.83, 0.82]))
    assert "3 paired seeds, 2 seeds of only one arm left out" in said(effect, replace(ACC, tuning=""))
    unpaired = stats.difference(arm([0.8, 0.81, 0.8]), arm([0.85, 0.86, 0.85, 0.85]), paired=False)
    found = judge(unpaired, ACC)
    assert "3 and 4 seeds, not paired" in found.sentence
    assert (found.paired, found.n_pairs) == (False, 0)


def test_other_ratios_and_other_metrics_have_words_too():
    cost = judge(speed(*(1 / r for r in (1.3, 1.32, 1.29))), replace(ACC, metric="seconds a step"))
    assert (cost.state, cost.metric) == (State.SLOWER, "seconds a step")
    assert "norm=bn needs 1.30x as many seconds a step as norm=none (" in cost.sentence
    drift = replace(ACC, metric="unit_drift", less_is_better=True)
    found = judge(gain(-0.2, -0.21, -0.19, resolution=0), drift, margin=0.05)
    assert found.state == State.BETTER
    assert "norm=bn ends with 0.2 lower unit drift than norm=none" in found.sentence
    with pytest.raises(ValueError, match="compared by its ratio"):
        judge(gain(0.1, 0.2, 0.3), TIME)


def every_comparison():
    effects = [
        (TIME, speed(2.0, 2.3, 1.9, 2.4, 2.1)), (TIME, speed(0.5, 0.6, 0.4)), (TIME, speed(1.3, 1.5, 1.1)),
        (TIME, speed(1.001, 1.0, 0.999)), (TIME, speed(2, 0.5, 1)), (TIME, speed(2, 2)),
        (TIME, interval(1.5, math.inf, "ratio", bound="low", censored_a=3)),
        (ACC, gain(0.02, 0.021, 0.022)), (ACC, gain(-0.02, -0.021, -0.022)), (ACC, gain(0.006, 0.01, 0.004)),
        (ACC, gain(0, 0, 0)), (ACC, gain(0.03, -0.03, 0.01)), (ACC, gain()),
        (LOSS, gain(0.02, 0.021, 0.022)), (LOSS, gain(0.03, -0.03, 0.01)),
    ]  # fmt: skip
    raised = ({}, {Flag.LR_AT_EDGE: "baseline: lr=1"}, {f: "" for f in Flag})
    for (subject, effect), flags in itertools.product(effects, raised):
        for diverged in ((0, 0), (1, 1)):
            yield subject, effect, judge(effect, subject, flags=flags, diverged=diverged)


def test_every_sentence_names_its_scope_its_seeds_and_its_flags_and_no_forbidden_word():
    states = set()
    for subject, effect, found in every_comparison():
        states.add(found.state)
        text = found.sentence
        assert text.startswith("On fashion_mini (mlp, 2,000 steps): ")
        assert "norm=none" in text
        assert "norm=bn" in text
        assert not re.search(r"signific|prove|always|nan|None", text)
        assert text.endswith(".")
        assert "  " not in text
        for flag in filter(None, found.flags.split(";")):
            assert SENTENCES[Flag(flag)] in text
        if found.state != State.REFUSED:
            assert f"{effect.interval.n} paired seeds" in text
            assert "95% CI" in text
        assert found.effect_kind == effect.kind
        assert found.metric == ("steps_to_0.85" if subject is TIME else subject.metric)
    assert states == set(State)


def test_a_comparison_has_the_columns_of_comparisons_csv():
    expected = [
        *("metric", "baseline", "variant", "paired", "n_pairs", "corr", "effect", "effect_kind", "ci_low", "ci_high"),
        *("ci_level", "p", "p_holm", "p_exact", "p_exact_floor", "wins", "censored_a", "censored_b"),
        *("state", "flags", "sentence"),
    ]
    assert [f.name for f in fields(verdict.Comparison)] == expected
    table = verdict.table([found for *_, found in every_comparison()])
    assert list(table) == expected
    assert ",FASTER," in table.to_csv(index=False)
    assert list(verdict.table([])) == expected


def test_every_flag_has_a_sentence():
    assert set(SENTENCES) == set(Flag)
    assert len(set(SENTENCES.values())) == len(Flag)


def test_the_footnote_gives_both_p_values_and_what_the_exact_one_cannot_reach():
    assert sentence.footnote(speed(2.0, 2.3, 1.9, 2.4, 2.1)) == (
        "paired t test p = 6.2e-05; exact sign-flip p = 0.062 (5 pairs cannot give less than 0.062)"
    )
    assert sentence.footnote(gain(0.1, 0.2)) == ""
    unpaired = stats.difference(arm([1, 2, 3]), arm([2, 3, 5]), paired=False)
    assert sentence.footnote(unpaired).startswith("Welch's t test p = 0.")


@given(st.lists(st.integers(-40, 40), min_size=3, max_size=8))
def test_an_arm_swapped_with_its_baseline_mirrors_the_verdict(differences):
    a, b = arm([0.8] * len(differences)), arm([0.8 + k / 2000 for k in differences])
    one = judge(stats.difference(a, b, resolution=1 / 2000), ACC)
    other = judge(stats.difference(b, a, resolution=1 / 2000), ACC)
    assert other.state == MIRROR.get(one.state, one.state)
    assert other.effect == pytest.approx(-one.effect)
