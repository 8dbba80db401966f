"""A published recipe that options change is no longer a published recipe."""

from pathlib import Path

import pytest

from mls_d2.config.loading import load_cfg
from mls_d2.config.preset import mark_changed_recipe

CONFIGS = Path(__file__).resolve().parents[3] / "transfer_configs"
PAPER = str(CONFIGS / "voc" / "faster_rcnn_R_50_C4_24k.yaml")
QUICK = str(CONFIGS / "voc" / "faster_rcnn_R_50_C4_quick.yaml")

COCO = str(CONFIGS / "coco" / "mask_rcnn_R_50_FPN_1x.yaml")
BIRDS = str(CONFIGS / "classification" / "cub200_finetune.yaml")


def preset_with(*opts, file=PAPER):
    cfg = load_cfg(file, opts)
    mark_changed_recipe(cfg, load_cfg(file))
    return cfg.PRESET


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("SEED", "3", "OUTPUT_DIR", "o", "MODEL.WEIGHTS", "b.pth", "MODEL.DEVICE", "cpu"),
        ("SOLVER.CHECKPOINT_PERIOD", "10", "TEST.EVAL_PERIOD", "10", "DATALOADER.NUM_WORKERS", "1"),
        ("SOLVER.MAX_ITER", "24000"),
        ("INPUT.FORMAT", "BGR"),
    ],
)
def test_what_does_not_change_the_recipe_leaves_it_the_papers(opts):
    assert preset_with(*opts) == "paper"


@pytest.mark.parametrize(
    ("file", "opts"),
    [
        (PAPER, ("SOLVER.MAX_ITER", "100")),
        (PAPER, ("SOLVER.BASE_LR", "0.1", "PRESET", "paper")),
        (PAPER, ("DATASETS.TEST", "('voc_2007_val',)")),
        (PAPER, ("MODEL.BACKBONE.FREEZE_AT", "2")),
        (PAPER, ("TEST.PRECISE_BN.ENABLED", "False")),
        (COCO, ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False")),
        (BIRDS, ("CLASSIFICATION.CROP_SIZE", "448")),
    ],
)
def test_what_changes_it_makes_it_a_recipe_of_ones_own(file, opts, caplog):
    assert preset_with(*opts, file=file) == "custom"
    assert f"{opts[0]} differ from the recipe" in caplog.text


def test_other_presets_stay():
    assert preset_with("SOLVER.MAX_ITER", "9", file=QUICK) == "quick"
