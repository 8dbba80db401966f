import dataclasses
import math
from pathlib import Path

import msgspec
import pytest

from mls_d2.report.groups import group_results
from mls_d2.results.schema import LocatedResult

replace = msgspec.structs.replace


def grouped(*results, mix=False):
    located = [LocatedResult(Path(f"{number}"), result) for number, result in enumerate(results)]
    return group_results(located, mix=mix)


def labels(group):
    return [row.label for row in group.rows]


def test_seeds_of_one_method_make_one_row_and_random_comes_first(make_result):
    results = [make_result("mls", 1, ap=16.0), make_result("mls", 0), make_result("random", 0)]
    (group,), problems = grouped(*results)
    assert labels(group) == ["random", "mls"]
    assert group.rows[1].values("bbox.AP") == [(0, 15.0), (1, 16.0)]
    assert math.isnan(group.rows[1].values("bbox.AP75")[0][1])
    assert (group.note, problems) == ("", [])
    assert group.title == "coco_mask_rcnn_fpn, preset quick, synthetic scenes"
    assert group.metrics == ["bbox.AP", "bbox.AP50", "segm.AP"]
    assert group.headline == ["bbox.AP", "segm.AP"]


def test_other_schedules_data_and_presets_are_apart_and_named(make_result):
    base = make_result()
    real = replace(base.dataset, fingerprint="beef", synthetic=False)
    results = [base, make_result(max_iter=600), replace(base, dataset=real)]
    groups, problems = grouped(*results, replace(base, preset="custom"))
    assert (len(groups), problems) == (4, [])
    notes = [group.note for group in groups]
    assert len(set(notes)) == 4
    for note in notes:
        assert note.startswith("dataset = coco_2017_val (300 ")
        assert "SOLVER.MAX_ITER = " in note
    assert sum("(300 real images)" in note for note in notes) == 1
    assert sum(group.title.endswith("preset quick, real images") for group in groups) == 1


@pytest.mark.parametrize(
    ("root", "ends"),
    [("more", ["more", "scenes"]), ("scenes", ["scenes beef", "scenes f00d"])],
)
def test_data_of_one_name_and_size_are_told_apart_by_folder_else_digest(make_result, root, ends):
    other = replace(make_result().dataset, fingerprint="beef", root=root)
    groups, _ = grouped(make_result(), make_result(dataset=other))
    name = "dataset = coco_2017_val (300 synthetic images) in "
    assert [group.note for group in groups] == [name + end for end in ends]


def test_another_pretraining_of_a_method_is_another_row_with_the_reason(make_result):
    results = [make_result(pretraining={"MLS": {"K": k}}, ap=float(k)) for k in (5, 20)]
    (group,), problems = grouped(*results)
    assert labels(group) == ["mls (MLS.K = 20)", "mls (MLS.K = 5)"]
    assert problems == []
    assert group.row("mls (MLS.K = 5)") is group.rows[1]
    assert group.row("mls") is None
    (single,), _ = grouped(results[0], make_result("mocov2"))
    assert labels(single) == ["mls", "mocov2"]
    assert single.row("mocov2") is single.rows[1]
    # A label may be a method that another row shares.
    plain = dataclasses.replace(group.rows[0], label="mls")
    assert dataclasses.replace(group, rows=(group.rows[1], plain)).row("mls") is plain


@pytest.mark.parametrize("recorded", [True, False])
def test_backbones_of_other_seeds_share_a_row_only_if_their_recipe_is_recorded(
    make_result, recorded
):
    backbone = make_result().backbone
    info = backbone.info if recorded else {}
    shas = ["a" * 64, "b" * 64]
    results = [make_result(backbone=replace(backbone, sha256=sha, info=info)) for sha in shas]
    (group,), problems = grouped(*results)
    apart = ["mls (weights = aaaaaaaaaaaa)", "mls (weights = bbbbbbbbbbbb)"]
    assert labels(group) == (["mls"] if recorded else apart)
    assert problems == []


def test_of_two_runs_of_one_cell_the_newer_counts_and_a_disagreement_is_reported(make_result):
    newer = make_result(ap=20.0, finished="2025-02-01T00:00:00Z")
    (group,), problems = grouped(newer, make_result(ap=15.0), make_result("mocov2"))
    assert group.rows[0].values("bbox.AP") == [(0, 20.0)]
    assert problems == ["1 is left out: 0 is a newer run of the same method, backbone and seed"]
    assert group.disagreements == (
        "1 and 0 are runs of the same method, backbone and seed and disagree: bbox.AP 15.00 and "
        "20.00, bbox.AP50 30.00 and 40.00, segm.AP 14.00 and 19.00; the second, newer, counts",
    )
    (group,), problems = grouped(make_result(), make_result(finished="2025-02-01T00:00:00Z"))
    assert (group.disagreements, len(problems)) == ((), 1)


def test_a_disagreement_names_missing_metrics_and_the_number_of_others(make_result):
    many = {"bbox": {f"m{i}": float(i) for i in range(9)}}
    newer = {"bbox": {f"m{i}": i + 1.0 for i in range(8)}}
    groups, _ = grouped(make_result(metrics=many), make_result(metrics=newer, finished="2026"))
    (line,) = groups[0].disagreements
    assert line.endswith("bbox.m3 3.00 and 4.00 and 5 more; the second, newer, counts")
    one, both = {"bbox": {"m0": math.nan}}, {"bbox": {"m0": math.nan, "m1": 1.0}}
    groups, _ = grouped(make_result(metrics=both), make_result(metrics=one, finished="2026"))
    (line,) = groups[0].disagreements
    assert "disagree: bbox.m1 in one of them;" in line


def test_mixing_puts_a_task_into_one_marked_group_and_averages_over_no_conditions(make_result):
    results = [make_result(seed=0), make_result(seed=1, max_iter=600), make_result(task="other")]
    groups, _ = grouped(*results, mix=True)
    assert [(group.task, group.mixed) for group in groups] == [
        ("coco_mask_rcnn_fpn", "SOLVER.MAX_ITER"),
        ("other", ""),
    ]
    assert labels(groups[0]) == ["mls (SOLVER.MAX_ITER = 300)", "mls (SOLVER.MAX_ITER = 600)"]
    assert grouped(results[0], mix=True) == grouped(results[0])


def test_synthetic_rows_of_a_mixed_group_are_marked(make_result, make_paper_result):
    (group,), _ = grouped(make_result(), make_paper_result(), mix=True)
    real, synthetic = labels(group)
    assert synthetic.startswith("mls, synthetic (")
    assert "synthetic" not in real
    assert group.title.endswith("preset paper + quick, real images and synthetic scenes")


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"synthetic": False}, ["mls", "mls, synthetic"]),
        ({"iterations": 20, "planned_iterations": 80}, ["mls (iterations = 20 of 80)", "mls (…)"]),
    ],
)
def test_synthetic_and_unfinished_pretraining_is_not_averaged_with_other(
    other, expected, make_result
):
    results = [make_result(), make_result(seed=1)]
    scenes = replace(results[0].dataset, synthetic=False)
    results = [replace(result, dataset=scenes) for result in results]
    backbone = results[1].backbone
    results[1] = replace(results[1], backbone=replace(backbone, info=backbone.info | other))
    (group,), _ = grouped(*results)
    assert labels(group) == [text.replace("…", "iterations = not set") for text in expected]


def test_a_result_with_an_unreadable_config_is_left_out(make_result):
    groups, (problem,) = grouped(make_result(config="a: ["), make_result())
    assert len(groups) == 1
    assert problem.startswith("0 is left out: its config is not readable YAML")
