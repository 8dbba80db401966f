"""The cost of pretraining beside a published figure, and of every method."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone

from mls_d2.config.loading import load_cfg
from mls_d2.run.cost import GPUS, measure_step
from mls_d2.scenes.marker import SceneParams, write_marker
from pretrain.cost import checkpoints, count_images, pretrain_cost
from pretrain.methods import METHODS
from tests.conftest import few

# Few operators, which is what takes the time of a count.
SHALLOW = {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
CONFIGS = Path(__file__).resolve().parents[2] / "pretrain/configs"


@pytest.fixture(autouse=True)
def _no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))


def config(name, **changes):
    return load_cfg(str(CONFIGS / name), [str(word) for pair in changes.items() for word in pair])


def test_the_rate_of_densecl_on_eight_v100():
    found = pretrain_cost(config("densecl_coco_800ep.yaml"), 8)
    # ResNet-50 at 224: forward and backward without the gradient of the images, forward of the
    # keys; the rest are the heads and 1 + 7 · 7 rows against 65536 per view.
    backbone = 4 * 2 * 4_089_184_256 - 2 * 118_013_952
    assert backbone < found.step.flops / 32 < 1.12 * backbone
    assert 1 < found.images_per_s(GPUS[0]) / 1255 < 1.2
    assert found.steps == 800 * (118_287 // 256)
    assert "PRETRAIN.AUGMENT.CROP_SIZE (224)" in found.relief
    assert "(256, 32 per process)" in found.relief


@pytest.mark.parametrize("method", few(METHODS.names(), "mls", "slotcon", "soco"))
def test_every_method_can_be_counted(method):
    cfg = config(f"{method}_quick.yaml", **SHALLOW)
    with torch.device("meta"):
        backbone, side = build_backbone(cfg), cfg.PRETRAIN.AUGMENT.CROP_SIZE

    def forward():
        with torch.no_grad():
            view = backbone(torch.zeros(1, 3, side, side))["res5"].sum()
        return view * next(backbone.parameters()).sum()

    view = measure_step(backbone, forward, images=1).flops
    found = pretrain_cost(cfg, 1).step
    # One view with a gradient, twice what the forward pass costs, and one of keys at least; all
    # but the gradient of the images. Two views with gradient and two of keys, and local views.
    assert 3.8 < found.flops / found.images / view < 13


def test_the_first_stage_counts():
    one, two = (config(name, **SHALLOW) for name in ("byol_quick.yaml", "orl_quick.yaml"))
    one.PRETRAIN.EPOCHS = two.ORL.FIRST_EPOCHS
    first, whole = pretrain_cost(one, 1), pretrain_cost(two, 1)
    own = whole.steps * whole.step.seconds(GPUS[0]) / 3600
    assert whole.hours(GPUS[0]) == pytest.approx(first.hours(GPUS[0]) + own)
    assert whole.disk > first.disk


def test_a_batch_of_twice_the_size_costs_twice_as_much():
    one, two = (
        pretrain_cost(config("mls_quick.yaml", **SHALLOW, **{"SOLVER.IMS_PER_BATCH": n}), 1)
        for n in (16, 32)
    )
    assert one.steps == 2 * two.steps
    assert two.step.flops == 2 * one.step.flops
    assert two.step.weights == one.step.weights
    # 6000 steps, a checkpoint every 500: the two newest, the final one, and the backbone's file.
    with torch.device("meta"):
        backbone = build_backbone(config("mls_quick.yaml", **SHALLOW)).state_dict()
    values = sum(value.numel() for value in backbone.values())
    assert one.disk == 3 * (one.step.weights + one.step.optimizer) + 4 * values
    assert 1.5 < two.step.activations / one.step.activations < 2.5


def test_local_views_are_counted():
    with_local, without = (
        pretrain_cost(
            config("dino_quick.yaml", **SHALLOW, **{"PRETRAIN.AUGMENT.LOCAL_CROPS": n}), 1
        )
        for n in (2, 0)
    )
    assert with_local.step.flops > 1.05 * without.step.flops


def test_images_are_counted_without_the_data(tmp_path):
    assert count_images(config("mls_coco_800ep.yaml")) == 118_287
    both = {"DATASETS.TRAIN": "('coco_2017_train', 'coco_2017_unlabeled')"}
    assert count_images(config("mls_coco_800ep.yaml", **both)) == 118_287 + 123_403
    assert count_images(config("mls_quick.yaml", **both)) == 400 + 4000
    write_marker(tmp_path, SceneParams(train=50, unlabeled=60), [], complete=True)
    assert count_images(config("mls_quick.yaml", **both)) == 110
    assert count_images(config("mls_coco_800ep.yaml")) == 118_287


def test_checkpoints_that_stay():
    keys = {"SOLVER.CHECKPOINT_PERIOD": 10, "PRETRAIN.KEEP_CHECKPOINTS": 3}
    keys |= {"PRETRAIN.EPOCHS": 40.0, "PRETRAIN.PERMANENT_PERIOD": 0.0}
    assert checkpoints(config("mls_quick.yaml", **keys), 100) == 3 + 1
    assert checkpoints(config("mls_quick.yaml", **keys), 25) == 2 + 1
    keys["PRETRAIN.PERMANENT_PERIOD"] = 15.0
    assert checkpoints(config("mls_quick.yaml", **keys), 100) == 3 + 1 + 2
