"""Every backbone tensor arrives in Detectron2's models, or the file is refused with reasons."""

import re

import pytest
import torch
from detectron2.modeling import build_backbone, build_model

from mls_d2.checkpoint.backbone_file import write_backbone
from mls_d2.checkpoint.initial_weights import backbone_tensors, load_initial_weights
from mls_d2.config.defaults import get_cfg
from mls_d2.core.errors import UserError


def small_cfg(kind="fpn", *, norm="BN", depth=50, width=4):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.INPUT.FORMAT = "RGB"
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.NORM, resnets.STRIDE_IN_1X1 = depth, norm, False
    resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS = 2 * width, 4 * width
    resnets.WIDTH_PER_GROUP = width
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 8
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4
    if kind == "c4":
        resnets.OUT_FEATURES = ["res4"]
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 14
        return cfg
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    resnets.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = resnets.OUT_FEATURES
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    return cfg


def encoder(cfg):
    """Return the ResNet that pretraining would train, with statistics unlike its initial ones."""
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    torch.manual_seed(3)
    network = build_backbone(cfg)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
    return network


@pytest.fixture
def backbone_file(tmp_path):
    path = str(tmp_path / "backbone.pth")
    cfg = small_cfg()
    info = {
        "method": "mls",
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "input_format": "RGB",
        "config": cfg.dump(),
    }
    write_backbone(path, encoder(cfg).state_dict(), info)
    return path


# 53 convolutions with four norm tensors each (checkpoints of ResNet-50).
NUM_TENSORS = 53 * 5


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN"])
@pytest.mark.parametrize("kind", ["fpn", "c4"])
def test_all_tensors_arrive_and_the_features_are_those_of_pretraining(backbone_file, kind, norm):
    cfg = small_cfg(kind, norm=norm)
    model = build_model(cfg).eval()
    report = load_initial_weights(model, backbone_file, cfg)
    assert report.num_backbone == NUM_TENSORS
    assert report.method == "mls"
    assert report.ignored == ()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = encoder(cfg).eval()(images)["res5"]
        if kind == "fpn":
            features = model.backbone.bottom_up(images)["res5"]
        else:
            features = model.roi_heads.res5(model.backbone(images)["res4"])
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=0)


def test_heads_keep_their_own_initialisation(backbone_file):
    cfg = small_cfg()
    model = build_model(cfg)
    names = backbone_tensors(model)
    before = {k: v.clone() for k, v in model.state_dict().items() if k not in names}
    report = load_initial_weights(model, backbone_file, cfg)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    not_counted = sum(name.endswith("num_batches_tracked") for name in before)
    assert report.num_random == len(before) - not_counted


def test_a_stray_head_tensor_is_reported_and_not_loaded(tmp_path):
    cfg = small_cfg()
    model = build_model(cfg)
    shape = model.roi_heads.box_head.fc1.weight.shape
    state = encoder(cfg).state_dict() | {"fc1.weight": torch.ones(shape)}
    path = str(tmp_path / "stray.pth")
    torch.save({"model": state, "matching_heuristics": True}, path)
    report = load_initial_weights(model, path, cfg)
    assert "fc1.weight" in report.ignored
    assert not torch.equal(model.roi_heads.box_head.fc1.weight, torch.ones(shape))


def test_random_is_asked_for_by_name_and_changes_nothing():
    cfg = small_cfg()
    model = build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_initial_weights(model, "random", cfg)
    assert (report.method, report.sha256, report.num_backbone) == ("random", "", 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "MODEL.WEIGHTS random" in refusal("", cfg, "missing-file")


def refusal(path, cfg, code="wrong-weights"):
    model = build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_initial_weights(model, path, cfg)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert caught.value.code == code
    return str(caught.value)


@pytest.mark.parametrize("kind", ["fpn", "c4"])
def test_another_width_is_refused_with_both_shapes(backbone_file, kind):
    message = refusal(backbone_file, small_cfg(kind, width=8))
    assert "width differ" in message
    assert "depth" not in message
    assert "stem.conv1.weight: file (8, 3, 7, 7), model (16, 3, 7, 7)" in message
    assert f"… and {NUM_TENSORS - 10} more" in message


@pytest.mark.parametrize("kind", ["fpn", "c4"])
def test_another_depth_is_refused_even_if_every_tensor_fits(tmp_path, kind):
    cfg = small_cfg(kind)
    state = encoder(cfg).state_dict()
    path = str(tmp_path / "other.pth")
    write_backbone(path, {k: v for k, v in state.items() if not k.startswith("res4.5.")}, {})
    message = refusal(path, cfg)
    assert "depth differ" in message
    assert "res4.5.conv1.weight: not in the file" in message
    write_backbone(path, encoder(small_cfg(depth=101)).state_dict(), {})
    message = refusal(path, cfg)
    assert "depth differ" in message
    assert re.search(r"res4\.6\.\S+: in the file, but the model has no such block", message)


def test_faulty_tensors_are_refused(tmp_path):
    # Detectron2 logs nothing at all if statistics are missing for FrozenBN.
    cfg = small_cfg(norm="FrozenBN")
    state = {k: v for k, v in encoder(cfg).state_dict().items() if not k.endswith("tracked")}
    name, path = "res2.0.conv1.norm.running_mean", str(tmp_path / "x.pth")
    torch.save({"model": {k: v for k, v in state.items() if k != name}}, path)
    assert f"{name}: not in the file" in refusal(path, cfg)
    for value in (torch.full((4,), float("nan")), torch.ones(4).to_sparse(), torch.ones(4).int()):
        torch.save({"model": state | {name: value}}, path)
        assert name in refusal(path, cfg, "bad-tensor")
    torch.save({"model": state | {f"backbone.bottom_up.{name}": torch.ones(4)}}, path)
    assert name in refusal(path, cfg, "two-copies")
    torch.save({"model": state | {f"backbone.bottom_up.{name}": state[name].clone()}}, path)
    load_initial_weights(build_model(cfg), path, cfg)


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ({"pixel_mean": ["a", "b", "c"]}, "input-mismatch"),
        ({"pixel_mean": "RGB", "config": 5}, "input-mismatch"),
        # Another project's entry of this name, or one without a meaning, is not ours.
        ({"pixel_mean": torch.zeros(3)}, ""),
        ({"epochs": "8", "iterations": 100, "config": "[", "dataset": 3}, ""),
    ],
)
def test_metadata_of_other_kinds_is_refused_or_left(info, code, tmp_path):
    cfg, path = small_cfg(), str(tmp_path / "x.pth")
    metadata = {"kind": "pretraining checkpoint", "pretrain": info}
    torch.save({"model": encoder(cfg).state_dict(), "metadata": metadata, "iteration": 5}, path)
    if code:
        refusal(path, cfg, code)
    else:
        load_initial_weights(build_model(cfg), path, cfg)


def test_torchvision_names_point_to_the_converter(tmp_path):
    path = str(tmp_path / "resnet50.pth")
    torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7), "fc.bias": torch.zeros(2)}, path)
    assert "tools/convert.py" in refusal(path, small_cfg())


def test_a_pretraining_checkpoint_points_to_the_backbone_beside_it(tmp_path, backbone_file):
    path = str(tmp_path / "model_final.pth")
    state = {f"query.{k}": v for k, v in encoder(small_cfg()).state_dict().items()}
    torch.save({"model": state, "trainer": {"iteration": 3}}, path)
    assert f"use '{backbone_file}'" in refusal(path, small_cfg())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", True),
    ],
)
def test_another_input_than_in_pretraining_is_refused(backbone_file, key, value):
    cfg = small_cfg()
    cfg.merge_from_list([key, value])
    message = refusal(backbone_file, cfg, "input-mismatch")
    # Only what differs is named, and what allows it.
    assert key in message
    assert str(value) in message
    assert len(message.splitlines()) == 3
    assert "MODEL.ALLOW_INPUT_MISMATCH True" in message


def test_another_input_is_a_warning_where_that_is_asked_for(backbone_file, caplog):
    cfg = small_cfg()
    cfg.merge_from_list(["INPUT.FORMAT", "BGR", "MODEL.ALLOW_INPUT_MISMATCH", True])
    report = load_initial_weights(build_model(cfg), backbone_file, cfg)
    assert report.num_backbone == NUM_TENSORS
    assert "INPUT.FORMAT: pretrained with RGB, config has BGR" in caplog.text


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_folded_norms_are_for_frozen_ones(norm, tmp_path):
    cfg = small_cfg(norm=norm)
    path = str(tmp_path / "folded.pth")
    write_backbone(path, encoder(cfg).state_dict(), {"folded_norm": True})
    if norm == "FrozenBN":
        load_initial_weights(build_model(cfg), path, cfg)
    else:
        message = refusal(path, cfg, "input-mismatch")
        assert "MODEL.RESNETS.NORM: pretrained with FrozenBN, config has BN" in message
