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
from tests.mls_d2.conftest import NARROW, REPOSITORY, draw_split, forget, load_with

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


def test_own_categories_in_cocos_layout_are_learnt(tmp_path, make_cfg, monkeypatch):
    monkeypatch.setattr(detection, "write_detections", lambda *_: None)
    names = ("own_train", "own_val")
    for name in names:
        draw_split(tmp_path / name, 3, seed=1)
        path = tmp_path / name / "instances.json"
        content = json.loads(path.read_text())
        content["categories"].append({"id": 9, "name": "never there"})
        path.write_text(json.dumps(content))
        register_coco(name, path, tmp_path / name / "images")
    cfg = make_cfg("DATASETS.TRAIN", "('own_train',)", "DATASETS.TEST", "('own_val',)",
                   "MODEL.ROI_HEADS.NUM_CLASSES", 3)  # fmt: skip
    try:
        run_transfer(cfg)
    finally:
        forget(names)
    metrics = read_result(Path(cfg.OUTPUT_DIR) / "results.json").metrics
    assert {f"AP-{name}" for name in ("blue", "green", "never there")} <= metrics["segm"].keys()


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
@pytest.mark.parametrize("change", [["green", "blue"], ["blue", "red"], ["blue"]], ids=str)
def test_datasets_with_different_categories_are_refused(
    tmp_path, make_cfg, refuses, monkeypatch, key, change
):
    monkeypatch.setattr(detection, "check_evaluation", lambda *_, **__: None)
    for name, classes in (("own_train", ["blue", "green"]), ("own_val", change)):
        content = {"images": [{"id": 1, "file_name": "a", "width": 9, "height": 9}]}
        content["categories"] = [{"id": i, "name": name} for i, name in enumerate(classes)]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content | {"annotations": []}))
        register_coco(name, path, tmp_path)
    cfg = make_cfg("DATASETS.TRAIN", "('own_train',)", "DATASETS.TEST", "('own_train',)")
    Detection().check(cfg)
    cfg.DATASETS[key] = ("own_train", "own_val")
    try:
        with refuses("bad-value") as caught:
            Detection().check(cfg)
    finally:
        forget(["own_train", "own_val"])
    assert "'own_train' and 'own_val' have different categories" in str(caught.value)


def test_a_test_set_without_an_evaluator_is_refused_before_training(make_cfg, refuses):
    cfg = make_cfg()
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    kind = metadata.__dict__.pop("evaluator_type")
    try:
        with refuses("no-evaluator"):
            Detection().check(cfg)
    finally:
        metadata.evaluator_type = kind
