import math

import numpy as np
import pytest
from scipy import stats

from mls_d2.report.statistics import PAIRED_TEST, WELCH_TEST, difference, summarize


def test_mean_and_sample_deviation_by_hand():
    # mean 4; squared deviations 4 + 0 + 4 = 8; 8 / (3 - 1) = 4; sqrt = 2
    summary = summarize([2.0, 4.0, 6.0])
    assert (summary.mean, summary.std, summary.n) == (4.0, 2.0, 3)


def test_values_that_are_not_finite_are_no_runs():
    assert summarize([2.0, math.nan, 4.0, math.inf]) == summarize([2.0, 4.0])


def test_one_run_has_no_spread_and_none_has_no_mean():
    assert math.isnan(summarize([3.0]).std)
    assert summarize([3.0]).mean == 3.0
    assert math.isnan(summarize([]).mean)
    assert summarize([]).n == 0


def test_the_same_seeds_are_paired():
    # differences by seed: 5 - 1 = 4, 9 - 3 = 6; mean 5, std sqrt((1 + 1) / 1)
    result = difference([(1, 9.0), (0, 5.0)], [(0, 1.0), (1, 3.0)])
    assert (result.mean, result.n, result.paired) == (5.0, 2, True)
    assert result.std == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    "baseline",
    [
        pytest.param([(7, 1.0), (8, 3.0)], id="other seeds"),
        pytest.param([(0, 1.0), (0, 3.0)], id="a seed twice"),
        pytest.param([(0, 1.0), (1, math.nan), (2, 3.0)], id="a seed without a value"),
    ],
)
def test_other_runs_are_not_paired(baseline):
    # means 7 and 2; variances 8 and 2; sqrt(10)
    result = difference([(0, 5.0), (1, 9.0)], baseline)
    assert (result.mean, result.n, result.paired) == (5.0, 2, False)
    assert result.std == pytest.approx(math.sqrt(10))


def test_the_difference_to_itself_is_zero():
    runs = [(0, 1.3), (1, 2.7)]
    result = difference(runs, runs)
    assert (result.mean, result.std) == (0.0, 0.0)


def test_no_runs_on_one_side_give_no_difference():
    assert math.isnan(difference([(0, 1.0)], []).mean)


def seeded(values, first=0):
    return [(seed, float(value)) for seed, value in enumerate(values, start=first)]


@pytest.mark.parametrize("n", [3, 5, 10])
def test_p_of_paired_runs_is_that_of_scipy(n):
    rng = np.random.default_rng(n)
    ours, theirs = rng.normal(15.3, 1.0, n), rng.normal(15, 0.3, n)
    found = difference(seeded(ours), seeded(theirs)[::-1])
    assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-9)
    assert found.test == PAIRED_TEST


@pytest.mark.parametrize(("n", "m"), [(3, 3), (3, 7), (12, 4)])
def test_p_of_other_seeds_is_welchs_of_scipy(n, m):
    rng = np.random.default_rng(n * m)
    ours, theirs = rng.normal(15.3, 1.0, n), rng.normal(15, 0.1, m)
    found = difference(seeded(ours), seeded(theirs, first=100))
    assert found.p == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue, rel=1e-9)
    assert (found.test, found.n) == (WELCH_TEST, min(n, m))


def test_p_by_hand():
    # differences 1, 2, 3: mean 2, std 1, t = 2 sqrt(3), 2 degrees of freedom, where
    # p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14)
    found = difference([(0, 1.0), (1, 2.0), (2, 3.0)], [(0, 0.0), (1, 0.0), (2, 0.0)])
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert (found.significant, found.verdict) == (False, "not significant")


def test_the_sign_of_the_difference_does_not_change_p():
    one, other = seeded([1.0, 2.0, 4.0]), seeded([0.0, 0.5, 1.0])
    assert difference(one, other).p == difference(other, one).p


def test_few_runs_are_not_tested():
    found = difference(seeded([5.0, 6.0]), seeded([1.0, 2.5]))
    assert math.isnan(found.p)
    assert (found.verdict, found.test, found.significant) == ("n too small (2)", "", False)
    unpaired = difference(seeded([5.0, 6.0, 7.0, 8.0]), seeded([1.0, 2.5], first=9))
    assert (unpaired.verdict, unpaired.test) == ("n too small (2)", "")


@pytest.mark.parametrize("first", [0, 5])
def test_runs_without_spread_are_not_tested(first):
    found = difference(seeded([5.0, 5.0, 5.0 + 1e-13]), seeded([1.0, 1.0, 1.0], first=first))
    assert (found.verdict, found.significant) == ("no spread to test", False)
    assert found.mean == pytest.approx(4.0)
