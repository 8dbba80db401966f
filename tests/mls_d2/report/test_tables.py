import math
from pathlib import Path

import pytest

from mls_d2.report.groups import group_results
from mls_d2.report.results import LocatedResult
from mls_d2.report.statistics import Difference, Summary
from mls_d2.report.tables import (
    cost_table,
    format_difference,
    format_duration,
    format_summary,
    provenance_table,
    results_table,
)


def group_of(*results):
    located = [LocatedResult(Path(f"run{i}"), result) for i, result in enumerate(results)]
    (group,), _ = group_results(located)
    return group


def column(table, name):
    return [row[list(table.header).index(name)] for row in table.rows]


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


def test_results_by_hand(make_result):
    # mls 15, 17: mean 16, std sqrt(2); random 10, 11: mean 10.5; paired differences 5, 6
    aps = {("mls", 0): 15.0, ("mls", 1): 17.0, ("random", 0): 10.0, ("random", 1): 11.0}
    table = results_table(group_of(*(make_result(*cell, ap=ap) for cell, ap in aps.items())))
    assert column(table, "method") == ["random", "mls"]
    assert column(table, "n") == ["2", "2"]
    assert column(table, "box AP") == ["10.50 ± 0.71", "16.00 ± 1.41"]
    assert column(table, "box AP − random") == ["–", "+5.50 ± 0.71"]
    assert column(table, "mask AP") == ["9.50 ± 0.71", "15.00 ± 1.41"]
    assert column(table, "pretraining") == ["none", "coco_2017_unlabeled, 60 epochs, synthetic"]


def test_without_random_initialisation_there_is_no_difference_column(make_result):
    assert not any("random" in name for name in results_table(group_of(make_result())).header)


def test_published_numbers_stand_only_beside_comparable_results(make_result, make_paper_result):
    table = results_table(group_of(make_paper_result(ap=40.35)))
    # Table 1: MLS, 400 epochs: box AP 40.1, mask AP 36.2; ours 40.35 and 39.35
    assert column(table, "published box AP") == ["40.1 (ours +0.25)"]
    assert column(table, "published mask AP") == ["36.2 (ours +3.15)"]
    synthetic = make_result().dataset
    for change in ({"preset": "quick"}, {"preset": "custom"}, {"dataset": synthetic}):
        header = results_table(group_of(make_paper_result(**change))).header
        assert not any("published" in name for name in header)


def test_a_paper_result_without_a_published_row_shows_a_dash(make_paper_result):
    table = results_table(group_of(make_paper_result("new")))
    assert column(table, "published box AP") == ["–"]


def test_cost_is_averaged_and_unmeasured_cost_is_a_dash(make_result):
    results = [
        make_result(seed=0, images_per_s=20.0, peak_memory_mb=math.nan, wall_time_s=60.0),
        make_result(seed=1, images_per_s=30.0, peak_memory_mb=math.nan, wall_time_s=120.0),
    ]
    (row,) = cost_table(group_of(*results)).rows
    assert list(row) == ["mls", "25.0 ± 7.1", "1 min 30 s", "–"]


def test_provenance_has_one_row_a_run(make_result):
    table = provenance_table(group_of(make_result("random"), make_result("mls")))
    assert column(table, "sha256") == ["–", make_result("mls").backbone["sha256"][:12]]
    assert column(table, "result") == ["run0", "run1"]
    assert column(table, "versions") == ["python 3.11, torch 2.5"] * 2
