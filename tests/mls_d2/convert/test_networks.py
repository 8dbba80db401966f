"""The network is read from the shapes, verified, and other networks are refused by name."""

import pytest
import torch

from mls_d2.convert import architecture
from mls_d2.convert.architecture import Architecture, architecture_of, build_torchvision, verify
from mls_d2.core.errors import UserError
from tests.mls_d2.convert.sources import (
    NARROW,
    convert,
    encoder,
    files,
    numbered,
    one,
    simclr_v2,
    take,
)


@pytest.mark.parametrize(
    "sizes",
    [
        Architecture(18, 64, 64, 1, 64),
        Architecture(101, 8, 16, 1, 4),
        Architecture(50, 16, 32, 2, 4),
        Architecture(50, 8, 16, 1, 8),
    ],
)
def test_depth_groups_and_widths_are_read_from_the_shapes(sizes):
    state = encoder(0, sizes)
    assert architecture_of(state) == sizes
    assert take(state, check=True).info["verified"] <= 1e-5


@pytest.mark.parametrize(
    ("depth", "tensors"), [(18, 100), (34, 180), (50, 265), (101, 520), (152, 775)]
)
def test_number_of_tensors(depth, tensors):
    sizes = (64, 64, 1, 64) if depth < 50 else (8, 16, 1, 4)
    state = architecture.build_backbone(Architecture(depth, *sizes)).state_dict()
    assert sum(not name.endswith("tracked") for name in state) == tensors


def test_verification_finds_the_stride_in_the_wrong_place(monkeypatch, refuses):
    state = {n: v for n, v in encoder(0).items() if not n.endswith("tracked")}
    assert verify(state, NARROW) <= 1e-5
    moved = Architecture(50, 8, 16, 1, 4, stride_in_1x1=True)
    monkeypatch.setattr(architecture, "build_torchvision", lambda _: build_torchvision(moved))
    with refuses("not-verified"):
        verify(state, NARROW)
    # Outputs that overflow prove nothing, but not that the networks are equal.
    large = {n: v * 1e30 if n.startswith("layer4.2.bn") else v for n, v in state.items()}
    with refuses("not-verified"):
        verify(large, NARROW)
    monkeypatch.undo()
    assert verify(large, NARROW) <= 1e-5


def without(*parts: str) -> dict:
    state = encoder(0)
    return {n: v for n, v in state.items() if not any(part in n for part in parts)}


SPLIT = {"bn1.running_mean": torch.zeros(16)}
SK = {"resnet": simclr_v2(encoder(0)) | one("net.1.blocks.0.net.2.main_conv.0.weight")}
WIDE = {"layer4.2.conv3.weight": torch.ones(128, 31, 1, 1)}
REFUSED = [
    (encoder(0) | {"conv1.weight": torch.ones(8, 3, 3, 3)}, "first convolution is 3×3"),
    (encoder(0) | {"conv1.weight": torch.ones(8, 1, 7, 7)}, "7×7 of 1 channels"),
    (without("conv1.weight") | one("conv1.0.weight"), "a ResNet with a deep stem"),
    (one("cls_token", "patch_embed.proj.weight"), "a Vision Transformer"),
    (one("downsample_layers.0.0.weight"), "a ConvNeXt"),
    (one("stages.0.0.dwconv.weight", "stem.0.weight"), "a ConvNeXt"),
    (encoder(0) | one("layer1.0.conv2.convs.0.weight"), "Selective Kernel units"),
    (SK, "Selective Kernel units"),
    (without("running", "tracked"), "no BatchNorm statistics (GroupNorm"),
    (encoder(0) | SPLIT, "2 splits of the batch (SplitBatchNorm"),
    (encoder(0) | one("layer1.0.se.fc1.weight"), "squeeze-and-excitation or attention"),
    (numbered(encoder(0)) | one("4.0.se.fc.weight"), "squeeze-and-excitation"),
    (encoder(0) | one("layer2.0.downsample.2.weight"), "pooling in the shortcuts (ResNet-D)"),
    (encoder(0) | one("layer1.0.conv1.bias"), "biases of convolutions"),
    (encoder(0) | one("layer2.0.aa.filt"), "does not have: layer2.0.aa.filt"),
    (encoder(0) | one("layer1.0.shortcut.0.weight"), "does not have: layer1.0.shortcut"),
    (without("layer3.1.bn2.bias"), "res4.1.conv2.norm.bias: not in the file"),
    (without("layer3.5"), "stages have [3, 4, 5, 3] bottlenecks"),
    (without("layer1.0.conv2.weight"), "layer1.0.conv2.weight is missing"),
    (encoder(0) | WIDE, "file (128, 31, 1, 1), network (128, 32, 1, 1)"),
    (encoder(0) | {"layer1.0.conv2.weight": torch.ones(4, 3, 3, 3)}, "fit no ResNet"),
    (encoder(0) | {"layer1.0.conv1.weight": torch.ones(4)}, "expected a convolution's 4 axes"),
    (encoder(0) | {"bn1.weight": torch.full((8,), float("inf"))}, "NaN or infinite"),
    (encoder(0) | {"bn1.running_var": torch.full((8,), -1.0)}, "hold negative variances"),
    (encoder(0, Architecture(18, 8, 8, 1, 8)), "basic blocks have 8 channels"),
    (without("layer1.0.conv1") | one("layer1.0.conv1.weight_orig"), "pruned or reparametrised"),
    (one("_flat_param"), "FSDP's flat parameters"),
    ({"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}}, "no tensors by name"),
    (one("projection_head.0.weight"), "a projector or head in it and no backbone"),
    (files()["vissl"] | {"type": "shard_list"}, "shard of a sharded (FSDP) checkpoint"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_is_no_whole_resnet_is_refused_by_name(content, message):
    with pytest.raises(UserError) as caught:
        take(content)
    assert message in str(caught.value)
    assert "x.bin'" in str(caught.value)
    assert caught.value.code in ("other-network", "no-encoder", "bad-tensor", "not-a-checkpoint")


def test_byol_without_the_statistics_field_is_refused(tmp_path, refuses):
    content = files()["byol-deepmind"]
    state = content["experiment_state"]._replace(online_state=None)
    with refuses("other-network"):
        convert(tmp_path, content | {"experiment_state": state}, stubs=True)
