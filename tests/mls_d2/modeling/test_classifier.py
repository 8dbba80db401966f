"""The classifier's features and losses by hand, and what a frozen backbone leaves alone."""

import math

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from mls_d2.config.defaults import get_cfg
from mls_d2.modeling.classifier import ImageClassifier, pooled_cells, targets_of
from mls_d2.run.registration import register_all

MEAN, STD = [100.0, 110.0, 120.0], [50.0, 55.0, 60.0]


class Backbone(nn.Module):
    """A strided convolution and a BatchNorm, in Detectron2's interface."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, images):
        return {"res5": self.norm(self.conv(images))}


def make(**changes):
    arguments = {
        "backbone": Backbone(),
        "head": nn.Linear(5, 4),
        "feature": "res5",
        "num_classes": 4,
        "multi_label": False,
        "freeze_backbone": False,
        "pixel_mean": MEAN,
        "pixel_std": STD,
    }
    return ImageClassifier(**(arguments | changes))


def batch(labels=((0,), (3,), (1,)), difficult=((), (), ())):
    return [
        {
            "image": torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8),
            "classes": list(shown),
            "difficult": list(hard),
        }
        for shown, hard in zip(labels, difficult, strict=True)
    ]


def test_features_are_the_mean_over_all_positions_of_the_normalised_image():
    model, inputs = make().eval(), batch()
    found = model.features(inputs)
    for row, item in zip(found, inputs, strict=True):
        image = item["image"].double()
        for channel in range(3):
            image[channel] = (image[channel] - MEAN[channel]) / STD[channel]
        maps = model.backbone(image[None].float())["res5"][0]
        for channel in range(5):
            mean = sum(maps[channel].flatten().tolist()) / maps[channel].numel()
            assert row[channel].item() == pytest.approx(mean, abs=1e-5)
    outputs = model(inputs)
    for output, row in zip(outputs, found, strict=True):
        torch.testing.assert_close(output["scores"], model.head(row))


def test_a_pool_window_gives_the_means_of_its_positions():
    model, inputs = make(pool_size=3).eval(), batch()
    found = model.features(inputs).view(3, 5, 2, 2)
    images = torch.stack([item["image"].float() for item in inputs])
    images = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    maps = model.backbone(images)["res5"]  # 4 x 4
    for y in range(2):
        for x in range(2):
            expected = maps[:, :, y : y + 3, x : x + 3].mean(dim=(2, 3))
            torch.testing.assert_close(found[:, :, y, x], expected)


def test_the_svm_of_voc07_has_the_features_of_densecl(refuses):
    assert pooled_cells(7, 6) == 4  # 224 px: 2x2x2048
    assert pooled_cells(7, 0) == 1
    for size in (8, -1):
        with refuses("bad-value"):
            pooled_cells(7, size)
    model = build_model(resnet_cfg("CLASSIFICATION.CROP_SIZE", 64, "MODEL.CLASSIFIER.POOL_SIZE", 1))
    assert model.head.weight.shape == (7, 64 * 4)
    assert model.eval()([{"image": torch.zeros(3, 64, 64)}])[0]["scores"].shape == (7,)


def test_the_loss_of_one_class_is_the_negative_log_of_its_share():
    model, inputs = make(), batch()
    scores = model.head(model.features(inputs)).tolist()
    expected = 0.0
    for row, label in zip(scores, (0, 3, 1), strict=True):
        expected -= math.log(math.exp(row[label]) / sum(map(math.exp, row)))
    assert model(inputs)["loss_cls"].item() == pytest.approx(expected / 3, rel=1e-5)


def test_the_loss_of_several_classes_takes_each_by_itself_and_difficult_ones_as_shown():
    model = make(multi_label=True)
    inputs = batch(labels=((0, 2), (), (1,)), difficult=((3,), (1,), ()))
    shown = ({0, 2, 3}, {1}, {1})
    expected = 0.0
    for row, positives in zip(model.head(model.features(inputs)).tolist(), shown, strict=True):
        for index, score in enumerate(row):
            share = 1 / (1 + math.exp(-score))
            expected -= math.log(share if index in positives else 1 - share)
    assert model(inputs)["loss_cls"].item() == pytest.approx(expected / 12, rel=1e-5)
    assert targets_of(inputs, 4).int().tolist() == [[1, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_reach_what_is_trained_and_nothing_else(frozen):
    model = make(freeze_backbone=frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(batch())["loss_cls"].backward()
    touched = {name for name, item in model.named_parameters() if item.grad is not None}
    heads = {"head.weight", "head.bias"}
    trunk = {
        f"backbone.{part}" for part in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    }
    assert touched == (heads if frozen else heads | trunk)
    assert touched == {name for name, item in model.named_parameters() if item.requires_grad}
    assert all(model.get_parameter(name).grad.abs().max() > 0 for name in heads)
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert bool(moved) != frozen  # running statistics
    assert all(name.startswith("backbone.norm") for name in moved)


def test_a_frozen_backbone_is_in_evaluation_mode_whatever_is_asked_for():
    model = make(freeze_backbone=True)
    for mode in (True, False, True):
        model.train(mode)
        assert model.training is mode
        assert model.head.training is mode
        assert not any(module.training for module in model.backbone.modules())


def resnet_cfg(*opts):
    register_all()
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.MODEL.DEVICE = str(torch.zeros(()).device)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    node = cfg.MODEL.RESNETS
    node.NORM, node.STEM_OUT_CHANNELS, node.RES2_OUT_CHANNELS, node.WIDTH_PER_GROUP = "BN", 4, 8, 2
    node.OUT_FEATURES = ["res5"]
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 7
    cfg.merge_from_list(list(opts))
    return cfg


def test_detectron2_builds_it_from_a_config_and_all_of_it_is_trained():
    model = build_model(resnet_cfg())
    assert isinstance(model, ImageClassifier)
    inputs = [
        {"image": torch.randint(0, 256, (3, 64, 64)), "classes": [index], "difficult": []}
        for index in range(4)
    ]
    model(inputs)["loss_cls"].backward()
    still = [
        name
        for name, item in model.named_parameters()
        if item.grad is None or item.grad.abs().max() == 0
    ]
    assert not still
    assert model.head.weight.shape == (7, 64)


def test_the_normalised_head_makes_the_scale_of_features_irrelevant():
    model = build_model(resnet_cfg("MODEL.CLASSIFIER.HEAD", "bn_linear")).train()
    assert {name for name, _ in model.head.named_parameters()} == {"1.weight", "1.bias"}
    features = torch.randn(16, 64)
    torch.testing.assert_close(
        model.head(features), model.head(1000 * features + 5), rtol=1e-3, atol=1e-3
    )
