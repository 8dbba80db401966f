"""Spot values are read off the tables of arXiv 2308.03286."""

import re

import msgspec
import pytest
import yaml

from mls_d2.config.loading import load_cfg
from mls_d2.data.classification import DATASETS, find
from mls_d2.report.published import (
    Published,
    builtin_published,
    load_published,
    matching_row,
    published_beside,
    why_not_compared,
)
from mls_d2.results.schema import InitialWeights
from mls_d2.transfer.tasks import task_of
from tests.conftest import REPOSITORY

COCO_400 = {"dataset": ["coco_2017_train"], "epochs": 400.0}
PUBLISHED = builtin_published()
FPN = PUBLISHED.of_task("coco_mask_rcnn_fpn")
FIELD_MOCO = {"DICTIONARY_SIZE": 65536, "MOMENTUM": 0.999, "PROJECTOR_OUT_DIM": 128}
PAPER_MOCO = {"DICTIONARY_SIZE": 4096, "MOMENTUM": 0.995, "PROJECTOR_OUT_DIM": 256}
HEAD_4CONV = {"MODEL": {"ROI_BOX_HEAD": {"NUM_CONV": 4, "NUM_FC": 1}}}

# The sum of every column would not tell which number is wrong; so these are the first, the last
# and the odd numbers of each table.
SPOTS = [
    ("coco_mask_rcnn_fpn", "1", 12, "Supervised", 90, "bbox.AP", 38.9),
    ("coco_mask_rcnn_fpn", "1", 12, "MLS", 400, "bbox.AP", 40.1),
    ("coco_mask_rcnn_fpn", "1", 12, "MLS", 800, "segm.AP75", 39.1),
    ("coco_mask_rcnn_fpn", "1", 12, "MoCo-v2", 800, "bbox.AP50", 58.1),
    ("coco_mask_rcnn_fpn", "1", 12, "ORL (two stages of 800)", 1600, "segm.AP50", 57.3),
    ("coco_mask_rcnn_c4", "2", 7, "Random", None, "bbox.AP", 26.4),
    ("coco_mask_rcnn_c4", "2", 7, "MLS", 400, "segm.AP75", 36.0),
    ("cityscapes_psanet", "3", 6, "MLS", None, "sem_seg.mIoU", 79.0),
    ("cityscapes_pspnet", "3", 6, "MLS", None, "sem_seg.mIoU", 78.5),
    ("cityscapes_pspnet", "3", 6, "MoCo-v2", None, "sem_seg.mAcc", 85.4),
    ("cityscapes_psanet", "3", 6, "DenseCL", None, "sem_seg.aAcc", 96.0),
    ("voc_faster_rcnn_c4", "4", 9, "Random", None, "bbox.AP75", 31.6),
    ("voc_faster_rcnn_c4", "4", 9, "MLS", 800, "bbox.AP50", 81.6),
    ("voc2007_finetune", "5", 4, "MLS", 400, "classification.mAP", 85.8),
    ("cub200_finetune", "5", 4, "DenseCL", 400, "classification.top1", 69.3),
    ("flowers102_finetune", "5", 4, "Supervised", None, "classification.top1", 96.7),
    ("cars_finetune", "5", 4, "MLS", 400, "classification.top1", 88.5),
    ("aircraft_finetune", "5", 4, "MLS", 400, "classification.top1", 81.2),
    ("indoor67_finetune", "5", 4, "MLS", 400, "classification.top1", 67.1),
    ("pets_finetune", "5", 4, "MLS", 400, "classification.top1", 81.9),
    ("dtd_finetune", "5", 4, "MoCo-v2", 400, "classification.top1", 60.9),
    ("coco_mask_rcnn_fpn", "6", 5, "+ kNN", 400, "segm.AP", 35.3),
    ("coco_mask_rcnn_fpn", "6", 5, "+ BCE-pos", 400, "bbox.AP", 39.6),
    ("coco_mask_rcnn_fpn", "6", 5, "+ BCE (MLS)", 400, "bbox.AP", 40.1),
    ("coco_mask_rcnn_fpn", "7", 3, "Q_g only", 400, "bbox.AP", 39.5),
    ("coco_mask_rcnn_fpn", "7", 3, "Q_z only", 400, "segm.AP", 36.0),
    ("coco_mask_rcnn_fpn", "7", 3, "both", 400, "segm.AP", 36.2),
    ("coco_mask_rcnn_fpn", "8", 4, "k = 1", 400, "segm.AP", 35.9),
    ("coco_mask_rcnn_fpn", "8", 4, "k = 5", 400, "bbox.AP", 40.0),
    ("coco_mask_rcnn_fpn", "8", 4, "k = 40", 400, "bbox.AP", 39.2),
]


def test_the_numbers_of_the_paper():
    for task, table, num_rows, label, epochs, metric, value in SPOTS:
        rows = [row for row in PUBLISHED.of_task(task) if row.table == table]
        assert len(rows) == num_rows, (task, table)
        (row,) = [row for row in rows if (row.label, row.epochs) == (label, epochs)]
        assert row.metrics[metric] == value, (task, label)
    assert PUBLISHED.of_task("pascal_context") == []
    (row,) = [row for row in FPN if row.method == "self_emd"]
    assert set(row.metrics) == {"bbox.AP", "bbox.AP50", "bbox.AP75"}


def test_values_are_consistent():
    for row in PUBLISHED.rows:
        for kind in {metric.partition(".")[0] for metric in row.metrics}:
            ap50 = row.metrics.get(f"{kind}.AP50", 100)
            assert 0 < row.metrics.get(f"{kind}.AP", 1.0) < ap50
    (main,) = [row for row in FPN if (row.table, row.method, row.epochs) == ("1", "mls", 400)]
    again = [row for row in FPN if row.table != "1" and row.config == main.config]
    assert len(again) == 3
    for row in again:
        assert {metric: main.metrics[metric] for metric in row.metrics} == row.metrics
    base = [row for row in FPN if row.label == "InfoNCE only"]
    assert [row.method for row in base] == ["mls", "mocov2"]
    assert base[0].metrics == base[1].metrics


def published_configs():
    """Return the configs of published length by task; if there are several, the shortest."""
    configs = {}
    for path in sorted((REPOSITORY / "transfer_configs").glob("*/*.yaml")):
        cfg = load_cfg(str(path))
        if cfg.PRESET != "paper" or path.name == "base.yaml":
            continue
        task = task_of(cfg).name(cfg)
        if task not in configs or cfg.SOLVER.MAX_ITER < configs[task].SOLVER.MAX_ITER:
            configs[task] = cfg
    return configs


def test_every_task_of_the_tables_has_the_length_and_the_images_of_its_config():
    configs = published_configs()
    tasks = {row.task for row in PUBLISHED.rows}
    assert set(PUBLISHED.protocols) == tasks
    for task in tasks:
        cfg, protocol = configs[task], PUBLISHED.protocols[task]
        lengths = (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH)
        assert (protocol.iterations, protocol.batch) == lengths, task
        if cfg.DATASETS.TRAIN[0].rpartition("_")[0] in DATASETS:
            (train,), (test,) = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
            splits = [(find(name)[2], find(name)[1]) for name in (train, test)]
            assert protocol.images == tuple(data.splits[split] for data, split in splits), task


def find_row(method, info, transfer=None, task="coco_mask_rcnn_fpn", **config):
    """Return table and box AP of the row for a backbone with that pretraining config."""
    info = {**info, "config": yaml.safe_dump(config)} if config else info
    backbone = InitialWeights(file="b.pth", sha256="ab", info=info)
    row = matching_row(PUBLISHED.of_task(task), method, backbone, yaml.safe_dump(transfer or {}))
    return row and (row.table, next(iter(row.metrics.values())))


@pytest.mark.parametrize(
    ("method", "info"),
    [
        ("simsiam", COCO_400),
        ("mls", {**COCO_400, "epochs": 200}),
        ("mls", {**COCO_400, "dataset": ["coco_2017_train", "coco_2017_unlabeled"]}),
        ("mls", {}),
        ("random", COCO_400),
    ],
)
def test_no_row_matches_other_pretraining(method, info):
    assert find_row("mls", COCO_400) == ("1", 40.1)
    assert find_row(method, info) is None
    assert find_row("random", {}, task="coco_mask_rcnn_c4") == ("2", 26.4)
    assert find_row("random", COCO_400, task="coco_mask_rcnn_c4") is None


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"MLS": {"K": 20, "LOSS": "bce", "LAMBDA": 0.5}}, ("1", 40.1)),
        ({"MLS": {"K": 20.0, "WARMUP": 0}}, ("1", 40.1)),
        ({"MLS": {"K": 20, "LOSS": "none"}}, ("6", 38.8)),
        ({"MLS": {"K": 20, "LOSS": "knn"}}, ("6", 39.1)),
        ({"MLS": {"DICTIONARIES": "g"}}, ("7", 39.5)),
        ({"MLS": {"K": 5}}, ("8", 40.0)),
        ({"MLS": {"K": 7}}, None),
        ({"MLS": {"LAMBDA": 1.0}}, None),
        ({"MOCO": {"DICTIONARY_SIZE": 1024}}, None),
        ({"PRETRAIN": {"AUGMENT": {"CROP_SIZE": 64}}}, None),
    ],
)
def test_an_ablation_matches_its_own_row_and_another_recipe_none(config, found):
    assert find_row("mls", COCO_400, **config) == found


@pytest.mark.parametrize(
    ("epochs", "config", "found"),
    [
        (800, FIELD_MOCO, ("1", 38.5)),
        (400, PAPER_MOCO, ("6", 38.8)),
        (800, PAPER_MOCO, None),
        (400, FIELD_MOCO, None),
    ],
)
def test_mocov2_of_the_field_and_the_baseline_of_the_paper_are_apart(epochs, config, found):
    info = {**COCO_400, "epochs": epochs}
    assert find_row("mocov2", info, MOCO=config) == found


def test_our_configs_match_the_rows_that_they_are_made_for():
    for name, found in {"mls": ("1", 40.1), "mocov2": ("6", 38.8)}.items():
        config = (REPOSITORY / "pretrain" / "configs" / f"{name}_coco_400ep.yaml").read_text()
        info = {**COCO_400, "config": config}
        assert find_row(name, info) == found


@pytest.mark.parametrize(
    ("method", "data", "epochs", "config", "found"),
    [
        ("slotcon", "coco_2017_train", 800, {"SLOTCON": {"NUM_PROTOTYPES": 256}}, 41.0),
        ("slotcon", "coco_2017_train", 800, {"SLOTCON": {"NUM_PROTOTYPES": 2048}}, None),
        ("slotcon", "coco_2017_train", 400, {}, None),
        ("slotcon", "imagenet-1k", 100, {}, 41.4),
        ("slotcon", "imagenet-1k", 200, {"SLOTCON": {"NUM_PROTOTYPES": 2048}}, 41.8),
        ("pixpro", "imagenet-1k", 100, {}, 40.8),
        ("pixpro", "imagenet-1k", 100, {"PIXPRO": {"INSTANCE_WEIGHT": 1.0}}, None),
        ("pixpro", "imagenet-1k", 400, {}, None),
        ("pixpro", "coco_2017_train", 800, {}, None),
    ],
)
def test_dense_methods_are_compared_with_their_own_recipe_alone(
    method, data, epochs, config, found
):
    info = {"dataset": [data], "epochs": epochs}
    row = find_row(method, info, HEAD_4CONV, **config)
    assert row == (found and ("of results", found))
    two_fc = {"MODEL": {"ROI_BOX_HEAD": {"NUM_CONV": 0, "NUM_FC": 2}}}
    assert find_row(method, info, two_fc, **config) is None
    if method == "pixpro" and data == "imagenet-1k":
        c4 = find_row(method, info, task="coco_mask_rcnn_c4", **config)
        alone = {} if config else {100: ("of results", 40.0), 400: ("of results", 40.5)}
        assert c4 == alone.get(epochs)


def test_supervised_numbers_are_those_of_the_same_box_head():
    imagenet = {"dataset": "imagenet-1k", "epochs": 90}
    two_fc = {"MODEL": {"ROI_BOX_HEAD": {"NUM_CONV": 0, "NUM_FC": 2}}}
    assert find_row("supervised", imagenet, two_fc) == ("1", 38.9)
    assert find_row("supervised", imagenet, HEAD_4CONV) == ("of results", 39.7)


def reason_of(result, published=PUBLISHED) -> str:
    assert published_beside(result, published) is None
    return why_not_compared(result, published)


def shorter(**solver):
    return yaml.safe_dump({"SOLVER": {"MAX_ITER": 90000, "IMS_PER_BATCH": 16, **solver}})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"preset": "quick"}, "shortened schedule"),
        ({"preset": "onegpu"}, "shortened schedule"),
        ({"preset": "custom"}, "preset custom, not the published recipe"),
        ({"config": shorter(MAX_ITER=9000)}, "9000 iterations of 16 images instead of 90000 of 16"),
        ({"config": shorter(IMS_PER_BATCH=8)}, "90000 iterations of 8 images instead of 90000"),
        ({"task": "lvis"}, "there are none for task lvis"),
        ({"method": "simsiam"}, "none for simsiam on coco_mask_rcnn_fpn, only for supervised"),
        ({"info": {**COCO_400, "epochs": 7}}, "mls is published there with other pretraining (COC"),
        ({"info": {**COCO_400, "synthetic": True}}, "backbone pretrained on synthetic scenes"),
        ({"info": {**COCO_400, "preset": "custom"}}, "backbone pretrained with preset custom"),
        ({"info": {**COCO_400, "preset": "quick"}}, "backbone pretrained with preset quick"),
        ({"info": {**COCO_400, "preset": "onegpu"}}, "backbone pretrained with preset onegpu"),
        ({"info": {**COCO_400, "config": "MLS: {K: 7}"}}, "another recipe (MLS.K 7 instead of 20)"),
        ({"info": {"method": "mls"}}, "its file does not state what it was pretrained on"),
        ({"method": "simsiam", "info": {"method": "x"}}, "none for simsiam"),
    ],
)
def test_a_result_that_is_not_comparable_has_a_reason(make_paper_result, fields, reason):
    assert reason in reason_of(make_paper_result(**fields))


def test_other_data_and_rows_without_data_have_a_reason(make_paper_result):
    dataset = make_paper_result().dataset
    few = msgspec.structs.replace(dataset, num_images=21)
    assert "another dataset, 21 images instead of 118287 or 5000" in reason_of(
        make_paper_result(dataset=few)
    )
    scenes = msgspec.structs.replace(dataset, synthetic=True)
    assert reason_of(make_paper_result(dataset=scenes)).endswith("synthetic scenes")
    other = Published((msgspec.structs.replace(FPN[0], method="random"),), {})
    reason = reason_of(make_paper_result("random"), other)
    assert reason.startswith("random is published there with other pretraining (ImageNet")


@pytest.mark.parametrize("preset", [None, "paper"])
def test_the_published_pretraining_on_half_the_gpus_is_comparable(make_paper_result, preset):
    info = COCO_400 if preset is None else {**COCO_400, "preset": preset}
    result = make_paper_result(config=shorter(MAX_ITER=180000, IMS_PER_BATCH=8), info=info)
    row = published_beside(result, PUBLISHED)
    assert row is not None
    assert row.metrics["bbox.AP"] == 40.1


ROW = {"method": "mls", "data": "Own", "epochs": 3, "values": [1.5, None]}
TABLE = {"table": "A", "title": "Ours", "columns": ["lvis/bbox.AP", "lvis/segm.AP"], "rows": [ROW]}


def own_file(**changes):
    return {"source": "A paper", "datasets": {"Own": "My_Data"}, "tables": [TABLE], **changes}


def with_row(**changes):
    return own_file(tables=[{**TABLE, "rows": [{**ROW, **changes}]}])


def test_a_users_file_is_added_behind_ours(tmp_path):
    path = tmp_path / "own.yaml"
    tasks = {"lvis": {"iterations": 10, "batch": 2, "images": [7]}}
    path.write_text(yaml.safe_dump(own_file(tasks=tasks)))
    published = load_published([path])
    (row,) = published.of_task("lvis")
    assert (row.label, row.metrics, row.dataset) == ("mls", {"bbox.AP": 1.5}, "my_data")
    assert (row.table, row.source, row.pretraining) == ("A", "A paper", "Own, 3 epochs")
    assert published.protocols["lvis"].iterations == 10
    assert published.rows[:-1] == PUBLISHED.rows


@pytest.mark.parametrize(
    ("document", "code", "place"),
    [
        ([1], "bad-value", "Expected `object`, got `array`"),
        ({"tables": []}, "bad-value", "missing required field `source`"),
        (own_file(sources="x"), "bad-value", "field `sources`; did you mean 'source'"),
        (own_file(tables={}), "bad-value", "Expected `array`, got `object` - at `$.tables`"),
        (own_file(tables=[{"table": 1}]), "bad-value", "field `title` - at `$.tables[0]`"),
        (own_file(tasks={"lvis": {"iterations": 1}}), "bad-value", "`batch` - at `$.tasks[...]`"),
        (own_file(configs={"mls": 3}), "bad-value", "got `int` - at `$.configs[...]`"),
        (own_file(tables=[{**TABLE, "columns": ["lvis", "lvis/segm.AP"]}]), "bad-value", "columns"),
        (with_row(data="Owm"), "unknown-name", "table A, row 1: data 'Owm' is not listed"),
        (with_row(values=[1.5]), "bad-value", "table A, row 1: 1 values for 2 columns"),
        (with_row(values=[1.5, 101]), "bad-value", "<= 100.0 - at `$.tables[0].rows[0].values[1]`"),
        (with_row(values=[1.5, float("nan")]), "bad-value", "`$.tables[0].rows[0].values[1]`"),
        (with_row(values=[1.5, "x"]), "bad-value", "Expected `float | null`, got `str`"),
        (with_row(values=[True, 1]), "bad-value", "got `bool`"),
        (with_row(method=5), "bad-value", "Expected `str`, got `int`"),
        (with_row(epoch=3), "bad-value", "field `epoch`"),
        ("a: [", "damaged-file", "not readable YAML"),
        (b"\xff\xfe\x00", "missing-file", "cannot read published numbers"),
        (None, "missing-file", "cannot read published numbers"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, refuses, document, code, place):
    path = tmp_path / "own.yaml"
    if isinstance(document, bytes):
        path.write_bytes(document)
    elif document is not None:
        path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    with refuses(code, place, str(path)):
        load_published([path])


def test_the_example_in_the_documentation_is_valid(tmp_path):
    page = REPOSITORY / "docs" / "report.md"
    (example,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "own.yaml").write_text(example)
    rows = load_published([tmp_path / "own.yaml"]).rows[-2:]
    assert [(row.label, row.config, dict(row.metrics)) for row in rows] == [
        ("MLS", {"MLS.K": 20}, {"bbox.AP": 40.1}),
        ("k = 5", {"MLS.K": 5}, {"bbox.AP": 40.0, "segm.AP": 36.1}),
    ]
