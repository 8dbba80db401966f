"""Custom datasets: COCO's layout with other categories, and one folder per class."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from mls_d2.data.datasets import register_coco
from mls_d2.results.schema import read_result
from mls_d2.transfer import classification, detection
from mls_d2.transfer.detection import Detection
from mls_d2.transfer.run import run_transfer
from tests.mls_d2.conftest import NARROW, REPOSITORY, draw_split, load_with

CONFIGS = REPOSITORY / "transfer_configs" / "classification"
THREE_CLASSES = NARROW | {
    "CLASSIFICATION.CROP_SIZE": 64,
    "CLASSIFICATION.RESIZE": 64,
    "SOLVER.IMS_PER_BATCH": 4,
    "MODEL.DEVICE": "cpu",
    "MODEL.CLASSIFIER.NUM_CLASSES": 3,
    "MODEL.CLASSIFIER.MULTI_LABEL": False,
}


@pytest.mark.parametrize(
    ("config", "opts"),
    [
        ("cub200_finetune", {"SOLVER.MAX_ITER": 2}),
        pytest.param("scenes_objects_linear", {"SOLVER.MAX_ITER": 2}, marks=pytest.mark.full),
        ("voc2007_svm", {"MODEL.CLASSIFIER.POOL_SIZE": 1, "MODEL.CLASSIFIER.SVM_COSTS": (1.0,)}),
        ("voc2007_knn", {"MODEL.CLASSIFIER.KNN_K": 3}),
    ],
)
def test_folders_of_classes_are_learnt_by_every_protocol(tmp_path, monkeypatch, config, opts):
    monkeypatch.setattr(classification, "write_classifications", lambda *_: None)
    for split, number in (("train", 4), ("val", 2)):
        for label, name in enumerate(("blue", "green", "red")):
            folder = tmp_path / "colours" / split / name
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = np.random.default_rng(index).integers(0, 60, (70, 70, 3), np.uint8)
                pixels[..., 2 - label] += 150
                Image.fromarray(pixels).save(folder / f"{index}.png")
    names = {
        f"DATASETS.{key}": f"('folder:{tmp_path}/colours/{split}',)"
        for key, split in (("TRAIN", "train"), ("TEST", "val"))
    }
    values = THREE_CLASSES | names | opts | {"OUTPUT_DIR": tmp_path / "run"}
    run_transfer(load_with(CONFIGS / f"{config}.yaml", values))
    result = read_result(tmp_path / "run" / "results.json")
    assert result.task == f"colours_{config.rpartition('_')[2]}"
    assert result.dataset.num_images == 12
    top1 = result.metrics["classification"]["top1"]
    assert top1 == 100 if config.startswith("voc2007") else 0 <= top1 <= 100


@pytest.fixture
def own_cfg(tmp_path, make_cfg, monkeypatch):
    """The config of two datasets with three categories; their files are below ``tmp_path``."""
    monkeypatch.setattr(detection, "write_detections", lambda *_: None)
    for name in ("own_train", "own_val"):
        draw_split(tmp_path / name, 3, seed=1)
        path = tmp_path / name / "instances.json"
        content = json.loads(path.read_text())
        content["categories"].append({"id": 9, "name": "never there"})
        path.write_text(json.dumps(content))
        register_coco(name, path, tmp_path / name / "images")
    return make_cfg("DATASETS.TRAIN", "('own_train',)", "DATASETS.TEST", "('own_val',)",
                   "MODEL.ROI_HEADS.NUM_CLASSES", 3)  # fmt: skip


def test_own_categories_in_cocos_layout_are_learnt(own_cfg):
    run_transfer(own_cfg)
    metrics = read_result(Path(own_cfg.OUTPUT_DIR) / "results.json").metrics
    assert {f"AP-{name}" for name in ("blue", "green", "never there")} <= metrics["segm"].keys()


OTHERS = {
    "another name": lambda categories: categories[1].update(name="Green"),
    "another order": lambda categories: categories[2].update(id=0),
    "one less": lambda categories: categories.pop(),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_other_classes_in_the_test_set_are_refused(own_cfg, tmp_path, refuses, change):
    path = tmp_path / "own_val" / "instances.json"
    content = json.loads(path.read_text())
    change(content["categories"])
    path.write_text(json.dumps(content))
    with refuses("other-classes", "'own_train' and 'own_val' have different classes"):
        run_transfer(own_cfg)
    assert not Path(own_cfg.OUTPUT_DIR).exists()


def test_a_test_set_without_an_evaluator_is_refused_before_training(make_cfg, refuses):
    cfg = make_cfg()
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    kind = metadata.__dict__.pop("evaluator_type")
    try:
        with refuses("no-evaluator"):
            Detection().check(cfg)
    finally:
        metadata.evaluator_type = kind
