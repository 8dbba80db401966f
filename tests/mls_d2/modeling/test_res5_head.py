"""The C4 head with an extra norm: what it computes, what it is called, and that the norm trains."""

import copy

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, build_roi_heads
from detectron2.structures import Boxes
from torch import nn

from mls_d2.config.defaults import get_cfg
from mls_d2.modeling.res5_head import Res5ROIHeadsExtraNorm
from mls_d2.run.registration import register_all

SHAPE = {"res4": ShapeSpec(channels=16, stride=16)}


@pytest.fixture
def make_head():
    def make(norm="BN", name="Res5ROIHeadsExtraNorm"):
        register_all()
        cfg = get_cfg()
        cfg.MODEL.ROI_HEADS.NAME = name
        cfg.MODEL.RESNETS.NORM = norm
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 4
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 1
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
        torch.manual_seed(0)
        return build_roi_heads(cfg, SHAPE)

    return make


def norm_by_hand(values, norm):
    """Batch normalisation of (R, C, H, W), channel by channel."""
    result = torch.empty_like(values)
    for channel in range(values.shape[1]):
        plane = values[:, channel]
        mean = plane.sum() / plane.numel()
        variance = ((plane - mean) ** 2).sum() / plane.numel()
        scaled = (plane - mean) / (variance + norm.eps).sqrt()
        result[:, channel] = scaled * norm.weight[channel] + norm.bias[channel]
    return result


def transform(head, features, boxes):
    return head._shared_roi_transform([features], [Boxes(boxes)])


def test_the_head_is_detectron2s_followed_by_a_norm(make_head):
    ours, plain = make_head().double(), make_head(name="Res5ROIHeads").double()
    state = ours.state_dict()
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert state.keys() - plain.state_dict().keys() == {f"res5.norm.{part}" for part in parts}
    plain.load_state_dict({k: v for k, v in state.items() if "res5.norm" not in k})
    nn.init.uniform_(ours.res5.norm.weight, 0.5, 2)
    nn.init.uniform_(ours.res5.norm.bias)
    features = torch.randn(1, 16, 8, 8, dtype=torch.float64)
    boxes = torch.tensor([[0, 0, 60, 60], [20, 10, 120, 90], [40, 40, 70, 120]]).double()
    before = transform(plain, features, boxes)
    expected = norm_by_hand(before, ours.res5.norm)
    torch.testing.assert_close(transform(ours, features, boxes), expected, rtol=1e-9, atol=1e-9)
    assert (expected - before).abs().max() > 0.1


def test_the_norm_is_that_of_the_backbone(make_head):
    assert isinstance(make_head("SyncBN").res5.norm, nn.SyncBatchNorm)
    assert type(make_head("FrozenBN").res5.norm).__name__ == "FrozenBatchNorm2d"
    assert not hasattr(make_head("").res5, "norm")


def test_its_statistics_and_weights_learn(make_head):
    head = make_head().train()
    before = copy.deepcopy(head.res5.norm.state_dict())
    features, boxes = torch.randn(1, 16, 8, 8), torch.tensor([[0.0, 0, 60, 60], [9, 9, 99, 99]])
    (transform(head, features, boxes) ** 3).sum().backward()
    assert head.res5.norm.weight.grad.abs().sum() > 0
    assert not torch.equal(head.res5.norm.running_mean, before["running_mean"])


def test_registering_again_changes_nothing():
    register_all()
    names = DatasetCatalog.list()
    register_all()
    assert ROI_HEADS_REGISTRY.get("Res5ROIHeadsExtraNorm") is Res5ROIHeadsExtraNorm
    assert DatasetCatalog.list() == names
