"""Spot values are read off the tables of arXiv 2308.03286."""

import pytest

from mls_d2.report.published import matching_row, published_rows

COCO_400 = {"dataset": ["coco_2017_train"], "epochs": 400.0}


@pytest.mark.parametrize(
    ("task", "table", "num_rows", "method", "epochs", "metric", "value"),
    [
        ("coco_mask_rcnn_fpn", 1, 12, "mls", 400, "bbox.AP", 40.1),
        ("coco_mask_rcnn_fpn", 1, 12, "mls", 800, "segm.AP75", 39.1),
        ("coco_mask_rcnn_fpn", 1, 12, "mocov2", 800, "bbox.AP50", 58.1),
        ("coco_mask_rcnn_fpn", 1, 12, "supervised", 90, "segm.AP", 35.4),
        ("coco_mask_rcnn_c4", 2, 7, "random", None, "bbox.AP", 26.4),
        ("coco_mask_rcnn_c4", 2, 7, "mls", 400, "segm.AP", 33.8),
        ("cityscapes_psanet", 3, 6, "mls", None, "sem_seg.mIoU", 79.0),
        ("cityscapes_pspnet", 3, 6, "mls", None, "sem_seg.mIoU", 78.5),
        ("cityscapes_pspnet", 3, 6, "mocov2", None, "sem_seg.mAcc", 85.4),
        ("voc_faster_rcnn_c4", 4, 9, "random", None, "bbox.AP75", 31.6),
        ("voc_faster_rcnn_c4", 4, 9, "mls", 800, "bbox.AP50", 81.6),
        ("cls_voc07", 5, 4, "mls", 400, "classification.mAP", 85.8),
        ("cls_dtd", 5, 4, "mocov2", 400, "classification.top1", 60.9),
    ],
)
def test_the_numbers_of_the_paper(task, table, num_rows, method, epochs, metric, value):
    rows = published_rows(task)
    assert len(rows) == num_rows
    assert {row.table for row in rows} == {table}
    (row,) = [row for row in rows if (row.method, row.epochs) == (method, epochs)]
    assert row.metrics[metric] == value


def test_what_the_paper_leaves_out_is_absent():
    (row,) = [row for row in published_rows("coco_mask_rcnn_fpn") if row.method == "self_emd"]
    assert set(row.metrics) == {"bbox.AP", "bbox.AP50", "bbox.AP75"}


def test_every_value_is_a_percentage_and_orders_as_ap_does():
    for task in ("coco_mask_rcnn_fpn", "coco_mask_rcnn_c4", "voc_faster_rcnn_c4"):
        for row in published_rows(task):
            for kind in {metric.partition(".")[0] for metric in row.metrics}:
                ap, ap50 = row.metrics[f"{kind}.AP"], row.metrics[f"{kind}.AP50"]
                assert 0 < ap < ap50 < 100


def test_an_unknown_task_has_no_rows():
    assert published_rows("pascal_context") == []


def test_a_row_matches_by_method_data_and_epochs():
    rows = published_rows("coco_mask_rcnn_fpn")
    row = matching_row(rows, method="mls", info=COCO_400)
    assert row is not None
    assert row.metrics["bbox.AP"] == 40.1


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
    assert matching_row(published_rows("coco_mask_rcnn_fpn"), method=method, info=info) is None


def test_random_initialisation_matches_without_pretraining():
    row = matching_row(published_rows("coco_mask_rcnn_c4"), method="random", info={})
    assert row is not None
    assert row.metrics["segm.AP"] == 29.3
