"""The cost of fine-tuning beside published figures, and of every config."""

from pathlib import Path

import pytest

from mls_d2.run.cost import GB, GPUS
from mls_d2.run.registration import register_all
from mls_d2.transfer.cost import transfer_cost
from tests.conftest import few
from tests.mls_d2.conftest import load_with

CONFIGS = Path(__file__).resolve().parents[3] / "transfer_configs"
V100 = GPUS[0]
# What differs in Detectron2's own recipes, of which its model zoo gives times and memory.
FROZEN = {"MODEL.RESNETS.NORM": "FrozenBN", "MODEL.BACKBONE.FREEZE_AT": 2}
FPN = FROZEN | {
    "MODEL.FPN.NORM": "",
    "MODEL.ROI_BOX_HEAD.NORM": "",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_MASK_HEAD.NORM": "",
}
C4 = FROZEN | {"MODEL.ROI_HEADS.NAME": "Res5ROIHeads"}
# Few operators, which is what takes the time of a count.
SHALLOW = {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
KINDS = ["coco/mask_rcnn_R_50_FPN", "coco/mask_rcnn_R_50_C4", "cityscapes/pspnet_R_50"]
KINDS += ["cityscapes/psanet_R_50", *(f"classification/voc2007_{n}" for n in ("linear", "svm"))]
KINDS += ["classification/voc2007_finetune"]


@pytest.fixture(autouse=True)
def _registered():
    register_all()


def cost(config, num_gpus=1, **changes):
    return transfer_cost(load_with(CONFIGS / config, changes), num_gpus)


@pytest.mark.parametrize(
    ("config", "changes", "seconds", "gigabytes"),
    [
        ("coco/mask_rcnn_R_50_FPN_1x.yaml", FPN, 0.261, 3.4),
        pytest.param("coco/mask_rcnn_R_50_C4_1x.yaml", C4, 0.584, 5.2, marks=pytest.mark.full),
        ("voc/faster_rcnn_R_50_C4_24k.yaml", C4, 0.537, 4.8),
    ],
)
def test_time_and_memory_of_the_model_zoo(config, changes, seconds, gigabytes):
    found = cost(config, 8, **changes)
    assert found.step.images == 2
    assert 1.05 < found.step.seconds(V100) / seconds < 1.3
    assert found.step.memory / GB == pytest.approx(gigabytes, rel=0.12)


def test_a_mask_head_costs_its_convolutions_for_a_quarter_of_the_regions():
    name = "coco/mask_rcnn_R_50_FPN_quick.yaml"
    channels = SHALLOW | {"MODEL.ROI_MASK_HEAD.CONV_DIM": 16, "MODEL.ROI_MASK_HEAD.NUM_CONV": 2}
    channels |= {"MODEL.FPN.OUT_CHANNELS": 16, "MODEL.ROI_HEADS.NUM_CLASSES": 3}
    changes = channels | {"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16, "SOLVER.IMS_PER_BATCH": 2}
    with_masks, without = (cost(name, **changes, **{"MODEL.MASK_ON": on}) for on in (True, False))
    positive = 2 * 4
    products = 2 * 16 * 16 * 9 * 14 * 14 + 16 * 16 * 4 * 14 * 14 + 16 * 3 * 28 * 28
    assert with_masks.step.flops - without.step.flops == 3 * 2 * positive * products


def test_processes_share_the_batch_and_fewer_of_them_take_more_steps():
    name = "coco/mask_rcnn_R_50_FPN_quick.yaml"
    scaled = SHALLOW | {
        "SOLVER.REFERENCE_WORLD_SIZE": 4,
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.MAX_ITER": 100,
    }
    scaled |= {"SOLVER.STEPS": "()"}
    four, two = (cost(name, gpus, **scaled) for gpus in (4, 2))
    assert (four.steps, two.steps) == (100, 200)
    assert four.step.images == two.step.images == 2
    assert four.num_gpus == 4
    assert "SOLVER.IMS_PER_BATCH (8" in four.relief
    # 100 steps with a checkpoint every 40: two of them, and the final one.
    found = cost(name, 4, **scaled, **{"SOLVER.CHECKPOINT_PERIOD": 40})
    assert found.disk == 3 * (found.step.weights + found.step.optimizer)


def test_time_is_that_of_the_mean_size_and_memory_that_of_the_largest():
    name, sizes = "coco/mask_rcnn_R_50_FPN_quick.yaml", SHALLOW | {"INPUT.MAX_SIZE_TRAIN": 256}
    both = cost(name, **sizes, **{"INPUT.MIN_SIZE_TRAIN": "(64, 192)"})
    mean = cost(name, **sizes, **{"INPUT.MIN_SIZE_TRAIN": "(128,)"})
    largest = cost(name, **sizes, **{"INPUT.MIN_SIZE_TRAIN": "(192,)"})
    assert both.step.flops == mean.step.flops
    assert both.step.memory == largest.step.memory > mean.step.memory


@pytest.mark.parametrize("kind", few(KINDS, KINDS[2], KINDS[4], KINDS[5]))
def test_every_kind_of_config_can_be_counted(kind):
    found = cost(f"{kind}_quick.yaml")
    assert (found.step is not None) == ("svm" not in kind)
    if found.step is not None:
        assert found.step.flops > 0
        assert (found.step.gradients < found.step.weights / 10) == ("linear" in kind)
