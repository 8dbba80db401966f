import dataclasses
import math
import os
from pathlib import Path

import pytest

from mls_d2.report.groups import group_results
from mls_d2.report.statistics import Difference, Summary
from mls_d2.report.tables import (
    ReportOptions,
    best_row,
    cost_table,
    difference_cell,
    differences_table,
    duration_cell,
    number_cell,
    p_cell,
    provenance_table,
    results_table,
    summary_cell,
)
from mls_d2.results.schema import Device, LocatedResult

DEFAULTS = ReportOptions()
NAN = math.nan
GPUS = Device(kind="cuda", name="H100", count=8)


def group_of(*results, mix=False):
    located = [LocatedResult(Path(f"run{i}"), result) for i, result in enumerate(results)]
    (group,), _ = group_results(located, mix=mix)
    return group


def runs_of(make_result, **aps):
    """Runs of methods: ``mls=[15.0, 17.0]`` is seed 0 and seed 1."""
    return [make_result(name, seed, ap=ap) for name in aps for seed, ap in enumerate(aps[name])]


def names(table):
    return [column.name for column in table.columns]


def column(table, name):
    return [str(row[names(table).index(name)]) for row in table.rows]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (summary_cell(Summary(40.123, 0.456, 3)), "40.12 ± 0.46"),
        (summary_cell(Summary(40.123, NAN, 1)), "40.12"),
        (summary_cell(Summary(NAN, NAN, 0)), "–"),
        (difference_cell(Difference(1.2, 0.3, 3, paired=True)), "+1.20 ± 0.30"),
        (difference_cell(Difference(1.2, 0.3, 3, paired=True, p=0.01)), "+1.20 ± 0.30 *"),
        (difference_cell(Difference(-1.2, NAN, 1, paired=False)), "-1.20"),
        (difference_cell(Difference(NAN, NAN, 0, paired=False)), "–"),
        (p_cell(0.0496), "0.050"),
        (p_cell(0.001), "0.001"),
        (p_cell(0.0009), "< 0.001"),
        (p_cell(NAN), "–"),
        (number_cell(NAN, ".1f"), "–"),
        (number_cell(2.345, "+.2f"), "+2.35"),
        (duration_cell(0.2), "0 s"),
        (duration_cell(59.4), "59 s"),
        (duration_cell(59.6), "1 min 00 s"),
        (duration_cell(3599), "59 min 59 s"),
        (duration_cell(3600), "1 h 00 min"),
        (duration_cell(90061), "25 h 01 min"),
        (duration_cell(NAN), "–"),
    ],
)
def test_numbers_are_written_with_sign_spread_and_unit(cell, text):
    assert str(cell) == text


def test_results_by_hand(make_result):
    # mls 15, 17: mean 16, std sqrt(2); random 10, 11: mean 10.5; paired differences 5, 6
    table = results_table(group_of(*runs_of(make_result, mls=[15, 17], random=[10, 11])), DEFAULTS)
    assert column(table, "method") == ["random", "mls"]
    assert column(table, "n") == ["2", "2"]
    assert column(table, "box AP") == ["10.50 ± 0.71", "16.00 ± 1.41"]
    assert column(table, "box AP − random") == ["–", "+5.50 ± 0.71"]
    assert column(table, "mask AP") == ["9.50 ± 0.71", "15.00 ± 1.41"]
    assert column(table, "pretraining") == ["none", "coco_2017_unlabeled, 60 epochs, synthetic"]
    cell = table.rows[1][names(table).index("box AP")]
    assert (cell.value, cell.std, cell.n) == (16.0, pytest.approx(math.sqrt(2)), 2)


def test_without_the_baseline_there_are_no_differences(make_result):
    group = group_of(*runs_of(make_result, mls=[1.0], mocov2=[2.0]))
    assert not any("random" in name for name in names(results_table(group, DEFAULTS)))
    assert differences_table(group, DEFAULTS) is None


def test_another_baseline_by_row_and_by_method_heads_the_columns_with_its_row(make_result):
    results = [make_result(pretraining={"MLS": {"K": k}}, ap=float(k)) for k in (5, 20)]
    group = group_of(*results, make_result("random", ap=1.0))
    options = ReportOptions(baseline="mls (MLS.K = 5)")
    differences = column(results_table(group, options), "box AP − mls (MLS.K = 5)")
    assert differences == ["-4.00", "+15.00", "–"]
    assert names(differences_table(group, options))[2] == "difference to mls (MLS.K = 5)"
    group = group_of(*runs_of(make_result, mls=[15.0], mocov2=[12.0]))
    named = dataclasses.replace(group.rows[0], label="mls (short)")
    group = dataclasses.replace(group, rows=(named, group.rows[1]))
    table = results_table(group, ReportOptions(baseline="mls"))
    assert column(table, "box AP − mls (short)") == ["–", "-3.00"]


def test_published_numbers_are_beside_only_if_all_is_as_published(make_result, make_paper_result):
    results = [make_paper_result(seed=seed, ap=ap) for seed, ap in enumerate((40.0, 40.7))]
    table = results_table(group_of(*results, make_paper_result("new")), DEFAULTS)
    # Table 1 of the paper: MLS, 400 epochs, box AP 40.1, mask AP 36.2; ours 40.35 and 39.35
    assert column(table, "published box AP") == ["40.1", "–"]
    assert column(table, "box AP − published") == ["+0.25", "–"]
    assert column(table, "published mask AP") == ["36.2", "–"]
    assert column(table, "mask AP − published") == ["+3.15", "–"]
    assert math.isnan(table.rows[1][names(table).index("published box AP")].value)
    for change in ({"preset": "quick"}, {"preset": "custom"}, {"dataset": make_result().dataset}):
        header = names(results_table(group_of(make_paper_result(**change)), DEFAULTS))
        assert not any("published" in name for name in header)


def test_differences_are_tested_and_the_test_is_named(make_result):
    aps = {"random": [10.0, 10.1, 9.9], "mls": [15.0, 15.2, 14.9], "mocov2": [10.1, 9.8, 10.0]}
    group = group_of(*runs_of(make_result, **aps), make_result("byol", 7, ap=12.0))
    table = differences_table(group, DEFAULTS)
    box = [[str(cell) for cell in row] for row in table.rows if row[1].text == "box AP"]
    assert box == [
        ["byol", "box AP", "+2.00", "1", "–", "–", "n too small (1)"],
        # differences 5, 5.1, 5: mean 5.0333, std 0.0577; t = 151, p = 4.4e-5
        ["mls", "box AP", "+5.03 ± 0.06", "3", "paired t-test", "< 0.001", "significant"],
        # 0.1, -0.3, 0.1: mean -0.0333, std 0.2309; t = -0.25, p = 0.826
        ["mocov2", "box AP", "-0.03 ± 0.23", "3", "paired t-test", "0.826", "not significant"],
    ]
    shown = column(results_table(group, DEFAULTS), "box AP − random")
    assert shown == ["–", "+2.00", "+5.03 ± 0.06 *", "-0.03 ± 0.23"]


@pytest.mark.parametrize(
    ("others", "best"),
    [
        ({"random": [10.0, 10.1, 9.9]}, "mls"),
        ({"random": [10.0, 10.1, 9.9], "mocov2": [15.1, 15.0, 14.9]}, None),
        ({"random": [10.0, 10.1, 9.9], "mocov2": [15.1]}, None),
        ({"random": [10.0]}, None),
        ({}, None),
    ],
)
def test_the_best_is_marked_only_if_it_is_above_all_others(make_result, others, best):
    group = group_of(*runs_of(make_result, mls=[15.0, 15.2, 14.9], **others))
    found = best_row(group, "bbox.AP")
    assert (found.label if found else None) == best
    table = results_table(group, DEFAULTS)
    place = names(table).index("box AP")
    marked = [row[0].text for row in table.rows if row[place].best]
    assert marked == ([best] if best else [])


def test_mixed_rows_take_no_differences_and_mark_no_best(make_result):
    results = runs_of(make_result, random=[10.0, 10.1, 9.9])
    results += [make_result("mls", seed, ap=50.0 + seed, max_iter=600) for seed in range(3)]
    group = group_of(*results, mix=True)
    table = results_table(group, DEFAULTS)
    assert names(table) == ["method", "n", "box AP", "box AP50", "mask AP", "pretraining"]
    assert not any(cell.best for row in table.rows for cell in row)
    assert differences_table(group, DEFAULTS) is None


def test_cost_is_averaged_per_kind_of_device(make_result):
    results = [
        make_result(seed=0, images_per_s=20.0, peak_memory_mb=NAN, wall_time_s=60.0),
        make_result(seed=1, images_per_s=30.0, peak_memory_mb=NAN, wall_time_s=120.0),
        make_result("mocov2", device=GPUS, wall_time_s=1800.0),
    ]
    table = cost_table(group_of(*results))
    assert names(table)[3:5] == ["GPU-hours", "CPU-hours"]
    assert [[str(cell) for cell in row] for row in table.rows] == [
        # 60 s and 120 s on 2 threads: (2 + 4) / 2 = 3 minutes = 0.05 hours
        ["mls", "25.0 ± 7.1", "1 min 30 s", "–", "0.05", "–"],
        ["mocov2", "30.0", "30 min 00 s", "4", "–", "2000"],
    ]
    unknown = Device(kind="unknown", name="", count=0)
    old = cost_table(group_of(make_result(device=unknown)))
    assert not any("hours" in name for name in names(old))


def test_provenance_has_one_row_per_run(make_result):
    group = group_of(make_result("random"), make_result("mls", device=GPUS))
    table = provenance_table(group, None)
    assert column(table, "sha256") == ["–", make_result("mls").backbone.sha256[:12]]
    assert column(table, "result") == ["run0", "run1"]
    assert column(table, "versions") == ["python 3.11, torch 2.5"] * 2
    assert column(table, "device") == ["cpu, 2 threads", "8 × H100"]


def test_links_lead_from_the_report_to_the_files_of_the_run(tmp_path, make_result, save_run):
    path = save_run("a b#c", make_result())
    path.with_name("log.txt").write_text("")
    (group,), _ = group_results([LocatedResult(path, make_result())])
    out = tmp_path / "out"
    (row,) = provenance_table(group, out).rows
    assert row[-1].links == {
        "results.json": "../runs/a%20b%23c/results.json",
        "log.txt": "../runs/a%20b%23c/log.txt",
    }
    for name in row[-1].links:
        assert os.path.samefile(out.parent / "runs" / "a b#c" / name, path.with_name(name))
