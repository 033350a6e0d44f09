"""Every estimator against a direct float64 formula or scipy; what must not depend on order, scale or sides."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as reference

from normbench.report import planning, pvalue, stats
from normbench.report.stats import Interval

NEAR = 1e-9


def arm(values, first=0):
    return dict(enumerate(map(float, values), first))


def numbers(size=(3, 12), low=-100.0, high=100.0):
    """Lists that are not all but equal: there, rounding is what a test would test."""
    value = st.integers(int(low * 64), int(high * 64)).map(lambda k: k / 64)
    return st.lists(value, min_size=size[0], max_size=size[1])


def pairs(low=-100.0, high=100.0):
    return st.integers(3, 10).flatmap(lambda n: st.tuples(numbers((n, n), low, high), numbers((n, n), low, high)))


positive = pairs(0.25, 100.0)


# ------------------------------------------------------------------------------------------------------------- one arm


@given(numbers())
def test_mean_is_scipys_t_interval(values):
    assume(np.ptp(values) > 0)
    found = stats.mean(values)
    n, sd = len(values), np.std(values, ddof=1)
    low, high = reference.t.interval(0.95, n - 1, loc=np.mean(values), scale=sd / math.sqrt(n))
    assert (found.low, found.high) == pytest.approx((low, high), rel=NEAR, abs=NEAR)
    assert found.estimate == pytest.approx(np.mean(values))
    assert (found.n, found.level, found.method) == (n, 0.95, "t")


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0]])
def test_below_three_values_there_is_no_interval(values):
    for found in (stats.mean(values), stats.accuracy_mean([v / 2 for v in values], 100), stats.median(values)):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert found.method == f"none: {len(values)} values"


def test_equal_values_have_an_interval_of_width_zero():
    assert stats.mean([0.1 + 0.2] * 3 + [0.3]) == Interval(
        pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.3), 4, "t"
    )
    found = stats.mean([0.3] * 5)
    assert found.low == found.high == found.estimate


@pytest.mark.parametrize("bad", [[], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]])
def test_what_is_not_scored_is_refused(bad):
    with pytest.raises(ValueError, match="score failures first"):
        stats.mean(bad)
    if bad:
        with pytest.raises(ValueError, match="score failures first"):
            stats.difference(arm([1, 2, 3]), arm(bad))


def test_high_accuracies_are_averaged_on_the_logit_scale():
    values = [0.985, 0.99, 0.992, 0.98, 0.995]
    found = stats.accuracy_mean(values, 10_000)
    inner = np.log(np.array(values) / (1 - np.array(values)))
    half = reference.t.ppf(0.975, 4) * inner.std(ddof=1) / math.sqrt(5)
    ends = 1 / (1 + np.exp(-(inner.mean() + np.array([-half, half]))))
    assert (found.low, found.high) == pytest.approx(tuple(ends))
    assert found.estimate == pytest.approx(np.mean(values))
    assert found.method == "t on logit"
    below = [v - 0.03 for v in values]
    assert stats.accuracy_mean(below, 10_000) == stats.mean(below)


def test_an_accuracy_interval_stays_below_one_even_at_one():
    found = stats.accuracy_mean([1.0, 0.999, 1.0], 1000)
    assert 0.97 < found.low <= found.estimate <= found.high < 1
    sure = stats.accuracy_mean([1.0] * 3, 1000)
    assert (sure.estimate, sure.high) == (1, 1)
    assert 0.999 < sure.low < 1
    with pytest.raises(ValueError, match="fractions"):
        stats.accuracy_mean([98.0, 99.0, 97.0], 1000)


@pytest.mark.parametrize(
    ("n", "level", "low", "high"),
    [(3, 0.75, 1, 3), (4, 0.875, 1, 4), (5, 0.9375, 1, 5), (6, 0.96875, 1, 6), (9, 1 - 2 * 10 / 512, 2, 8)],
)
def test_a_median_has_order_statistics_at_their_true_level(n, level, low, high):
    found = stats.median(range(n, 0, -1))
    assert found == Interval((n + 1) / 2, low, high, n, "order statistics", pytest.approx(level))


@given(numbers((3, 40)))
def test_the_medians_level_is_at_least_95_where_that_is_possible(values):
    found, n = stats.median(values), len(values)
    ordered = sorted(values)
    assert found.estimate == pytest.approx(np.median(values))
    k = ordered.index(found.low) + 1 if len(set(values)) == n else None
    if k:
        assert found.level == pytest.approx(1 - 2 * reference.binom.cdf(k - 1, n, 0.5))
        assert found.high == ordered[n - k]
        assert 1 - 2 * reference.binom.cdf(k, n, 0.5) < 0.95  # the next narrower one would not do
    assert found.level >= 0.95 or n < 6


def test_a_median_takes_what_was_never_reached():
    assert stats.median([100, 200, math.inf]).estimate == 200
    assert stats.median([100, math.inf, math.inf, math.inf]).estimate == math.inf
    assert stats.median([1, 2, 3, math.inf, math.inf]).high == math.inf
    with pytest.raises(ValueError, match="no NaN"):
        stats.median([1, math.nan, 2])


def test_proportions_are_wilsons():
    found, z = stats.proportion(4, 5), reference.norm.ppf(0.975)
    p, n = 0.8, 5
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    assert (stats.proportion(0, 5).low, stats.proportion(5, 5).high) == (0, 1)
    assert stats.proportion(10, 10).low == pytest.approx(0.722, abs=0.001)
    with pytest.raises(ValueError, match="k <= n"):
        stats.proportion(6, 5)
    with pytest.raises(ValueError, match="n >= 1"):
        stats.proportion(0, 0)


def test_the_binomial_error_of_a_test_set():
    assert stats.binomial_se(0.85, 1000) == pytest.approx(0.0113, abs=1e-4)


def test_a_row_of_the_summary_has_its_columns_in_order():
    row = stats.summary("test_acc", [0.1, 0.84, 0.86], n_ok=2, n_images=2000)
    assert list(row) == [
        *("metric", "n", "n_ok", "mean", "sd", "sem", "ci_low", "ci_high", "ci_method", "median", "min", "max")
    ]
    assert (row["n"], row["n_ok"], row["mean"], row["median"]) == (3, 2, pytest.approx(0.6), 0.84)
    assert row["sem"] == pytest.approx(np.std([0.1, 0.84, 0.86], ddof=1) / math.sqrt(3))
    single = stats.summary("test_loss", [0.5], n_ok=1)
    assert math.isnan(single["sd"])
    assert math.isnan(single["sem"])


# ------------------------------------------------------------------------------------------------------------ two arms


@given(pairs())
def test_the_paired_difference_is_scipys(values):
    a, b = map(np.array, values)
    assume(np.ptp(b - a) > 0)
    found, test = stats.difference(arm(a), arm(b)), reference.ttest_rel(b, a)
    ends = test.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high), rel=NEAR, abs=NEAR)
    assert found.p == pytest.approx(test.pvalue, rel=1e-7, abs=NEAR)
    assert found.sd == pytest.approx(np.std(b - a, ddof=1))
    assert found.wins == sum(b > a)
    assert stats.difference(arm(a), arm(b), lower_is_better=True).wins == sum(b < a)
    if np.ptp(a) and np.ptp(b):
        assert found.corr == pytest.approx(reference.pearsonr(a, b).statistic, abs=1e-7)


@given(st.tuples(numbers(), numbers()))
def test_unpaired_arms_get_welchs_interval(values):
    a, b = values
    assume(np.ptp(a) > 0 and np.ptp(b) > 0)
    found = stats.difference(arm(a), arm(b, 100), paired=False)
    test = reference.ttest_ind(b, a, equal_var=False)
    ends = test.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high), rel=NEAR, abs=NEAR)
    assert found.p == pytest.approx(test.pvalue, rel=1e-7, abs=NEAR)
    assert (found.n_a, found.n_b, found.paired) == (len(a), len(b), False)
    assert math.isnan(found.corr)
    assert math.isnan(found.p_exact)


@given(positive)
def test_the_ratio_is_a_paired_t_interval_of_logs(values):
    a, b = map(np.array, values)
    logs = np.log(a / b)
    assume(np.ptp(logs) > 1e-6)
    found, test = stats.ratio(arm(a), arm(b)), reference.ttest_1samp(logs, 0)
    ends = test.confidence_interval()
    i = found.interval
    assert (i.low, i.high) == pytest.approx((math.exp(ends.low), math.exp(ends.high)), rel=1e-7)
    assert i.estimate == pytest.approx(reference.gmean(a / b))
    assert found.p == pytest.approx(test.pvalue, rel=1e-6, abs=NEAR)
    assert found.wins == sum(b < a)


def test_the_worked_example():
    ratios = [2.0, 2.3, 1.9, 2.4, 2.1]
    found = stats.ratio(arm([100 * r for r in ratios]), arm([100] * 5))
    i = found.interval
    assert [round(x, 2) for x in (i.estimate, i.low, i.high)] == [2.13, 1.89, 2.40]
    assert round(found.p, 5) == 6e-5
    assert (found.p_exact, found.p_exact_floor, found.wins) == (0.0625, 0.0625, 5)


def test_only_shared_seeds_are_paired_and_the_others_counted():
    a, b = {0: 1.0, 1: 2.0, 2: 3.0, 7: 9.0}, {2: 4.0, 1: 2.5, 0: 1.2, 8: 0.0, 9: 0.0}
    found = stats.difference(a, b)
    assert found.interval == stats.difference({s: a[s] for s in range(3)}, {s: b[s] for s in range(3)}).interval
    assert (found.interval.n, found.left_out, found.n_a, found.n_b) == (3, 3, 4, 5)


@pytest.mark.parametrize("shared", [0, 1, 2])
@pytest.mark.parametrize("paired", [True, False])
def test_below_three_seeds_there_is_an_estimate_at_most(shared, paired):
    found = stats.difference(arm([1.0, 2.0][:shared]), arm([1.5, 3.0][:shared]), paired=paired)
    assert math.isnan(found.interval.low)
    assert all(math.isnan(p) for p in (found.p, found.p_exact, found.p_exact_floor))
    assert math.isnan(found.interval.estimate) == (shared == 0)


@pytest.mark.parametrize("paired", [True, False])
def test_identical_arms_differ_by_nothing(paired):
    a = arm([0.81, 0.83, 0.82]) if paired else arm([0.82] * 3)
    for resolution in (0, 1 / 100):
        found = stats.difference(a, dict(a), paired=paired, resolution=resolution)
        i = found.interval
        assert (i.estimate, i.low, i.high, found.p) == (0, 0, 0, 1)
    found = stats.ratio(a, dict(a), paired=paired, floor=0.2)
    assert (found.interval.low, found.interval.high, found.p) == (1, 1, 1)


@pytest.mark.parametrize("paired", [True, False])
def test_equal_differences_keep_the_width_of_half_a_step_of_the_test_set(paired):
    a, b = arm([0.8] * 3), arm([0.82] * 3)
    bare = stats.difference(a, b, paired=paired)
    assert bare.interval.low == pytest.approx(bare.interval.high)
    assert bare.p == 0
    found = stats.difference(a, b, paired=paired, resolution=1 / 2000)
    half = reference.t.ppf(0.975, 2 if paired else 4) * 0.5 / 2000 / math.sqrt(3)
    assert (found.interval.high - found.interval.low) / 2 == pytest.approx(half)
    assert 0 < found.p < 1e-3
    wide = stats.difference(arm([0.8] * 3), arm([0.82, 0.83, 0.85]), paired=paired, resolution=1 / 2000)
    plain = stats.difference(arm([0.8] * 3), arm([0.82, 0.83, 0.85]), paired=paired)
    if paired:  # an SD above the floor stays what it is
        assert wide.interval == plain.interval


@given(pairs(0.25, 100.0))
def test_reselected_seeds_have_the_variance_of_nadeau_and_bengio(values):
    a, b = map(np.array, values)
    n = len(a)
    for function, d in ((stats.difference, b - a), (stats.ratio, np.log(a / b))):
        if np.ptp(d) < 1e-6:
            continue
        found = function(arm(a), arm(b), reselected=n - 1)
        se = d.std(ddof=1) * math.sqrt(1 / n + 1 / (n - 1))
        ends = d.mean() + np.array([-1, 1]) * reference.t.ppf(0.975, n - 1) * se
        ends = np.exp(ends) if function is stats.ratio else ends
        assert (found.interval.low, found.interval.high) == pytest.approx(tuple(ends), rel=1e-7, abs=1e-9)
        if function is stats.difference:
            assert found.p == pytest.approx(2 * reference.t.sf(abs(d.mean()) / se, n - 1), abs=1e-9)
        assert math.isnan(found.p_exact)


def test_reselected_arms_of_other_seeds_are_widened_too():
    """Welch: each arm's variance of the mean, s^2 / n, becomes s^2 (1 / n + 1 / k)."""
    x, y, k = np.array([0.1, 0.4, 0.2]), np.array([0.3, 0.9, 0.5, 0.6]), 2
    plain = stats.difference(arm(x), arm(y), paired=False)
    found = stats.difference(arm(x), arm(y), paired=False, reselected=k)
    u, v = x.var(ddof=1), y.var(ddof=1)
    factor = math.sqrt((u * (1 / 3 + 1 / k) + v * (1 / 4 + 1 / k)) / (u / 3 + v / 4))
    width = plain.interval.high - plain.interval.low
    assert found.interval.high - found.interval.low == pytest.approx(factor * width)
    assert found.p > plain.p


def test_rounding_is_no_difference():
    a, b = arm([0.1 + 0.2, 0.7 + 0.1, 0.3]), arm([0.3, 0.8, 0.1 + 0.2])
    found = stats.difference(a, b)
    assert (found.interval.estimate, found.p, found.wins) == (0, 1, 0)
    assert stats.difference(arm([0.1, 0.4, 0.7]), arm([0.3, 0.6, 0.9])).sd == 0


def test_interaction_is_the_difference_of_differences():
    rng = np.random.default_rng(0)
    off_a, on_a, off_b, on_b = rng.normal(size=(4, 5))
    found = stats.interaction(arm(off_a), arm(on_a), arm(off_b), arm(on_b))
    test = reference.ttest_1samp((on_b - off_b) - (on_a - off_a), 0)
    ends = test.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high))
    assert found.p == pytest.approx(test.pvalue)
    part = stats.interaction(arm(off_a), arm(on_a[:4]), arm(off_b), arm(on_b))
    assert (part.interval.n, part.left_out) == (4, 1)
    same = stats.interaction(arm([0.1, 0.2, 0.3]), arm([0.3, 0.4, 0.5]), arm([0.7, 0.1, 0.2]), arm([0.9, 0.3, 0.4]))
    assert (same.interval.estimate, same.p) == (0, 1)


def test_a_ratio_needs_values_above_zero():
    with pytest.raises(ValueError, match=r"above 0, given 0[.]0 for seed 1"):
        stats.ratio(arm([1, 0, 2]), arm([1, 1, 1]))
    with pytest.raises(ValueError, match="above 0, given nan"):
        stats.ratio(arm([1, 1, 2]), arm([1, math.nan, 1]))


def test_an_arm_that_does_not_vary_has_no_correlation():
    assert math.isnan(stats.correlation([1, 1, 1], [1, 2, 3]))
    assert math.isnan(stats.correlation([1, 2], [1, 2]))
    assert stats.correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)


@given(pairs(), st.randoms(use_true_random=False))
def test_order_does_not_matter(values, random):
    a, b = map(arm, values)
    mixed = list(b.items())
    random.shuffle(mixed)
    assert repr(stats.difference(a, dict(mixed))) == repr(stats.difference(a, b))  # repr: NaN equals itself there


@given(pairs(), st.sampled_from([1e-6, 0.25, 3.0, 1e5]), st.booleans())
def test_scale_carries_over(values, factor, paired):
    a, b = map(arm, values)
    one = stats.difference(a, b, paired=paired)
    times = [{s: factor * x for s, x in side.items()} for side in (a, b)]
    other = stats.difference(times[0], times[1], paired=paired)
    for name in ("estimate", "low", "high"):
        expected = factor * getattr(one.interval, name)
        assert getattr(other.interval, name) == pytest.approx(expected, rel=1e-7, abs=factor * 1e-9)
    assert other.p == pytest.approx(one.p, abs=1e-9)
    assert other.p_exact == pytest.approx(one.p_exact, nan_ok=True)


@given(positive, st.booleans())
def test_swapped_arms_mirror(values, paired):
    a, b = map(arm, values)
    one, other = stats.difference(a, b, paired=paired), stats.difference(b, a, paired=paired)
    assert (one.interval.low, one.interval.estimate) == pytest.approx((-other.interval.high, -other.interval.estimate))
    assert one.p == pytest.approx(other.p)
    one, other = stats.ratio(a, b, paired=paired), stats.ratio(b, a, paired=paired)
    assert one.interval.low == pytest.approx(1 / other.interval.high)
    assert one.interval.estimate == pytest.approx(1 / other.interval.estimate)
    if paired:
        assert one.wins + other.wins + sum(a[s] == b[s] for s in a) == len(a)


# --------------------------------------------------------------------------------------------------------------- tests


@given(numbers((3, 9)))
def test_sign_flips_are_scipys_permutation_test(values):
    expected = reference.permutation_test(
        (np.array(values),), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert pvalue.sign_flip(values) == pytest.approx(expected.pvalue)
    assert pvalue.sign_flip(values) >= pvalue.sign_flip_floor(len(values))


def test_the_least_p_is_what_arithmetic_allows():
    for n, floor in {3: 0.25, 4: 0.125, 5: 0.0625, 6: 0.03125, 7: 0.015625, 8: 0.0078125, 10: 0.001953125}.items():
        assert pvalue.sign_flip(range(1, n + 1)) == pvalue.sign_flip_floor(n) == floor
    assert pvalue.sign_flip([0, 0, 0]) == 1
    assert math.isnan(pvalue.sign_flip([1, 2]))


def test_many_pairs_draw_their_signs():
    d = np.random.default_rng(1).normal(0.3, 1, 20)
    signs = 1 - 2 * ((np.arange(2**20)[:, None] >> np.arange(20)) & 1).astype(np.int8)
    exact = (abs(signs @ d) >= abs(d.sum()) - 1e-9).mean()
    assert pvalue.sign_flip(d) == pytest.approx(exact, abs=5 * math.sqrt(exact / pvalue.DRAWS))
    assert pvalue.sign_flip(d) == pvalue.sign_flip(d)


def test_holm_by_hand():
    assert pvalue.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert pvalue.holm([0.5, math.nan, 0.02]) == pytest.approx([0.5, math.nan, 0.04], nan_ok=True)
    assert pvalue.holm([0.6, 0.7]) == [1, 1]
    assert pvalue.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_closed_test_of_bonferroni(p):
    """An adjusted p is the largest Bonferroni p among all families that hold the hypothesis."""
    for i, found in enumerate(pvalue.holm(p)):
        others = [k for k in range(len(p)) if k != i]
        families = [[i, *(k for j, k in enumerate(others) if mask >> j & 1)] for mask in range(2 ** len(others))]
        closed = max(min(1.0, len(family) * min(p[k] for k in family)) for family in families)
        assert found == pytest.approx(closed)


# ----------------------------------------------------------------------------------------------------------- how many?


def test_half_widths_are_the_published_multiples_of_the_sd():
    found = [round(planning.half_width(1, n), 2) for n in (3, 4, 5, 6, 8, 10)]
    assert found == [2.48, 1.59, 1.24, 1.05, 0.84, 0.72]


@given(st.floats(0.01, 20))
def test_seeds_needed_is_the_least_number_that_does(sd):
    n = planning.seeds_needed(sd, 1.0)
    assert planning.half_width(sd, n) <= 1
    assert n == 3 or planning.half_width(sd, n - 1) > 1


@pytest.mark.parametrize(("effect", "sd", "chosen_by"), [(1.0, 1.0, math.inf), (3.0, 1.0, 2), (6.0, 1.0, 1)])
def test_seeds_to_tell_is_the_least_number_that_does(effect, sd, chosen_by):
    assert planning.power(12.0, 1.0, 100) == 1.0  # where scipy has no number
    n = planning.seeds_to_tell(effect, sd, chosen_by=chosen_by)
    assert planning.power(effect, sd, n, chosen_by) >= 0.8
    assert n == 3 or planning.power(effect, sd, n - 1, chosen_by) < 0.8


def test_no_number_of_seeds_makes_up_for_few_that_choose():
    assert planning.half_width(1.0, 3, 1) == pytest.approx(2 * planning.half_width(1.0, 3))  # sqrt(1 / 3 + 1)
    assert planning.seeds_needed(1.0, 1.9, chosen_by=1) is None
    assert planning.seeds_needed(1.0, 2.1, chosen_by=1) < 60
    assert planning.seeds_to_tell(1.0, 1.0, chosen_by=1) is None
    assert planning.power(1.0, 1.0, 10_000, 1) < 0.2


def test_seeds_needed_at_the_ends():
    assert planning.seeds_needed(0, 0.005) == 3
    assert planning.seeds_needed(1, 0.001) is None
    with pytest.raises(ValueError, match="margin must be above 0"):
        planning.seeds_needed(1, 0)


def test_power_is_the_noncentral_t():
    assert planning.power(0.0, 1.0, 5) == pytest.approx(0.05)
    assert planning.power(1.0, 1.0, 10) == pytest.approx(0.8031, abs=1e-4)  # the textbook's one-sample t test
    assert planning.power(-1.0, 1.0, 10) == pytest.approx(planning.power(1.0, 1.0, 10))
