import dataclasses
import math
from pathlib import Path

from mls_d2.report.groups import group_results
from mls_d2.results.schema import LocatedResult


def locate(results):
    return [LocatedResult(Path(f"{number}"), result) for number, result in enumerate(results)]


def group_labels(group):
    return [row.label for row in group.rows]


def test_seeds_of_one_method_make_one_row_and_random_comes_first(make_result):
    results = [make_result("mls", 1, ap=16.0), make_result("mls", 0), make_result("random", 0)]
    (group,), problems = group_results(locate(results))
    assert [row.label for row in group.rows] == ["random", "mls"]
    assert group.rows[1].values("bbox.AP") == [(0, 15.0), (1, 16.0)]
    assert math.isnan(group.rows[1].values("bbox.AP75")[0][1])
    assert (group.note, problems) == ("", [])


def test_other_schedules_data_and_presets_stand_apart(make_result):
    base = make_result()
    other_data = {**base.dataset, "fingerprint": "beef"}
    results = [
        base,
        make_result(max_iter=600),
        dataclasses.replace(base, dataset=other_data),
        dataclasses.replace(base, preset="custom"),
    ]
    groups, problems = group_results(locate(results))
    assert len(groups) == 4
    assert problems == []
    notes = [group.note for group in groups]
    assert len(set(notes)) == 4
    assert all("SOLVER.MAX_ITER = " in note and "dataset = " in note for note in notes)


def test_other_tasks_need_no_note(make_result):
    groups, _ = group_results(locate([make_result(), make_result(task="voc_faster_rcnn_c4")]))
    assert [(group.task, group.note) for group in groups] == [
        ("coco_mask_rcnn_fpn", ""),
        ("voc_faster_rcnn_c4", ""),
    ]


def test_another_pretraining_of_a_method_is_another_row_that_says_why(make_result):
    results = [make_result(pretraining={"MLS": {"K": k}}) for k in (5, 20)]
    (group,), problems = group_results(locate(results))
    assert [row.label for row in group.rows] == ["mls (MLS.K = 20)", "mls (MLS.K = 5)"]
    assert problems == []


def test_backbones_without_a_recipe_are_told_apart_by_hash(make_result):
    backbone = make_result().backbone
    results = [
        make_result(seed=0, backbone={**backbone, "info": {}, "sha256": sha * 64}) for sha in "ab"
    ]
    (group,), _ = group_results(locate(results))
    assert [row.label for row in group.rows] == [
        "mls (weights = aaaaaaaaaaaa)",
        "mls (weights = bbbbbbbbbbbb)",
    ]


def test_backbones_of_other_seeds_share_a_row(make_result):
    backbone = make_result().backbone
    results = [make_result(seed=0, backbone={**backbone, "sha256": sha * 64}) for sha in "ab"]
    (group,), problems = group_results(locate(results))
    assert [len(row.runs) for row in group.rows] == [2]
    assert problems == []


def test_of_two_runs_of_one_cell_the_newer_counts(make_result):
    newer = make_result(ap=20.0, finished="2025-02-01T00:00:00Z")
    (group,), problems = group_results(locate([newer, make_result(ap=15.0)]))
    assert group.rows[0].values("bbox.AP") == [(0, 20.0)]
    assert problems == [
        "1 is left out: 0 is a newer run of the same method, backbone and seed",
    ]


def test_two_runs_of_one_cell_that_disagree_are_reported(make_result):
    newer = make_result(ap=20.0, finished="2025-02-01T00:00:00Z")
    other = make_result("mocov2")
    (group,), _ = group_results(locate([newer, make_result(ap=15.0), other]))
    assert group.disagreements == (
        "1 and 0 are runs of the same method, backbone and seed and disagree: bbox.AP 15.00 and "
        "20.00, bbox.AP50 30.00 and 40.00, segm.AP 14.00 and 19.00; the second, newer, counts",
    )
    repeated = make_result(finished="2025-02-01T00:00:00Z")
    (group,), problems = group_results(locate([make_result(), repeated]))
    assert (group.disagreements, len(problems)) == ((), 1)


def test_a_disagreement_names_missing_metrics_and_the_number_of_others(make_result):
    many = {"bbox": {f"m{i}": float(i) for i in range(9)}}
    newer = {"bbox": {f"m{i}": i + 1.0 for i in range(8)}}
    results = [make_result(metrics=many), make_result(metrics=newer, finished="2026")]
    (line,) = group_results(locate(results))[0][0].disagreements
    assert line.endswith("bbox.m3 3.00 and 4.00 and 5 more; the second, newer, counts")
    results[1] = make_result(metrics={"bbox": {"m0": math.nan}}, finished="2026")
    results[0] = make_result(metrics={"bbox": {"m0": math.nan, "m1": 1.0}})
    (line,) = group_results(locate(results))[0][0].disagreements
    assert "disagree: bbox.m1 in one of them;" in line


def test_mixing_puts_a_task_into_one_marked_group(make_result):
    results = [make_result("random"), make_result("mls", max_iter=600), make_result(task="other")]
    groups, _ = group_results(locate(results), mix=True)
    assert [(group.task, group.mixed) for group in groups] == [
        ("coco_mask_rcnn_fpn", "SOLVER.MAX_ITER"),
        ("other", ""),
    ]
    assert [row.label for row in groups[0].rows] == [
        "random (SOLVER.MAX_ITER = 300)",
        "mls (SOLVER.MAX_ITER = 600)",
    ]
    comparable, _ = group_results(locate(results[:1]), mix=True)
    assert comparable == group_results(locate(results[:1]))[0]


def test_mixing_never_averages_over_other_conditions(make_result):
    results = [make_result(seed=0), make_result(seed=1, max_iter=600)]
    (group,), _ = group_results(locate(results), mix=True)
    assert [len(row.runs) for row in group.rows] == [1, 1]


def test_a_row_is_found_by_label_before_method(make_result):
    results = [make_result(pretraining={"MLS": {"K": k}}) for k in (5, 20)]
    (group,), _ = group_results(locate(results))
    assert group.row("mls (MLS.K = 5)") is group.rows[1]
    assert group.row("mls") is None
    assert group.row("none") is None
    (single,), _ = group_results(locate([*results[:1], make_result("mocov2")]))
    assert group_labels(single) == ["mls", "mocov2"]
    assert single.row("mocov2") is single.rows[1]
    # A label may be a method that another row shares.
    plain = dataclasses.replace(group.rows[0], label="mls")
    assert dataclasses.replace(group, rows=(group.rows[1], plain)).row("mls") is plain


def test_a_result_with_an_unreadable_config_is_left_out(make_result):
    groups, problems = group_results(locate([make_result(config="a: ["), make_result()]))
    assert len(groups) == 1
    assert len(problems) == 1
    assert problems[0].startswith("0 is left out: its config is not readable YAML")


def test_metrics_by_category_and_size_are_not_shown(make_result):
    (group,), _ = group_results(locate([make_result()]))
    assert group.metrics == ["bbox.AP", "bbox.AP50", "segm.AP"]
    assert group.headline == ["bbox.AP", "segm.AP"]
