import math

import numpy as np
import pytest
from scipy import special

from mls_d2.report.statistics import PAIRED_TEST, WELCH_TEST, difference, summarize


def seeded(values, first=0):
    return [(seed, float(value)) for seed, value in enumerate(values, start=first)]


def test_mean_and_sample_deviation_by_hand():
    # mean 4; squared deviations 4 + 0 + 4 = 8; 8 / (3 - 1) = 4; sqrt = 2
    summary = summarize([2.0, math.nan, 4.0, math.inf, 6.0])
    assert (summary.mean, summary.std, summary.n) == (4.0, 2.0, 3)


def test_one_run_has_no_spread_and_none_has_no_mean():
    one, none = summarize([3.0]), summarize([])
    assert (one.mean, one.n, none.n) == (3.0, 1, 0)
    assert math.isnan(one.std)
    assert math.isnan(none.mean)
    assert math.isnan(difference([(0, 1.0)], []).mean)


def test_the_same_seeds_are_paired():
    # differences by seed: 5 - 1 = 4, 9 - 3 = 6; mean 5, std sqrt((1 + 1) / 1)
    result = difference([(1, 9.0), (0, 5.0)], [(0, 1.0), (1, 3.0)])
    assert (result.mean, result.n, result.paired) == (5.0, 2, True)
    assert result.std == pytest.approx(math.sqrt(2))
    itself = difference(seeded([1.3, 2.7]), seeded([1.3, 2.7]))
    assert (itself.mean, itself.std) == (0.0, 0.0)


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


def two_sided(t, freedom):
    return 2 * special.stdtr(freedom, -abs(t))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_p_of_paired_runs_follows_the_formula(n):
    rng = np.random.default_rng(n)
    ours, theirs = rng.normal(15.3, 1.0, n), rng.normal(15, 0.3, n)
    change = ours - theirs
    expected = two_sided(change.mean() / (change.std(ddof=1) / math.sqrt(n)), n - 1)
    found = difference(seeded(ours), seeded(theirs)[::-1])
    assert found.p == pytest.approx(expected, rel=1e-12)
    assert found.test == PAIRED_TEST
    assert difference(seeded(theirs), seeded(ours)).p == found.p


@pytest.mark.parametrize(("n", "m"), [(3, 3), (3, 7), (12, 4)])
def test_p_of_other_seeds_follows_welch_and_satterthwaite(n, m):
    rng = np.random.default_rng(n * m)
    ours, theirs = rng.normal(15.3, 1.0, n), rng.normal(15, 0.1, m)
    one, other = ours.var(ddof=1) / n, theirs.var(ddof=1) / m
    freedom = (one + other) ** 2 / (one**2 / (n - 1) + other**2 / (m - 1))
    expected = two_sided((ours.mean() - theirs.mean()) / math.sqrt(one + other), freedom)
    found = difference(seeded(ours), seeded(theirs, first=100))
    assert found.p == pytest.approx(expected, rel=1e-12)
    assert (found.test, found.n) == (WELCH_TEST, min(n, m))


def test_p_by_hand():
    # differences 1, 2, 3: mean 2, std 1, t = 2 sqrt(3), 2 degrees of freedom, for which
    # p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14)
    found = difference(seeded([1, 2, 3]), seeded([0, 0, 0]))
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-12)
    assert (found.significant, found.verdict) == (False, "not significant")


@pytest.mark.parametrize("first", [0, 9])
def test_few_runs_and_runs_without_spread_are_not_tested(first):
    few = difference(seeded([5.0, 6.0]), seeded([1.0, 2.5], first=first))
    assert math.isnan(few.p)
    assert (few.verdict, few.test, few.significant) == ("n too small (2)", "", False)
    equal = difference(seeded([5.0, 5.0, 5.0 + 1e-13]), seeded([1.0, 1.0, 1.0], first=first))
    assert (equal.verdict, equal.significant) == ("no spread to test", False)
    assert equal.mean == pytest.approx(4.0)
