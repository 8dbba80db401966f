"""ReSim against loops over windows, its two necks, its shared flip, and what it exports."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.backbone import FPN

from mls_d2.checkpoint.backbone_file import can_be_written, write_backbone
from mls_d2.checkpoint.initial_weights import load_initial_weights
from mls_d2.config.loading import load_cfg
from pretrain.batch import Batch
from pretrain.fpn import FPN as Neck
from pretrain.geometry import carried_boxes, inside, pooled_regions, window_grid
from pretrain.methods import build_method
from pretrain.methods.resim import MirroredTogether, ReSim
from pretrain.views import ViewGroup
from tests.pretrain.loops import info_nce
from tests.pretrain.methods.tiny import (
    TOGETHER,
    WINDOWED,
    Pyramid,
    apart,
    make_frozen,
    make_method,
    window_batch,
)

TAU, SIZE = 0.2, 64
QUICK = "pretrain/configs/resim_quick.yaml"
TRANSFER = "transfer_configs/coco/mask_rcnn_R_50_FPN_quick.yaml"


def make(**options) -> ReSim:
    return make_frozen("resim", temperature=TAU, **options)


@pytest.fixture
def batch() -> Batch:
    return window_batch()


def region_loop(one, other, windows, scale, negatives) -> tuple[float, int]:
    """Return the region loss of one level, and how many windows both views show."""
    carried = carried_boxes(windows, WINDOWED, TOGETHER, SIZE)
    terms = []
    for n in range(4):
        for r in range(len(windows)):
            if inside(carried, SIZE)[n, r]:
                query, key = (
                    pooled_regions(maps[n : n + 1], box[None, None], scale).flatten().tolist()
                    for maps, box in ((one, windows[r]), (other, carried[n, r]))
                )
                cells = negatives[n // (4 // len(negatives))]
                terms.append(info_nce(query, key, cells, TAU))
    return sum(terms) / len(terms), len(terms)


def cells_loop(maps: torch.Tensor) -> list[list[list[float]]]:
    """Return the means of all 3 × 3 cells of each image."""
    side = maps.shape[-1] - 2
    return [
        [
            image[:, i : i + 3, j : j + 3].mean(dim=(1, 2)).tolist()
            for i in range(side)
            for j in range(side)
        ]
        for image in maps
    ]


@pytest.mark.parametrize(("neck", "images"), [("fpn", 32), ("fpn", 2), ("c4", 32)])
def test_the_losses_are_those_of_the_paper(batch, neck, images):
    method = make(neck=neck, c3_images=images)
    _, z1, *maps1 = method.encoder(batch.views[0])
    _, z2, *maps2 = method.keys(batch.views[1])
    output = method(batch)
    assert set(output.losses) == {"loss_nce", "loss_c4"} | ({"loss_c3"} if neck == "fpn" else set())
    assert output.weights == {}
    four = [cell for image in cells_loop(maps2[0]) for cell in image]
    windows = window_grid(SIZE, 32, 16).double()
    expected, count = region_loop(maps1[0], maps2[0], windows, 1 / 16, [four])
    assert output.losses["loss_c4"].item() == pytest.approx(expected)
    assert output.metrics["windows_c4"].item() == pytest.approx(count / 4)
    assert output.metrics["unmatched_images_c4"].item() == 0.25  # The third: views apart.
    if neck == "fpn":
        three, parts = cells_loop(maps2[1]), 4 // min(images, 4)
        negatives = [
            [cell for image in three[i * 4 // parts : (i + 1) * 4 // parts] for cell in image]
            for i in range(parts)
        ]
        windows = window_grid(SIZE, 24, 12).double()
        expected, _ = region_loop(maps1[1], maps2[1], windows, 1 / 8, negatives)
        assert output.losses["loss_c3"].item() == pytest.approx(expected)
    rows, pairs = method.dictionary["z"].tolist(), zip(z1.tolist(), z2.tolist(), strict=True)
    total = sum(info_nce(query, key, rows, TAU) for query, key in pairs) / 4
    assert output.losses["loss_nce"].item() == pytest.approx(total, abs=1e-6)


def test_the_neck_is_detectron2s_fpn_without_its_norms():
    backbone = Pyramid()
    fpn = FPN(backbone, ["res3", "res4", "res5"], 5)
    neck = Neck(Pyramid.channels, 5, outputs=(3, 4))
    loaded = fpn.load_state_dict(neck.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert {k.split(".")[0] for k in loaded.missing_keys} == {"fpn_output5", "bottom_up"}
    images = torch.randn(2, 3, SIZE, SIZE)
    expected = fpn(images)
    for got, level in zip(neck(backbone(images)), ("p4", "p3"), strict=True):
        torch.testing.assert_close(got, expected[level])


@pytest.mark.parametrize("neck", ["fpn", "c4"])
def test_gradients_reach_every_weight_that_a_neck_reads(batch, neck):
    method = make_method("resim", neck=neck)
    sum(method(batch).losses.values()).backward()
    reached = {name for name, weight in method.named_parameters() if weight.grad is not None}
    online = {name for name, weight in method.named_parameters() if weight.requires_grad}
    assert {name for name in online - reached if neck == "fpn" or "res3" not in name} == set()
    assert all(w.grad.abs().sum() > 0 for w in method.encoder.neck.parameters())


def test_without_common_windows_the_region_losses_are_zero_with_a_graph(batch):
    method = make()
    output = method(apart(batch))
    region = output.losses["loss_c4"] + output.losses["loss_c3"]
    assert region.item() == 0
    assert output.metrics["unmatched_images_c3"].item() == 1
    region.backward()
    grads = [weight.grad for weight in method.encoder.neck.parameters()]
    assert all(grad is not None and grad.eq(0).all() for grad in grads)


def test_both_crops_are_mirrored_together():
    crops = MirroredTogether([ViewGroup(2, 32, (0.2, 1.0))], 0.5)
    rng = np.random.default_rng(0)
    drawn = [crops.draw(0, 480, 640, rng) for _ in range(200)]
    assert all(one.flipped == other.flipped for one, other in drawn)
    assert np.mean([one.flipped for one, _ in drawn]) == pytest.approx(0.5, abs=0.1)
    assert all(one != other for one, other in drawn)


def test_the_quick_config_builds_it_and_exports_layers_of_the_fpn():
    cfg = load_cfg(QUICK, ["MODEL.DEVICE", "cpu"])
    method = build_method(cfg)
    assert isinstance(ReSim.crops(cfg), MirroredTogether)
    exported = method.export()
    layers = {name.split(".")[1] for name in exported if name.startswith("backbone.")}
    assert layers == {f"fpn_lateral{i}" for i in (3, 4, 5)} | {"fpn_output3", "fpn_output4"}
    assert all(can_be_written(name) for name in exported)
    torch.testing.assert_close(
        exported["backbone.fpn_lateral3.weight"], method.encoder.neck.fpn_lateral3.weight
    )
    four = ["MODEL.RESNETS.OUT_FEATURES", "['res4', 'res5']", "RESIM.NECK", "c4"]
    method = build_method(load_cfg(QUICK, ["MODEL.DEVICE", "cpu", *four]))
    assert method.export().keys() == method.encoder.backbone.state_dict().keys()


@pytest.mark.parametrize(("norm", "parts"), [("", 10), ("BN", 5)])
def test_the_fpn_of_a_detector_gets_its_layers(tmp_path, norm, parts):
    exported = build_method(load_cfg(QUICK, ["MODEL.DEVICE", "cpu"])).export()
    path = str(tmp_path / "backbone.pth")
    write_backbone(path, exported, {})
    cfg = load_cfg(TRANSFER, ["MODEL.DEVICE", "cpu", "MODEL.FPN.NORM", norm])
    cfg.MODEL.RESNETS.NORM = "BN"
    model = build_model(cfg)
    report = load_initial_weights(model, path, cfg)
    assert report.num_parts == parts
    # A norm takes the place of the biases.
    assert all(name.endswith(".bias") for name in report.ignored)
    assert report.num_backbone + report.num_parts + len(report.ignored) == sum(
        "num_batches_tracked" not in name for name in exported
    )
    torch.testing.assert_close(
        model.backbone.fpn_output4.weight, exported["backbone.fpn_output4.weight"].cpu()
    )
