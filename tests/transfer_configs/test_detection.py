"""Detection configs: the values of the recipes that the field publishes, and a run of each."""

import math

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc

from mls_d2.config.loading import load_cfg
from mls_d2.config.rules import value_at
from mls_d2.results.schema import read_result
from mls_d2.run.registration import register_all
from mls_d2.transfer import detection
from mls_d2.transfer.run import run_transfer
from mls_d2.transfer.tasks import task_of
from tests.conftest import few
from tests.mls_d2.conftest import NARROW_DETECTOR, REPOSITORY, forget, load_with

CONFIGS = REPOSITORY / "transfer_configs"
EVERY = sorted(
    str(path.relative_to(CONFIGS))
    for name in ("coco", "voc")
    for path in (CONFIGS / name).glob("*.yaml")
)

# Every published recipe here: Detectron2's key, and its value in the recipes of the field.
COMMON = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.NORM": "SyncBN", "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53], "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB", "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.RANDOM_FLIP": "horizontal", "SOLVER.MOMENTUM": 0.9, "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.WARMUP_METHOD": "linear", "SOLVER.GAMMA": 0.1, "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.AMP.ENABLED": False, "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512, "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.AUG.ENABLED": False, "INPUT.MAX_SIZE_TRAIN": 1333, "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333, "SOLVER.IMS_PER_BATCH": 16, "SOLVER.REFERENCE_WORLD_SIZE": 8,
    "SOLVER.BASE_LR": 0.02, "SOLVER.NESTEROV": False, "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WARMUP_FACTOR": 1e-3, "TEST.PRECISE_BN.ENABLED": True, "TEST.PRECISE_BN.NUM_ITER": 200,
}  # fmt: skip
COCO = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
    "INPUT.MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800),
    "SOLVER.STEPS": (60000, 80000),
    "SOLVER.MAX_ITER": 90000,
    "SOLVER.WARMUP_ITERS": 1000,
}
TWICE = {"SOLVER.STEPS": (120000, 160000), "SOLVER.MAX_ITER": 180000}
FPN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 256,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.NORM": "SyncBN",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
PLAIN_HEADS = {
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.NORM": "",
    "MODEL.ROI_MASK_HEAD.NORM": "",
}
C4 = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm", "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.RPN.IN_FEATURES": ["res4"], "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000, "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 0, "MODEL.ROI_MASK_HEAD.CONV_DIM": 256,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}  # fmt: skip
VOC = C4 | {
    "MODEL.MASK_ON": False,
    "MODEL.ROI_HEADS.NUM_CLASSES": 20,
    "DATASETS.TRAIN": ("voc_2007_trainval", "voc_2012_trainval"),
    "DATASETS.TEST": ("voc_2007_test",),
    "INPUT.MIN_SIZE_TRAIN": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    "SOLVER.STEPS": (18000, 22000),
    "SOLVER.MAX_ITER": 24000,
    "SOLVER.WARMUP_ITERS": 100,
}
LARS = {"SOLVER.BASE_LR": 0.1, "SOLVER.WARMUP_ITERS": 1000, "SOLVER.WARMUP_FACTOR": 0.333}
RECIPES = {
    "coco/mask_rcnn_R_50_FPN_1x.yaml": ("paper", COCO | FPN),
    "coco/mask_rcnn_R_50_FPN_2x.yaml": ("custom", COCO | FPN | TWICE),
    "coco/mask_rcnn_R_50_FPN_1x_2fc.yaml": ("custom", COCO | FPN | PLAIN_HEADS),
    "coco/mask_rcnn_R_50_C4_1x.yaml": ("paper", COCO | C4),
    "coco/mask_rcnn_R_50_C4_2x.yaml": ("custom", COCO | C4 | TWICE),
    "voc/faster_rcnn_R_50_C4_24k.yaml": ("paper", VOC),
    "voc/faster_rcnn_R_50_C4_24k_lars.yaml": ("custom", VOC | LARS),
}
# What a quick config shares with its recipe: all that is not size, length or learning rate.
SHARED = (
    *("MODEL.META_ARCHITECTURE", "MODEL.MASK_ON", "MODEL.BACKBONE.NAME"),
    "MODEL.BACKBONE.FREEZE_AT",
    *("MODEL.RESNETS.DEPTH", "MODEL.RESNETS.NORM", "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.FPN.NORM"),
    *("MODEL.ROI_HEADS.NAME", "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ROI_BOX_HEAD.NORM"),
    *("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT", "DATASETS.TRAIN", "DATASETS.TEST"),
    *("SOLVER.WEIGHT_DECAY", "SOLVER.MOMENTUM", "TEST.PRECISE_BN.ENABLED"),
)
QUICK = {
    "coco/mask_rcnn_R_50_FPN_quick.yaml": "coco/mask_rcnn_R_50_FPN_1x.yaml",
    "coco/mask_rcnn_R_50_C4_quick.yaml": "coco/mask_rcnn_R_50_C4_1x.yaml",
    "voc/faster_rcnn_R_50_C4_quick.yaml": "voc/faster_rcnn_R_50_C4_24k.yaml",
}


def test_every_config_is_looked_at_here():
    assert sorted([*RECIPES, *QUICK]) == EVERY


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_values_of_the_field(name):
    preset, values = RECIPES[name]
    cfg = load_cfg(str(CONFIGS / name))
    expected = {"PRESET": preset, "SEED": 0} | COMMON | values
    assert {key: value_at(cfg, key) for key in expected} == expected


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_config_differs_in_size_and_length(name):
    quick, paper = (load_cfg(str(CONFIGS / item)) for item in (name, QUICK[name]))
    assert (quick.PRESET, quick.SOLVER.MAX_ITER < 2000) == ("quick", True)
    same = {key: value_at(paper, key) for key in SHARED}
    assert {key: value_at(quick, key) for key in SHARED} == same


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("coco/mask_rcnn_R_50_FPN_1x.yaml", "coco_mask_rcnn_fpn"),
        ("coco/mask_rcnn_R_50_C4_1x.yaml", "coco_mask_rcnn_c4"),
        ("voc/faster_rcnn_R_50_C4_24k.yaml", "voc_faster_rcnn_c4"),
    ],
)
def test_the_task_is_called_as_in_the_published_tables(name, task):
    cfg = load_cfg(str(CONFIGS / name))
    assert task_of(cfg).name(cfg) == task


@pytest.fixture(scope="module")
def tiny_scenes(scenes_root):
    """Names of registered tiny scenes, by the builtin name that the configs have instead."""
    register_all()
    names = {}
    for split in ("train", "val"):
        name = names[f"coco_2017_{split}"] = f"tiny_coco_{split}"
        classes = {"thing_classes": MetadataCatalog.get(f"coco_2017_{split}").thing_classes}
        annotations = scenes_root / "coco" / "annotations" / f"instances_{split}2017.json"
        images = scenes_root / "coco" / f"{split}2017"
        register_coco_instances(name, classes, str(annotations), str(images))
    for year, split in ((2007, "trainval"), (2007, "test"), (2012, "trainval")):
        name = names[f"voc_{year}_{split}"] = f"tiny_voc_{year}_{split}"
        register_pascal_voc(name, str(scenes_root / f"VOC{year}"), split, year)
        MetadataCatalog.get(name).evaluator_type = "pascal_voc"
    yield names
    forget(names.values())


TINY = NARROW_DETECTOR | {
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 4,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 4,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "SOLVER.MAX_ITER": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", few(EVERY, *QUICK))
def test_every_config_trains_and_evaluates(name, tiny_scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "write_detections", lambda *_: None)
    given = load_cfg(str(CONFIGS / name))
    data = {
        f"DATASETS.{part}": tuple(tiny_scenes[item] for item in given.DATASETS[part])
        for part in ("TRAIN", "TEST")
    }
    opts = TINY | data | {"OUTPUT_DIR": tmp_path / "run"}
    run_transfer(load_with(CONFIGS / name, opts))
    result = read_result(tmp_path / "run" / "results.json")
    kinds = {"bbox", "segm"} if name.startswith("coco/") else {"bbox"}
    assert set(result.metrics) == kinds
    for kind in kinds:
        assert 0 <= result.metrics[kind]["AP"] <= result.metrics[kind]["AP50"] <= 100
        assert math.isfinite(result.metrics[kind]["AP-person"])
