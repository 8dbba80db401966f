import dataclasses

import pytest
import yaml

from mls_d2.report.published import matching_row, published_beside, why_not_compared
from mls_d2.report.published_file import Published, builtin_published

COCO_400 = {"dataset": ["coco_2017_train"], "epochs": 400.0}
FPN = builtin_published().of_task("coco_mask_rcnn_fpn")


def test_an_unknown_task_has_no_rows():
    assert builtin_published().of_task("pascal_context") == []


def test_a_row_matches_by_method_data_and_epochs():
    row = matching_row(FPN, method="mls", info=COCO_400)
    assert row is not None
    assert (row.table, row.metrics["bbox.AP"]) == ("1", 40.1)


@pytest.mark.parametrize(
    ("method", "info"),
    [
        ("simsiam", COCO_400),
        ("mls", {**COCO_400, "epochs": 200}),
        ("mls", {**COCO_400, "dataset": ["coco_2017_train", "coco_2017_unlabeled"]}),
        ("mls", {**COCO_400, "synthetic": True}),
        ("mls", {}),
    ],
)
def test_no_row_matches_other_pretraining(method, info):
    assert matching_row(FPN, method=method, info=info) is None


def test_pretrained_weights_do_not_match_a_row_without_data():
    assert matching_row(builtin_published().rows, method="random", info=COCO_400) is None


def test_random_initialisation_matches_without_pretraining():
    rows = builtin_published().of_task("coco_mask_rcnn_c4")
    row = matching_row(rows, method="random", info={})
    assert row is not None
    assert row.metrics["segm.AP"] == 29.3


@pytest.mark.parametrize(
    ("config", "table", "box"),
    [
        ({"K": 20, "LOSS": "bce", "LAMBDA": 0.5}, "1", 40.1),
        ({"K": 20.0, "WARMUP": 0}, "1", 40.1),
        ({"K": 20, "LOSS": "none"}, "6", 38.8),
        ({"K": 20, "LOSS": "knn"}, "6", 39.1),
        ({"DICTIONARIES": "g"}, "7", 39.5),
        ({"K": 5}, "8", 40.0),
    ],
)
def test_an_ablation_matches_its_own_row(config, table, box):
    info = {**COCO_400, "config": yaml.safe_dump({"MLS": config})}
    row = matching_row(FPN, method="mls", info=info)
    assert row is not None
    assert (row.table, row.metrics["bbox.AP"]) == (table, box)


@pytest.mark.parametrize(
    "config", [{"MLS": {"K": 7}}, {"MLS": {"LAMBDA": 1.0}}, {"MOCO": {"DICTIONARY_SIZE": 1024}}]
)
def test_a_recipe_that_the_paper_has_no_number_for_matches_nothing(config):
    info = {**COCO_400, "config": yaml.safe_dump(config)}
    assert matching_row(FPN, method="mls", info=info) is None


def reason_of(result) -> str:
    published = builtin_published()
    assert published_beside(result, published) is None
    return why_not_compared(result, published)


def shorter(**solver):
    return yaml.safe_dump({"SOLVER": {"MAX_ITER": 90000, "IMS_PER_BATCH": 16, **solver}})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"preset": "quick"}, "shortened schedule"),
        ({"preset": "custom"}, "preset custom, not the published recipe"),
        ({"config": shorter(MAX_ITER=9000)}, "9000 iterations of 16 images instead of 90000 of 16"),
        ({"config": shorter(IMS_PER_BATCH=8)}, "90000 iterations of 8 images instead of 90000"),
        ({"task": "lvis"}, "there are none for task lvis"),
        ({"method": "simsiam"}, "none for simsiam on coco_mask_rcnn_fpn, only for supervised"),
    ],
)
def test_what_is_not_comparable_says_why(make_paper_result, fields, reason):
    assert reason in reason_of(make_paper_result(**fields))


def test_other_data_and_other_pretraining_say_why(make_paper_result):
    base = make_paper_result()
    few = reason_of(make_paper_result(dataset={**base.dataset, "num_images": 21}))
    assert "another dataset, 21 images instead of 118287 or 5000" in few
    scenes = reason_of(make_paper_result(dataset={**base.dataset, "synthetic": True}))
    assert scenes.endswith("synthetic scenes")
    for info, reason in (
        ({**COCO_400, "epochs": 7}, "mls is published there with other pretraining (COCO, 400"),
        ({**COCO_400, "synthetic": True}, "backbone pretrained on synthetic scenes"),
    ):
        assert reason in reason_of(make_paper_result(backbone={**base.backbone, "info": info}))


def test_a_shortened_classification_is_not_compared(make_paper_result):
    base = make_paper_result("mls", task="cub200_finetune")
    fields = {"task": "cub200_finetune", "dataset": {**base.dataset, "num_images": 5994}}
    whole = make_paper_result(config=shorter(MAX_ITER=11239, IMS_PER_BATCH=64), **fields)
    row = published_beside(whole, builtin_published())
    assert row is not None
    assert row.metrics["classification.top1"] == 71.7
    short = make_paper_result(config=shorter(MAX_ITER=1124, IMS_PER_BATCH=64), **fields)
    assert "1124 iterations of 64 images instead of 11239 of 64" in reason_of(short)
    fields["dataset"] = {**base.dataset, "num_images": 600}
    few = make_paper_result(config=shorter(MAX_ITER=11239, IMS_PER_BATCH=64), **fields)
    assert "another dataset, 600 images instead of 5994" in reason_of(few)


def test_a_file_that_does_not_say_its_data_is_the_reason_where_it_is(make_paper_result):
    silent = "its file does not say what it was pretrained on"
    backbone = {**make_paper_result().backbone, "info": {"method": "supervised"}}
    assert reason_of(make_paper_result("supervised", backbone=backbone)) == silent
    # Data would change nothing for a method without numbers, and random weights have none.
    assert "none for simsiam" in reason_of(make_paper_result("simsiam", backbone=backbone))
    rows = [dataclasses.replace(FPN[0], method="random")]
    other = Published(tuple(rows), {})
    reason = why_not_compared(make_paper_result("random"), other)
    assert reason.startswith("random is published there with other pretraining (ImageNet")


def test_half_the_gpus_are_the_same_recipe(make_paper_result):
    config = shorter(MAX_ITER=180000, IMS_PER_BATCH=8)
    row = published_beside(make_paper_result(config=config), builtin_published())
    assert row is not None
    assert row.metrics["bbox.AP"] == 40.1
