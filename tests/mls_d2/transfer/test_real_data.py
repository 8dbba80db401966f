"""Two detection steps and an evaluation on real pictures with a whole ResNet-50."""

import math

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mls_d2.results.schema import read_result
from mls_d2.transfer.run import run_transfer
from tests.mls_d2.conftest import REPOSITORY, load_with

RECIPE = REPOSITORY / "transfer_configs" / "coco" / "mask_rcnn_R_50_FPN_1x.yaml"


@pytest.fixture
def real_coco(real_coco_root):
    """The names of the sample's training and test sets, registered as Detectron2 does."""
    names = []
    for split in ("train", "val"):
        name = f"real_{split}"
        metadata = MetadataCatalog.get(f"coco_2017_{split}")
        known = {"thing_classes": metadata.thing_classes}
        annotations = real_coco_root / "coco" / "annotations" / f"instances_{split}2017.json"
        images = real_coco_root / "coco" / f"{split}2017"
        register_coco_instances(name, known, str(annotations), str(images))
        names.append(name)
    return names


@pytest.mark.slow
@pytest.mark.real_data
def test_the_papers_recipe_trains_and_evaluates_on_real_coco(real_coco, tmp_path):
    train, test = real_coco
    small = {
        "MODEL.WEIGHTS": "random",
        "DATASETS.TRAIN": f"('{train}',)",
        "DATASETS.TEST": f"('{test}',)",
        "INPUT.MIN_SIZE_TRAIN": "(96,)",
        "INPUT.MIN_SIZE_TEST": 96,
        "INPUT.MAX_SIZE_TEST": 160,
        "INPUT.MAX_SIZE_TRAIN": 160,
        "SOLVER.REFERENCE_WORLD_SIZE": 0,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
        "DATALOADER.NUM_WORKERS": 0,
        "TEST.PRECISE_BN.NUM_ITER": 1,
        "OUTPUT_DIR": tmp_path / "run",
    }
    cfg = load_with(RECIPE, small)
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS) == (50, 256)
    run_transfer(cfg)
    result = read_result(tmp_path / "run" / "results.json")
    assert result.dataset.num_images == 64
    assert not result.dataset.synthetic
    for task in ("bbox", "segm"):
        # Two steps from random weights find nothing, but the ground truth was read.
        assert 0 <= result.metrics[task]["AP"] < 5
        assert math.isfinite(result.metrics[task]["AP-person"])
    assert (tmp_path / "run" / "predictions.png").exists()
