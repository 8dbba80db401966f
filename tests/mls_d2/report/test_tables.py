import dataclasses
import math
import os
from pathlib import Path

import pytest

from mls_d2.report.groups import group_results
from mls_d2.report.options import Options
from mls_d2.report.tables import (
    best_row,
    cost_table,
    device_hours,
    provenance_table,
    results_table,
    significance_table,
)
from mls_d2.results.schema import LocatedResult


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
    return [row[names(table).index(name)].text for row in table.rows]


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


def test_without_the_baseline_there_is_no_difference_column(make_result):
    group = group_of(*runs_of(make_result, mls=[1.0], mocov2=[2.0]))
    assert not any("random" in name for name in names(results_table(group)))
    assert significance_table(group) is None


def test_another_baseline_by_method_and_by_row(make_result):
    results = [make_result(pretraining={"MLS": {"K": k}}, ap=float(k)) for k in (5, 20)]
    group = group_of(*results, make_result("random", ap=1.0))
    table = results_table(group, Options(baseline="mls (MLS.K = 5)"))
    assert column(table, "box AP − mls (MLS.K = 5)") == ["-4.00", "+15.00", "–"]
    verdicts = significance_table(group, Options(baseline="mls (MLS.K = 5)"))
    assert names(verdicts)[2] == "difference to mls (MLS.K = 5)"


def test_a_baseline_by_method_heads_the_columns_with_its_row(make_result):
    group = group_of(*runs_of(make_result, mls=[15.0], mocov2=[12.0]))
    named = dataclasses.replace(group.rows[0], label="mls (short)")
    group = dataclasses.replace(group, rows=(named, group.rows[1]))
    table = results_table(group, Options(baseline="mls"))
    assert column(table, "box AP − mls (short)") == ["–", "-3.00"]
    verdicts = significance_table(group, Options(baseline="mls"))
    assert names(verdicts)[2] == "difference to mls (short)"


def test_published_numbers_stand_only_beside_comparable_results(make_result, make_paper_result):
    table = results_table(group_of(make_paper_result(ap=40.35)))
    # Table 1: MLS, 400 epochs: box AP 40.1, mask AP 36.2; ours 40.35 and 39.35
    assert column(table, "published box AP") == ["40.1"]
    assert column(table, "box AP − published") == ["+0.25"]
    assert column(table, "published mask AP") == ["36.2"]
    assert column(table, "mask AP − published") == ["+3.15"]
    synthetic = make_result().dataset
    for change in ({"preset": "quick"}, {"preset": "custom"}, {"dataset": synthetic}):
        header = names(results_table(group_of(make_paper_result(**change))))
        assert not any("published" in name for name in header)


def test_a_paper_result_without_a_published_row_shows_a_dash(make_paper_result):
    table = results_table(group_of(make_paper_result("new")))
    assert column(table, "published box AP") == ["–"]
    assert math.isnan(table.rows[0][names(table).index("published box AP")].value)


def test_differences_are_tested_and_the_test_is_named(make_result):
    aps = {"random": [10.0, 10.1, 9.9], "mls": [15.0, 15.2, 14.9], "mocov2": [10.1, 9.8, 10.0]}
    results = [*runs_of(make_result, **aps), make_result("byol", 7, ap=12.0)]
    table = significance_table(group_of(*results))
    box = [row for row in table.rows if row[1].text == "box AP"]
    assert [[cell.text for cell in row] for row in box] == [
        ["byol", "box AP", "+2.00", "1", "–", "–", "n too small (1)"],
        # differences 5, 5.1, 5: mean 5.0333, std 0.0577; t = 151, p = 4.4e-5
        ["mls", "box AP", "+5.03 ± 0.06", "3", "paired t-test", "< 0.001", "significant"],
        # 0.1, -0.3, 0.1: mean -0.0333, std 0.2309; t = -0.25, p = 0.826
        ["mocov2", "box AP", "-0.03 ± 0.23", "3", "paired t-test", "0.826", "not significant"],
    ]
    shown = column(results_table(group_of(*results)), "box AP − random")
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
def test_the_best_is_marked_only_where_it_is_above_all_others(make_result, others, best):
    group = group_of(*runs_of(make_result, mls=[15.0, 15.2, 14.9], **others))
    found = best_row(group, "bbox.AP")
    assert (found.label if found else None) == best
    table = results_table(group)
    place = names(table).index("box AP")
    marked = [row[0].text for row in table.rows if row[place].best]
    assert marked == ([best] if best else [])


def test_mixed_rows_take_no_differences_and_mark_no_best(make_result):
    results = runs_of(make_result, random=[10.0, 10.1, 9.9])
    results += [make_result("mls", seed, ap=50.0 + seed, max_iter=600) for seed in range(3)]
    group = group_of(*results, mix=True)
    table = results_table(group)
    assert names(table) == ["method", "n", "box AP", "box AP50", "mask AP", "pretraining"]
    assert not any(cell.best for row in table.rows for cell in row)
    assert significance_table(group) is None


def test_cost_is_averaged_and_unmeasured_cost_is_a_dash(make_result):
    results = [
        make_result(seed=0, images_per_s=20.0, peak_memory_mb=math.nan, wall_time_s=60.0),
        make_result(seed=1, images_per_s=30.0, peak_memory_mb=math.nan, wall_time_s=120.0),
    ]
    (row,) = cost_table(group_of(*results)).rows
    # 60 s and 120 s on 2 threads: (2 + 4) / 2 = 3 minutes = 0.05 hours
    assert [cell.text for cell in row] == ["mls", "25.0 ± 7.1", "1 min 30 s", "0.05", "–"]


def test_hours_are_those_of_the_devices_that_were_used(make_result):
    gpus = {"kind": "cuda", "name": "H100", "count": 8}
    unknown = {"kind": "unknown", "name": "", "count": 0}
    result = make_result(device=gpus, wall_time_s=1800.0)
    assert device_hours(result, "cuda") == 4.0
    assert math.isnan(device_hours(result, "cpu"))
    old = cost_table(group_of(make_result(device=unknown)))
    assert not any("hours" in name for name in names(old))
    both = cost_table(group_of(make_result(seed=0, device=gpus), make_result(seed=1)))
    assert [name for name in names(both) if "hours" in name] == ["GPU-hours", "CPU-hours"]


def test_provenance_has_one_row_a_run(make_result):
    gpus = {"kind": "cuda", "name": "H100", "count": 8}
    table = provenance_table(group_of(make_result("random"), make_result("mls", device=gpus)))
    assert column(table, "sha256") == ["–", make_result("mls").backbone["sha256"][:12]]
    assert column(table, "result") == ["run0", "run1"]
    assert column(table, "versions") == ["python 3.11, torch 2.5"] * 2
    assert column(table, "device") == ["cpu, 2 threads", "8 × H100"]


def test_links_lead_from_the_report_to_the_files_of_the_run(tmp_path, make_result, save_run):
    path = save_run("a b#c", make_result())
    path.with_name("log.txt").write_text("")
    (group,), _ = group_results([LocatedResult(path, make_result())])
    out = tmp_path / "out"
    (row,) = provenance_table(group, out).rows
    links = {link.text: link.path for link in row[-1].links}
    assert links == {
        "results.json": "../runs/a%20b%23c/results.json",
        "log.txt": "../runs/a%20b%23c/log.txt",
    }
    for name in links:
        assert os.path.samefile(out.parent / "runs" / "a b#c" / name, path.with_name(name))
