import math

import pytest

from mls_d2.report.cells import (
    format_difference,
    format_duration,
    format_p,
    format_summary,
    number_cell,
)
from mls_d2.report.statistics import Difference, Summary


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (Summary(40.123, 0.456, 3), "40.12 ± 0.46"),
        (Summary(40.123, math.nan, 1), "40.12"),
        (Summary(math.nan, math.nan, 0), "–"),
    ],
)
def test_summaries(summary, text):
    assert format_summary(summary) == text


def test_differences_have_a_sign():
    assert format_difference(Difference(1.2, 0.3, 3, paired=True)) == "+1.20 ± 0.30"
    assert format_difference(Difference(-1.2, math.nan, 1, paired=False)) == "-1.20"
    assert format_difference(Difference(math.nan, math.nan, 0, paired=False)) == "–"


@pytest.mark.parametrize(
    ("p", "text"), [(0.0496, "0.050"), (0.001, "0.001"), (0.0009, "< 0.001"), (math.nan, "–")]
)
def test_p_values(p, text):
    assert format_p(p) == text


def test_a_number_that_was_not_measured_is_a_dash():
    assert str(number_cell(math.nan, ".1f")) == "–"
    assert str(number_cell(2.345, "+.2f")) == "+2.35"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (90061, "25 h 01 min"),
        (math.nan, "–"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text
