import math

import pytest

from mls_d2.report.statistics import difference, summarize


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
