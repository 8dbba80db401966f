"""Spot values are read off the tables of arXiv 2308.03286."""

import math
import re
from pathlib import Path

import pytest
import yaml

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import UserError
from mls_d2.data.classification import DATASETS, find
from mls_d2.report.published_file import builtin_published, load_published
from mls_d2.transfer.tasks import task_of

ROOT = Path(__file__).parents[3]

# The sum of every column of every table, added up by hand from the paper's tables, would not tell
# which number is wrong; so these are the first, the last and the odd numbers of each.
SPOTS = [
    ("coco_mask_rcnn_fpn", "1", 12, "supervised", 90, "bbox.AP", 38.9),
    ("coco_mask_rcnn_fpn", "1", 12, "mls", 400, "bbox.AP", 40.1),
    ("coco_mask_rcnn_fpn", "1", 12, "mls", 800, "segm.AP75", 39.1),
    ("coco_mask_rcnn_fpn", "1", 12, "mocov2", 800, "bbox.AP50", 58.1),
    ("coco_mask_rcnn_fpn", "1", 12, "orl", 1600, "segm.AP50", 57.3),
    ("coco_mask_rcnn_c4", "2", 7, "random", None, "bbox.AP", 26.4),
    ("coco_mask_rcnn_c4", "2", 7, "mls", 400, "segm.AP75", 36.0),
    ("cityscapes_psanet", "3", 6, "mls", None, "sem_seg.mIoU", 79.0),
    ("cityscapes_pspnet", "3", 6, "mls", None, "sem_seg.mIoU", 78.5),
    ("cityscapes_pspnet", "3", 6, "mocov2", None, "sem_seg.mAcc", 85.4),
    ("cityscapes_psanet", "3", 6, "densecl", None, "sem_seg.aAcc", 96.0),
    ("voc_faster_rcnn_c4", "4", 9, "random", None, "bbox.AP75", 31.6),
    ("voc_faster_rcnn_c4", "4", 9, "mls", 800, "bbox.AP50", 81.6),
    ("voc2007_finetune", "5", 4, "mls", 400, "classification.mAP", 85.8),
    ("cub200_finetune", "5", 4, "densecl", 400, "classification.top1", 69.3),
    ("flowers102_finetune", "5", 4, "supervised", None, "classification.top1", 96.7),
    ("cars_finetune", "5", 4, "mls", 400, "classification.top1", 88.5),
    ("aircraft_finetune", "5", 4, "mls", 400, "classification.top1", 81.2),
    ("indoor67_finetune", "5", 4, "mls", 400, "classification.top1", 67.1),
    ("pets_finetune", "5", 4, "mls", 400, "classification.top1", 81.9),
    ("dtd_finetune", "5", 4, "mocov2", 400, "classification.top1", 60.9),
]


@pytest.mark.parametrize(
    ("task", "table", "num_rows", "method", "epochs", "metric", "value"), SPOTS
)
def test_the_numbers_of_the_paper(task, table, num_rows, method, epochs, metric, value):
    rows = [row for row in builtin_published().of_task(task) if row.table == table]
    assert len(rows) == num_rows
    (row,) = [row for row in rows if (row.method, row.epochs) == (method, epochs)]
    assert row.metrics[metric] == value


@pytest.mark.parametrize(
    ("table", "label", "box", "mask"),
    [
        ("6", "InfoNCE only", 38.8, 35.5),
        ("6", "+ kNN", 39.1, 35.3),
        ("6", "+ BCE-pos", 39.6, 35.7),
        ("6", "+ BCE (MLS)", 40.1, 36.2),
        ("7", "Q_g only", 39.5, 35.7),
        ("7", "Q_z only", 39.8, 36.0),
        ("7", "both", 40.1, 36.2),
        ("8", "k = 1", 39.7, 35.9),
        ("8", "k = 5", 40.0, 36.1),
        ("8", "k = 20", 40.1, 36.2),
        ("8", "k = 40", 39.2, 35.4),
    ],
)
def test_the_ablations_of_the_paper(table, label, box, mask):
    rows = builtin_published().of_task("coco_mask_rcnn_fpn")
    (row,) = [row for row in rows if (row.table, row.label) == (table, label)]
    assert (row.metrics["bbox.AP"], row.metrics["segm.AP"]) == (box, mask)


def test_what_the_paper_leaves_out_is_absent():
    rows = builtin_published().of_task("coco_mask_rcnn_fpn")
    (row,) = [row for row in rows if row.method == "self_emd"]
    assert set(row.metrics) == {"bbox.AP", "bbox.AP50", "bbox.AP75"}


def test_every_value_orders_as_ap_does():
    for row in builtin_published().rows:
        for kind in {metric.partition(".")[0] for metric in row.metrics}:
            ap50 = row.metrics.get(f"{kind}.AP50", math.inf)
            assert 0 < row.metrics.get(f"{kind}.AP", 1.0) < ap50


def test_repeated_rows_of_the_ablations_agree_with_table_1():
    rows = builtin_published().of_task("coco_mask_rcnn_fpn")
    (main,) = [row for row in rows if row.table == "1" and (row.method, row.epochs) == ("mls", 400)]
    again = [row for row in rows if row.table != "1" and row.config == main.config]
    assert len(again) == 3
    for row in again:
        assert {metric: main.metrics[metric] for metric in row.metrics} == row.metrics


def published_configs():
    """Return the configs of published length by task; where there are several, the shortest."""
    configs = {}
    for path in sorted((ROOT / "transfer_configs").glob("*/*.yaml")):
        cfg = load_cfg(str(path))
        if cfg.PRESET != "paper" or path.name == "base.yaml":
            continue
        task = task_of(cfg).name(cfg)
        if task not in configs or cfg.SOLVER.MAX_ITER < configs[task].SOLVER.MAX_ITER:
            configs[task] = cfg
    return configs


def test_every_task_of_the_tables_has_the_length_and_the_images_of_its_config():
    published, configs = builtin_published(), published_configs()
    tasks = {row.task for row in published.rows}
    assert set(published.protocols) == tasks
    for task in tasks:
        cfg, protocol = configs[task], published.protocols[task]
        lengths = (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH)
        assert (protocol.iterations, protocol.batch) == lengths, task
        if cfg.DATASETS.TRAIN[0].rpartition("_")[0] in DATASETS:
            (train,), (test,) = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
            splits = [(find(name)[2], find(name)[1]) for name in (train, test)]
            assert protocol.images == tuple(data.splits[split] for data, split in splits), task


def own_file(**changes):
    table = {
        "table": "A",
        "title": "Ours",
        "columns": ["lvis/bbox.AP", "lvis/segm.AP"],
        "rows": [{"method": "mls", "data": "Own", "epochs": 3, "values": [1.5, None]}],
    }
    document = {"source": "A paper", "datasets": {"Own": "My_Data"}, "tables": [table]}
    return {**document, **changes}


def test_a_users_file_is_added_behind_ours(tmp_path):
    path = tmp_path / "own.yaml"
    tasks = {"lvis": {"iterations": 10, "batch": 2, "images": [7]}}
    path.write_text(yaml.safe_dump(own_file(tasks=tasks)))
    published = load_published([path])
    (row,) = published.of_task("lvis")
    assert (row.label, row.metrics, row.dataset) == ("mls", {"bbox.AP": 1.5}, "my_data")
    assert row.reference == "Table A of A paper"
    assert published.protocols["lvis"].iterations == 10
    assert published.rows[:-1] == builtin_published().rows


def with_row(**changes):
    row = {"method": "mls", "data": "Own", "epochs": 3, "values": [1.5, None], **changes}
    table = {**own_file()["tables"][0], "rows": [row]}
    return own_file(tables=[table])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1], "own.yaml is list, expected a mapping"),
        ({"tables": []}, "key 'source' is missing"),
        (own_file(sources="x"), "unknown key 'sources'; did you mean 'source'"),
        (own_file(tables={}), "tables is dict, expected a list"),
        (own_file(tables=[{"table": 1}]), "tables: key 'title' is missing"),
        (own_file(tasks={"lvis": {"iterations": 1}}), "tasks: lvis: key 'batch' is missing"),
        (own_file(configs={"mls": 3}), "configs: mls is int, expected a mapping"),
        (with_row(data="Owm"), "table A, row 1: data 'Owm' is not listed.*did you mean 'Own'"),
        (with_row(values=[1.5]), "row 1: 1 values for 2 columns"),
        (with_row(values=[1.5, 101]), "value 101 is not a percentage"),
        (with_row(values=[1.5, float("nan")]), "value nan is not a percentage"),
        (with_row(values=[1.5, "x"]), "values is str, expected a number or a number or null"),
        (with_row(values=[True, 1]), "values is bool"),
        (with_row(method=5), "method is int, expected text"),
        (with_row(epoch=3), "unknown key 'epoch'; did you mean 'epochs'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, document, message):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match=message) as caught:
        load_published([path])
    assert str(path) in str(caught.value)


def test_columns_must_name_task_and_metric(tmp_path):
    table = {**own_file()["tables"][0], "columns": ["lvis", "lvis/segm.AP"]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own_file(tables=[table])))
    with pytest.raises(UserError, match="column 'lvis' is not of the form task/evaluator.metric"):
        load_published([tmp_path / "own.yaml"])


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", None])
def test_an_unreadable_file_is_an_error(tmp_path, content):
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="own.yaml"):
        load_published([path])


def test_the_example_in_the_documentation_is_valid(tmp_path):
    page = ROOT / "docs" / "report.md"
    (example,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "own.yaml").write_text(example)
    rows = load_published([tmp_path / "own.yaml"]).rows[-2:]
    assert [(row.label, row.config, dict(row.metrics)) for row in rows] == [
        ("MLS", {"MLS.K": 20}, {"bbox.AP": 40.1}),
        ("k = 5", {"MLS.K": 5}, {"bbox.AP": 40.0, "segm.AP": 36.1}),
    ]
