"""What published checkpoints get wrong for the unwary: one test a trap, by where it lies."""

import argparse
import pickle
import re

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from mls_d2.convert.architecture import Architecture, architecture_of, build_backbone
from mls_d2.convert.convert import load_backbone, write_converted
from mls_d2.convert.layouts import LAYOUTS, detectron2_name
from mls_d2.core.errors import UserError
from tests.mls_d2.convert.sources import (
    NARROW,
    caffe2,
    detectron2,
    encoder,
    files,
    hugging_face,
    numbered,
    one,
    simclr_v2,
    under,
    write,
)


def convert(tmp_path, content, **options):
    options = {"check": False} | options
    return load_backbone(write(tmp_path / "x.bin", content), **options)


def is_encoder(backbone, seed: int, dtype=torch.float32) -> bool:
    wanted = {
        detectron2_name(name): value.to(dtype).float()
        for name, value in encoder(seed).items()
        if not name.endswith("num_batches_tracked")
    }
    state = backbone.state_dict
    return state.keys() == wanted.keys() and all(
        torch.equal(state[n], v) for n, v in wanted.items()
    )


def refusal(tmp_path, content, **options) -> str:
    with pytest.raises(UserError) as caught:
        convert(tmp_path, content, **options)
    return str(caught.value)


# Containers.


@pytest.mark.parametrize("container", ["model", "state_dict"])
@pytest.mark.parametrize("name", ["moco", "pixpro", "slotcon", "simsiam"])
def test_a_container_does_not_tell_the_method(container, name, tmp_path):
    content = files()[name]
    tensors = content.get("model") or content["state_dict"]
    assert convert(tmp_path, {container: tensors}).info["source"] == name


@pytest.mark.parametrize("entry", ["model_ema", "state_dict_ema", "ema_state_dict"])
def test_averages_beside_the_weights_are_left_and_can_be_asked_for(entry, tmp_path):
    q, k = (under("encoder.", encoder(seed)) | one("head.0.weight") for seed in (0, 1))
    content = {entry: under("module.", k), "model": q}
    backbone = convert(tmp_path, content)
    assert is_encoder(backbone, 0)
    assert backbone.info["other_encoders"] == [f"{entry} > encoder."]
    assert is_encoder(convert(tmp_path, content, encoder=f"{entry} > encoder."), 1)


def test_averages_of_bare_names_can_be_asked_for_by_their_container(tmp_path):
    averaged = under("module.", encoder(1)) | {"n_averaged": torch.tensor(3)}
    content = {"model": encoder(0), "model_ema": averaged, "args": argparse.Namespace()}
    assert is_encoder(convert(tmp_path, content), 0)
    assert is_encoder(convert(tmp_path, content, encoder="model_ema"), 1)
    assert is_encoder(convert(tmp_path, content, encoder="model_ema > ."), 1)


def test_mmengine_swaps_the_averages_into_the_state_dict(tmp_path):
    averaged = under("backbone.", encoder(0)) | under("target_net.module.0.", encoder(1))
    raw = under("module.backbone.", encoder(1))
    backbone = convert(tmp_path, {"state_dict": averaged, "ema_state_dict": raw})
    assert (is_encoder(backbone, 0), backbone.info["source"]) == (True, "openmmlab-1")


def test_blobs_of_detectron_and_their_momentum(tmp_path):
    blobs = caffe2(encoder(0)) | {"conv1_w_momentum": np.ones((8, 3, 7, 7), np.float32)}
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    backbone = load_backbone(str(path), check=False)
    assert is_encoder(backbone, 0)
    assert "conv1_w_momentum" in backbone.left["no part of a ResNet"]


# Structure.


@pytest.mark.parametrize("prefix", ["", "base_model.", "module.base_model."])
def test_vissl_files_of_feature_extraction(prefix, tmp_path):
    trunk = under(f"{prefix}_feature_blocks.", encoder(0))
    content = {"classy_state_dict": {"base_model": {"model": {"trunk": trunk}}}}
    backbone = convert(tmp_path, content)
    assert (is_encoder(backbone, 0), backbone.info["source"]) == (True, "vissl")


def test_vissl_keeps_momentum_encoders_in_the_loss(tmp_path):
    content = files()["vissl"]
    content["classy_state_dict"]["loss"] = under("moco_encoder.trunk._feature_blocks.", encoder(1))
    assert is_encoder(convert(tmp_path, content), 0)


def test_one_shard_of_a_sharded_checkpoint_is_refused(tmp_path):
    content = files()["vissl"] | {"type": "shard_list"}
    assert "shard of a sharded (FSDP) checkpoint" in refusal(tmp_path, content)


def test_hugging_face_with_and_without_the_heads_prefix(tmp_path):
    bare = {name.removeprefix("resnet."): v for name, v in hugging_face(encoder(0)).items()}
    assert is_encoder(convert(tmp_path, bare), 0)


def test_prefixes_end_at_a_dot(tmp_path):
    # "encoder" also begins encoder_k, "backbone" also backbone_momentum.
    content = {"state_dict": under("encoder_k.", encoder(1)) | under("encoder.", encoder(0))}
    assert is_encoder(convert(tmp_path, content, encoder="encoder"), 0)


# Sources.


def test_moco_without_ddp_and_without_its_head_in_the_stem(tmp_path):
    tensors = {n.removeprefix("module."): v for n, v in files()["moco"]["state_dict"].items()}
    backbone = convert(tmp_path, {"state_dict": tensors})
    assert is_encoder(backbone, 0)
    assert not [name for name in backbone.state_dict if "fc" in name]


def test_barlow_twins_last_norm_is_not_the_stems(tmp_path):
    # module.bn is over the embedding; its features are not the encoder's.
    state = under("module.backbone.", encoder(0)) | one("module.projector.0.weight")
    state |= under("module.bn.", {"running_mean": torch.full((32,), 9.0)})
    assert is_encoder(convert(tmp_path, {"model": state}), 0)


@pytest.mark.parametrize("name", ["prototypes.weight", "prototypes.prototypes0.weight"])
def test_swav_with_one_and_several_prototypes(name, tmp_path):
    assert convert(tmp_path, under("module.", encoder(0) | one(name))).info["source"] == "swav"


def test_published_resim_files_hold_arrays(tmp_path):
    arrays = {n: v.numpy() for n, v in detectron2(encoder(0)).items()}
    path = str(tmp_path / "resim.pth.tar")
    torch.save({"model": arrays, "__author__": "ReSim", "matching_heuristics": True}, path)
    with pytest.raises(UserError, match=r"numpy\S* which is not read.*--stub-unknown-objects"):
        load_backbone(path)
    assert is_encoder(load_backbone(path, stubs=True, check=False), 0)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": encoder(0) | one("fc.weight")},
        encoder(0),
        {"model": detectron2(encoder(0)), "__author__": "DetCo", "matching_heuristics": True},
    ],
    ids=["state_dict", "bare", "Detectron2"],
)
def test_detco_files_are_what_they_hold_whatever_their_suffix(content, tmp_path):
    path = str(tmp_path / "detco_200ep.pkl")
    torch.save(content, path)
    assert is_encoder(load_backbone(path, check=False), 0)


def test_copies_of_one_encoder_are_not_two(tmp_path):
    backbone = convert(tmp_path, files()["openmmlab-0"])
    assert is_encoder(backbone, 0)
    assert backbone.info["other_encoders"] == ["state_dict > encoder_k.0."]


def test_spijkervets_lightning_files_store_it_twice(tmp_path):
    names = encoder(0)
    content = {"state_dict": under("encoder.", names) | under("model.encoder.", names)}
    content["state_dict"] |= one("projector.0.weight", "model.projector.0.weight")
    backbone = convert(tmp_path, content)
    assert (is_encoder(backbone, 0), backbone.info["source"]) == (True, "simclr-spijkervet")


def test_lightlys_old_generator_has_a_small_stem_and_shortcuts_by_another_name(tmp_path):
    state = {name.replace("downsample", "shortcut"): v for name, v in encoder(0).items()}
    state |= {"conv1.weight": torch.ones(8, 3, 3, 3), "linear.weight": torch.ones(2, 2)}
    assert "does not have: layer1.0.shortcut" in refusal(tmp_path, state)


def test_split_batch_norm_of_lightly_is_named(tmp_path):
    state = encoder(0)
    state["bn1.running_mean"] = torch.zeros(16)
    assert "2 splits of the batch (SplitBatchNorm" in refusal(tmp_path, state)


def test_two_digit_blocks_of_byols_resnet_200():
    name = "block_group_2/~/block_13/~/conv_1/w"
    assert next(item for item in LAYOUTS if item.name == "Haiku").torchvision_name(name) == "layer3.13.conv2.weight"


def test_selective_kernels_of_simclr_v2_are_named(tmp_path):
    state = simclr_v2(encoder(0)) | one("net.1.blocks.0.net.2.main_conv.0.weight")
    assert "Selective Kernel units" in refusal(tmp_path, {"resnet": state})


def test_byol_without_the_statistics_field_is_no_network(tmp_path):
    content = files()["byol-deepmind"]
    content["experiment_state"] = content["experiment_state"]._replace(online_state=None)
    assert "no BatchNorm statistics" in refusal(tmp_path, content, stubs=True)


# Pre-processing.


def test_what_no_tensor_shows_can_be_said(tmp_path):
    known = {
        "INPUT.FORMAT": "BGR",
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.PIXEL_MEAN": [1, 2, 3],
        "MODEL.PIXEL_STD": [4, 5, 6],
    }
    backbone = convert(tmp_path, encoder(0), trained_on=known, check=True)
    config = backbone.config
    assert config["INPUT"]["FORMAT"] == "BGR"
    assert config["MODEL"]["PIXEL_MEAN"] == [1.0, 2.0, 3.0]
    assert config["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is True
    # It is in the file, and kept when that is converted once more.
    path = str(tmp_path / "y.pth")
    write_converted(path, backbone)
    assert load_backbone(path, check=False).config == config


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"INPUT.FORMT": "RGB"}, "did you mean 'INPUT.FORMAT'"),
        ({"INPUT.FORMAT": "rgb"}, "expected RGB or BGR"),
        ({"MODEL.RESNETS.STRIDE_IN_1X1": 1}, "expected True or False"),
        ({"MODEL.PIXEL_MEAN": [0, 0, 0]}, "go together"),
        ({"MODEL.PIXEL_MEAN": [0, 0], "MODEL.PIXEL_STD": [1, 1, 1]}, "expected three numbers"),
    ],
)
def test_what_is_said_is_checked(known, message, tmp_path):
    assert message in refusal(tmp_path, encoder(0), trained_on=known)


# Names and values.


def test_layers_of_a_projector_are_not_layers_of_the_network(tmp_path):
    state = encoder(0) | one("projector.layers.0.weight", "projector.layer1.0.conv1.weight")
    backbone = convert(tmp_path, state)
    assert is_encoder(backbone, 0)
    assert set(backbone.left) == {"counters, which nothing needs", "projectors and heads"}


def test_counters_are_left(tmp_path):
    backbone = convert(tmp_path, encoder(0))
    assert len(backbone.left["counters, which nothing needs"]) == 53
    assert not [name for name in backbone.state_dict if "tracked" in name]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_in_either_file(dtype, tmp_path):
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in encoder(0).items()}
    backbone = convert(tmp_path, state)
    assert is_encoder(backbone, 0, dtype)
    for name in ("y.pth", "y.pkl"):
        write_converted(str(tmp_path / name), backbone)
        assert is_encoder(load_backbone(str(tmp_path / name), check=False), 0, dtype)


# The target.


def test_the_file_holds_tensors_and_nothing_that_detectron2_would_take_for_more(tmp_path):
    state = encoder(0) | one("fc1.weight", "fc.weight")
    path = str(tmp_path / "y.pth")
    write_converted(path, convert(tmp_path, {"state_dict": state, "optimizer": {"a": 1}}))
    content = torch.load(path, weights_only=True)
    assert content.keys() == {"model", "__author__", "matching_heuristics", "pretrain"}
    assert all(isinstance(value, torch.Tensor) for value in content["model"].values())
    assert "fc1.weight" not in content["model"]


def test_pickles_are_of_a_protocol_that_numpy_1_reads(tmp_path):
    path = tmp_path / "y.pkl"
    write_converted(str(path), convert(tmp_path, encoder(0)))
    data = path.read_bytes()
    assert data[:2] == b"\x80\x04"
    assert b"_frombuffer" not in data
    content = DetectionCheckpointer(torch.nn.Linear(1, 1))._load_file(str(path))
    assert (content["__author__"], content["matching_heuristics"]) == ("mls_d2", True)


def test_raw_names_are_not_taken_for_detectron2s_format(tmp_path):
    # Without matching_heuristics Detectron2 loads nothing, with prefixes nothing into C4.
    bare = {"model": detectron2(encoder(0)), "__author__": "x"}
    assert not convert(tmp_path, bare).in_detectron2_format
    assert convert(tmp_path, bare | {"matching_heuristics": True}).in_detectron2_format
    prefixed = {"model": detectron2(encoder(0), "backbone.bottom_up."), "__author__": "x"}
    assert not convert(tmp_path, prefixed | {"matching_heuristics": True}).in_detectron2_format


# Architecture.

SMALL = {"stem_out_channels": 8, "res2_out_channels": 16, "num_groups": 1, "width_per_group": 4}
COUNTS = {18: 100, 34: 180, 50: 265, 101: 520, 152: 775}


@pytest.mark.parametrize("depth", COUNTS)
def test_number_of_tensors(depth):
    basic = {"stem_out_channels": 64, "res2_out_channels": 64, "width_per_group": 64}
    sizes = Architecture(depth, **SMALL | (basic if depth < 50 else {}))
    state = build_backbone(sizes).state_dict()
    assert sum(not name.endswith("tracked") for name in state) == COUNTS[depth]


def shapes(blocks: tuple[int, ...], template: str = "layer{}.{}.conv1.weight") -> dict:
    state = {name: encoder(0)[name] for name in ("conv1.weight", "bn1.running_mean", "bn1.weight")}
    one_of = torch.ones(4, 4, 1, 1)
    for stage, count in enumerate(blocks, start=1):
        state |= {template.format(stage, block): one_of for block in range(count)}
    return state | {"layer1.0.conv2.weight": torch.ones(4, 4, 3, 3)}


def test_34_and_50_have_the_same_blocks():
    basic = shapes((3, 4, 6, 3))
    assert architecture_of(basic).depth == 34
    assert architecture_of(basic | {"layer1.0.conv3.weight": torch.ones(16, 4, 1, 1)}).depth == 50


def test_a_resnet_200_is_refused():
    state = shapes((3, 24, 36, 3)) | {"layer1.0.conv3.weight": torch.ones(16, 4, 1, 1)}
    with pytest.raises(UserError, match=re.escape("stages have [3, 24, 36, 3] bottlenecks")):
        architecture_of(state)


@pytest.mark.parametrize(
    ("first", "second", "sizes"),
    [((128, 128), (1, 128), "wide"), ((128, 4), (32, 4), "ResNeXt"), ((64, 64), (1, 64), "plain")],
)
def test_groups_and_width(first, second, sizes):
    out, inner = first
    state = shapes((3, 4, 6, 3)) | {
        "layer1.0.conv1.weight": torch.ones(out, 64, 1, 1),
        "layer1.0.conv2.weight": torch.ones(out, inner, 3, 3),
        "layer1.0.conv3.weight": torch.ones(256, out, 1, 1),
    }
    found = architecture_of(state)
    assert (found.num_groups, found.width_per_group) == second


# Networks that are none.

GN = {n: v for n, v in encoder(0).items() if "running" not in n and "tracked" not in n}


def without(*names: str) -> dict:
    return {name: value for name, value in encoder(0).items() if name not in names}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoder(0) | {"conv1.weight": torch.ones(8, 3, 3, 3)}, "first convolution is 3×3"),
        (encoder(0) | {"conv1.weight": torch.ones(8, 1, 7, 7)}, "takes 1 channels"),
        (without("conv1.weight") | one("conv1.0.weight"), "a ResNet with a deep stem"),
        (one("cls_token", "patch_embed.proj.weight"), "this is a Vision Transformer"),
        (one("downsample_layers.0.0.weight"), "this is a ConvNeXt"),
        (one("stages.0.0.dwconv.weight", "stem.0.weight"), "this is a ConvNeXt"),
        (encoder(0) | one("layer1.0.conv2.convs.0.weight"), "Selective Kernel units"),
        (GN, r"no BatchNorm statistics (GroupNorm"),
        (encoder(0) | one("layer1.0.se.fc1.weight"), "squeeze-and-excitation or attention"),
        (encoder(0) | one("layer2.0.downsample.2.weight"), "pooling in the shortcuts (ResNet-D)"),
        (encoder(0) | one("layer1.0.conv1.bias"), "biases of convolutions"),
        (encoder(0) | one("layer2.0.aa.filt"), "does not have: layer2.0.aa.filt"),
        (without("layer1.0.conv2.weight"), "layer1.0.conv2.weight is missing"),
        (encoder(0) | {"layer1.0.conv2.weight": torch.ones(4, 3, 3, 3)}, "fit no ResNet"),
        (encoder(0) | {"layer1.0.conv1.weight": torch.ones(4)}, "expected a convolution's 4 axes"),
        (encoder(0) | {"bn1.weight": torch.full((8,), float("inf"))}, "NaN or infinity"),
        (numbered(encoder(0)) | one("4.0.se.fc.weight"), "squeeze-and-excitation"),
        ({"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}}, "no tensors by name"),
        (one("projection_head.0.weight"), "a projector or head in it and no backbone"),
    ],
)  # fmt: skip
def test_other_networks_are_refused_by_name(content, message, tmp_path):
    assert message in refusal(tmp_path, content)


def test_verification_is_on_for_every_layout():
    # A guard for the list in test_convert.py: sizes there are those of the fixtures.
    assert architecture_of(encoder(0)) == NARROW
