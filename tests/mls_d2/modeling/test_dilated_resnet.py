"""The dilated ResNet gives the outputs of Detectron2's own at the positions that both have."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import build_resnet_backbone

from mls_d2.config.defaults import get_cfg
from mls_d2.modeling.dilated_resnet import build_dilated_resnet_backbone

IMAGE = ShapeSpec(channels=3)


def make_cfg(**resnets):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    node = cfg.MODEL.RESNETS
    node.STEM_OUT_CHANNELS, node.RES2_OUT_CHANNELS, node.WIDTH_PER_GROUP = 4, 8, 4
    node.NORM, node.STRIDE_IN_1X1 = "BN", False
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    for name, value in resnets.items():
        setattr(node, name, value)
    return cfg


def randomised(network):
    """Give every tensor a value that matters, statistics of BatchNorm included."""
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.1)
    for name, value in network.named_parameters():
        if "conv" in name and "norm" not in name:
            value.data.sub_(0.35)
    return network.double().eval()


@pytest.mark.parametrize("depth", [50, 101])
def test_tensors_have_the_names_and_shapes_of_the_plain_network(depth):
    cfg = make_cfg(DEPTH=depth)
    ours, theirs = (
        build(cfg, IMAGE).state_dict()
        for build in (build_dilated_resnet_backbone, build_resnet_backbone)
    )
    assert list(ours) == list(theirs)
    assert [v.shape for v in ours.values()] == [v.shape for v in theirs.values()]


@pytest.mark.parametrize(("stride", "steps"), [(8, (1, 1, 2, 4)), (16, (1, 1, 1, 2))])
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (72, 41)])
def test_on_the_positions_of_the_undilated_network_outputs_are_the_same(stride, steps, size):
    cfg = make_cfg(OUTPUT_STRIDE=stride)
    plain = randomised(build_resnet_backbone(cfg, IMAGE))
    dilated = build_dilated_resnet_backbone(cfg, IMAGE).double().eval()
    dilated.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = dilated(image), plain(image)
    assert {s.stride for s in dilated.output_shape().values()} == {4, 8, stride}
    for name, step in zip(("res2", "res3", "res4", "res5"), steps, strict=True):
        assert theirs[name].abs().max() > 0
        torch.testing.assert_close(ours[name][..., ::step, ::step], theirs[name])


def test_an_output_stride_of_32_is_the_plain_network():
    cfg = make_cfg(OUTPUT_STRIDE=32)
    plain = randomised(build_resnet_backbone(cfg, IMAGE))
    same = build_dilated_resnet_backbone(cfg, IMAGE).double().eval()
    same.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert torch.equal(same(image)["res5"], plain(image)["res5"])


@pytest.mark.parametrize("resnets", [{"DEPTH": 18}, {"OUTPUT_STRIDE": 4}])
def test_what_cannot_be_dilated_is_refused(refuses, resnets):
    with refuses("bad-value"):
        build_dilated_resnet_backbone(make_cfg(**resnets), IMAGE)
