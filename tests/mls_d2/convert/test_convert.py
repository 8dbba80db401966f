"""Files of every source, converted, verified, and taken from the right encoder."""

import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from mls_d2.convert.architecture import Architecture, architecture_of, build_torchvision, verify
from mls_d2.convert.convert import load_backbone
from mls_d2.convert.layouts import detectron2_name, torchvision_from_detectron2
from mls_d2.convert.sources import NO_NORMALISATION, SOURCES
from mls_d2.core.errors import UserError
from tests.mls_d2.convert.sources import (
    NARROW,
    caffe2,
    detectron2,
    encoder,
    expected,
    files,
    numbered,
    one,
    under,
    write,
)

FILES = files()


def assert_is(state: dict, expected: dict) -> None:
    wanted = {
        detectron2_name(name): value
        for name, value in expected.items()
        if not name.endswith("num_batches_tracked")
    }
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], value) for name, value in wanted.items())


def test_every_source_has_a_file_here():
    assert FILES.keys() == {source.name for source in SOURCES}


# One of each layout is enough to compare networks.
VERIFIED = (
    "bare", "lightly", "vissl", "hugging-face", "classy-vision", "detectron2", "msra",
    "msra-folded", "fair-x101", "detcon", "simclr-v2",
)  # fmt: skip
UNNORMALISED = {source.name for source in SOURCES if source.normalisation == NO_NORMALISATION}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_the_encoder_that_its_authors_transfer_is_taken(source, tmp_path):
    name = source.name
    check = name in VERIFIED
    backbone = load_backbone(
        write(tmp_path / "file.bin", FILES[name]),
        source="auto" if source.auto else name,
        check=check,
        stubs=name == "byol-deepmind",
    )
    assert backbone.info["source"] == name
    assert_is(backbone.state_dict, expected(name))
    assert (backbone.info["verified"] or 0.0) <= 1e-5
    assert (backbone.info["verified"] is None) == (not check)
    config = backbone.config["MODEL"]
    assert (config["RESNETS"]["DEPTH"], config["RESNETS"]["STEM_OUT_CHANNELS"]) == (50, 8)
    assert config["RESNETS"]["STRIDE_IN_1X1"] == name.startswith("msra")
    assert (config["RESNETS"].get("NORM") == "FrozenBN") == name.endswith("-folded")
    caffe2_names = name.startswith(("msra", "fair"))
    assert backbone.config["INPUT"]["FORMAT"] == ("BGR" if caffe2_names else "RGB")
    assert (config["PIXEL_STD"] == [255.0] * 3) == (name in UNNORMALISED)


def test_another_encoder_can_be_asked_for(tmp_path):
    path = write(tmp_path / "moco.pth.tar", FILES["moco"])
    assert_is(load_backbone(path, encoder="encoder_k").state_dict, encoder(1))
    with pytest.raises(
        UserError, match=r"no encoder 'encoder'; there are\n  'state_dict > encoder_q.'"
    ):
        load_backbone(path, encoder="encoder")


def test_wrappers_come_off_in_any_order_and_depth(tmp_path):
    for prefix in ("module._orig_mod.backbone.", "backbone._orig_mod.", "_orig_mod.module."):
        path = write(tmp_path / "x.pth", {"state_dict": under(prefix, encoder(0))})
        assert_is(load_backbone(path, check=False).state_dict, encoder(0))


def test_two_different_encoders_of_an_unknown_kind_are_refused_with_their_names(tmp_path):
    content = under("first.", encoder(0)) | under("second.", encoder(1))
    path = write(tmp_path / "x.pth", content)
    with pytest.raises(UserError, match=r"(?s)several encoders.*'first.'.*'second.'.*--encoder"):
        load_backbone(path)
    assert_is(load_backbone(path, encoder="second").state_dict, encoder(1))
    same = write(tmp_path / "y.pth", under("first.", encoder(0)) | under("second.", encoder(0)))
    assert load_backbone(same).info["source"] == "unknown"


def test_a_source_that_is_named_must_fit(tmp_path):
    path = write(tmp_path / "x.pth", FILES["moco"])
    with pytest.raises(UserError, match="no checkpoint of source 'dino'; its encoders are"):
        load_backbone(path, source="dino")
    with pytest.raises(UserError, match="no source 'mocco'; did you mean 'moco'"):
        load_backbone(path, source="mocco")


def test_half_precision_views_and_safetensors_arrive_as_plain_float32(tmp_path):
    state = {n: v.half() if v.is_floating_point() else v for n, v in encoder(0).items()}
    state["conv1.weight"] = torch.stack([state["conv1.weight"]] * 2)[1]
    state = {
        n: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v
        for n, v in state.items()
    }
    converted = load_backbone(write(tmp_path / "half.pth", state)).state_dict
    assert all(v.dtype == torch.float32 and v.is_contiguous() for v in converted.values())
    save_file({n: v.contiguous() for n, v in encoder(0).items()}, tmp_path / "x.safetensors")
    assert_is(load_backbone(str(tmp_path / "x.safetensors")).state_dict, encoder(0))


@pytest.mark.parametrize(
    "sizes",
    [
        Architecture(18, 64, 64, 1, 64),
        Architecture(101, 8, 16, 1, 4),
        Architecture(50, 16, 32, 2, 4),
        Architecture(50, 8, 16, 1, 8),
    ],
)
def test_depth_groups_and_widths_are_read_from_the_shapes(sizes, tmp_path):
    state = encoder(0, sizes)
    assert architecture_of(state) == sizes
    path = write(tmp_path / "x.pth", state)
    assert load_backbone(path).info["verified"] <= 1e-5


def test_verification_finds_the_stride_in_the_wrong_place_and_swapped_tensors():
    state = {n: v for n, v in encoder(0).items() if not n.endswith("tracked")}
    assert verify(state, NARROW) <= 1e-5
    original = build_torchvision.__globals__["build_torchvision"]
    moved = Architecture(50, 8, 16, 1, 4, stride_in_1x1=True)
    build_torchvision.__globals__["build_torchvision"] = lambda _: original(moved)
    try:
        with pytest.raises(UserError, match="differs from the original"):
            verify(state, NARROW)
    finally:
        build_torchvision.__globals__["build_torchvision"] = original


def test_names_go_there_and_back():
    for name in encoder(0):
        if not name.endswith("num_batches_tracked"):
            assert torchvision_from_detectron2(detectron2_name(name)) == name
    assert torchvision_from_detectron2("stem.fc.weight") is None
    with pytest.raises(ValueError, match="is not a name of torchvision"):
        detectron2_name("fc.weight")


def changed(**tensors) -> dict:
    return encoder(0) | tensors


REFUSED = {
    "cifar": (changed(**{"conv1.weight": torch.ones(8, 3, 3, 3)}), "first convolution is 3×3"),
    "grey": (changed(**{"conv1.weight": torch.ones(8, 1, 7, 7)}), "takes 1 channels"),
    "deep stem": (
        {n: v for n, v in encoder(0).items() if n != "conv1.weight"} | one("conv1.0.weight"),
        "deep stem",
    ),
    "vit": (one("cls_token", "blocks.0.attn.qkv.weight"), "a Vision Transformer"),
    "convnext": (one("downsample_layers.0.0.weight"), "a ConvNeXt"),
    "no norm": (
        {n: v for n, v in encoder(0).items() if "running" not in n},
        "no BatchNorm statistics",
    ),
    "projector": (one("projector.0.weight", "projector.2.weight"), "no backbone"),
    "optimizer": ({"optimizer": {"state": {0: {}}, "param_groups": []}}, "no tensors by name"),
    "nan": (
        changed(**{"layer1.0.conv1.weight": torch.full((4, 8, 1, 1), float("nan"))}),
        "res2.0.conv1.weight holds NaN",
    ),
    "missing": (
        {n: v for n, v in encoder(0).items() if n != "layer3.1.bn2.bias"},
        "res4.1.conv2.norm.bias is missing",
    ),
    "shape": (
        changed(**{"layer4.2.conv3.weight": torch.ones(128, 31, 1, 1)}),
        r"res5.2.conv3.weight is \(128, 31, 1, 1\), expected \(128, 32, 1, 1\)",
    ),
    "depth": (
        {n: v for n, v in encoder(0).items() if not n.startswith("layer3.5")},
        r"stages have \[3, 4, 5, 3\] bottlenecks",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_whole_resnet_is_refused_by_name(name, tmp_path):
    content, message = REFUSED[name]
    with pytest.raises(UserError, match=f"x.pth'.*{message}"):
        load_backbone(write(tmp_path / "x.pth", content))


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


class Innocent:
    """An object of a training framework, say."""


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("hostile", [Evil(), Innocent()])
def test_objects_are_refused_and_with_a_flag_replaced_but_never_run(
    legacy, hostile, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": encoder(0), "hooks": [hostile], "args": argparse.Namespace(a=1)}
    torch.save(content, "x.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="could run code.*--stub-unknown-objects"):
        load_backbone("x.pth")
    assert_is(load_backbone("x.pth", stubs=True).state_dict, encoder(0))
    assert not os.path.exists("pwned")


def test_pickles_of_arrays_with_objects_beside_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = caffe2(encoder(0)) | {"config": Evil()}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="could run code"):
        load_backbone("x.pkl")
    assert_is(load_backbone("x.pkl", stubs=True).state_dict, encoder(0))
    assert not os.path.exists("pwned")


def test_tensors_in_plain_pickles_are_not_loaded_by_torch_behind_our_back(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": detectron2(encoder(0))}))
    for stubs in (False, True):
        with pytest.raises(UserError):
            load_backbone(str(tmp_path / "x.pkl"), stubs=stubs)


def test_torchscript_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(UserError, match="TorchScript archive"):
        load_backbone(str(tmp_path / "x.pt"))


def test_the_file_names_do_not_matter(tmp_path):
    path = write(tmp_path / "dino_deitsmall16.pkl", FILES["barlow-twins"])
    assert load_backbone(path, check=False).info["source"] == "barlow-twins"
    assert numbered(encoder(0)).keys() != encoder(0).keys()
