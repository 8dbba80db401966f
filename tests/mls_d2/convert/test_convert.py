"""Files of every source are converted, verified, and taken from the right encoder."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from safetensors.torch import save_file

from mls_d2.checkpoint.backbone_file import read_backbone
from mls_d2.convert.architecture import build_torchvision
from mls_d2.convert.convert import load_backbone, write_converted
from mls_d2.convert.sources import NORMALISATIONS, SOURCES
from tests.mls_d2.convert.sources import (
    NARROW,
    assert_is,
    caffe2,
    convert,
    detectron2,
    encoder,
    expected,
    files,
    hugging_face,
    one,
    pair,
    take,
    under,
)

# Sources.

# One of each layout is enough to compare networks.
VERIFIED = (
    "bare", "lightly", "vissl", "hugging-face", "classy-vision", "detectron2", "msra",
    "msra-folded", "fair-x101", "detcon", "simclr-v2",
)  # fmt: skip
UNNORMALISED = {source.name for source in SOURCES if source.normalisation == NORMALISATIONS["none"]}


def test_every_source_has_a_file_here():
    assert files().keys() == {source.name for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_the_encoder_that_its_authors_transfer_is_taken(source, tmp_path):
    name = source.name
    check = name in VERIFIED
    backbone = convert(
        tmp_path,
        files()[name],
        source="auto" if source.auto else name,
        check=check,
        stubs=name == "byol-deepmind",
    )
    assert backbone.info["source"] == name
    assert_is(backbone, expected(name))
    assert (backbone.info["verified"] or 0.0) <= 1e-5
    assert (backbone.info["verified"] is None) == (not check)
    config = backbone.config["MODEL"]
    assert (config["RESNETS"]["DEPTH"], config["RESNETS"]["STEM_OUT_CHANNELS"]) == (50, 8)
    assert config["RESNETS"]["STRIDE_IN_1X1"] == name.startswith("msra")
    assert (config["RESNETS"].get("NORM") == "FrozenBN") == name.endswith("-folded")
    caffe2_names = name.startswith(("msra", "fair"))
    assert backbone.config["INPUT"]["FORMAT"] == ("BGR" if caffe2_names else "RGB")
    assert (config["PIXEL_STD"] == [255.0] * 3) == (name in UNNORMALISED)


ONE_PROTOTYPE = under("module.", encoder(0) | one("prototypes.prototypes0.weight"))
BACKBONE = under("module.backbone.", encoder(0)) | one("module.projector.0.weight")
FEATURES = under("module.base_model._feature_blocks.", encoder(0))
TRUNK = {"classy_state_dict": {"base_model": {"model": {"trunk": FEATURES}}}}
AVERAGED = under("backbone.", encoder(0)) | under("target_net.module.0.", encoder(1))
DETCO = {"model": detectron2(encoder(0)), "__author__": "DetCo", "matching_heuristics": True}
# What published files of a source have beside, or instead of, what files() has.
VARIANTS = {
    "moco without DDP": ({"state_dict": {
        n.removeprefix("module."): v for n, v in files()["moco"]["state_dict"].items()
    }}, "moco"),
    "moco under model": ({"model": files()["moco"]["state_dict"]}, "moco"),
    "pixpro under state_dict": ({"state_dict": files()["pixpro"]["model"]}, "pixpro"),
    "swav with several prototypes": (ONE_PROTOTYPE, "swav"),
    # module.bn is over the embedding; its features are not the encoder's.
    "barlow twins' last norm": (
        {"model": BACKBONE | {"module.bn.running_mean": torch.full((32,), 9.0)}}, "barlow-twins"),
    "hugging face without its head's prefix": (
        {n.removeprefix("resnet."): v for n, v in hugging_face(encoder(0)).items()},
        "hugging-face"),
    "vissl of feature extraction": (TRUNK, "vissl"),
    "lightning stores it twice": (
        {"state_dict": under("encoder.", encoder(0)) | under("model.encoder.", encoder(0))
         | one("projector.0.weight")}, "simclr-spijkervet"),
    "mmengine swaps the averages into the state_dict": (
        {"state_dict": AVERAGED, "ema_state_dict": under("module.backbone.", encoder(1))},
        "openmmlab-1"),
    "detco in detectron2's names": (DETCO, "detectron2"),
    "an old checkpoint without momentum": (
        pair("encoder.backbone.", "", "encoder.projector.0.weight", at="model", names=detectron2),
        "mls_d2"),
    "a projector with layers": (
        encoder(0) | one("projector.layers.0.weight", "projector.layer1.0.conv1.weight"), "bare"),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_published_files(variant):
    content, source = VARIANTS[variant]
    backbone = take(content)
    assert_is(backbone, encoder(0))
    assert backbone.info["source"] == source


@pytest.mark.parametrize(
    "prefix",
    [
        "module._orig_mod.backbone.",
        "_orig_mod.module.",
        "_fsdp_wrapped_module.",
        "backbone._fsdp_wrapped_module._checkpoint_wrapped_module.",
    ],
)
def test_prefixes_of_wrappers_come_off_in_any_order_and_depth(prefix):
    assert_is(take({"state_dict": under(prefix, encoder(0))}), encoder(0))
    # Activation checkpointing wraps blocks.
    inside = {
        n.replace(".conv", "._checkpoint_wrapped_module.conv"): v for n, v in encoder(0).items()
    }
    assert_is(take(under(prefix, inside)), encoder(0))


def test_different_copies_of_one_tensor_are_refused_and_equal_ones_are_not(refuses):
    state = encoder(0) | {"module.conv1.weight": encoder(0)["conv1.weight"]}
    assert_is(take(state), encoder(0))
    state["module.conv1.weight"] = encoder(1)["conv1.weight"]
    with refuses("two-copies", "conv1.weight"):
        take(state)
    # Neither float8 nor NaN can be compared by value.
    small = {n: v.to(torch.float8_e5m2) for n, v in encoder(0).items() if v.is_floating_point()}
    copies = under("first.", small) | under("second.", {n: v.clone() for n, v in small.items()})
    assert_is(take(copies), encoder(0), torch.float8_e5m2)
    faulty = {n: torch.full_like(v, torch.nan) for n, v in encoder(0).items() if "conv" in n}
    with refuses("bad-tensor"):
        take(encoder(0) | faulty | under("module.", {n: v.clone() for n, v in faulty.items()}))
    split = detectron2(encoder(0), "backbone.") | detectron2(encoder(1), "roi_heads.")
    with refuses("two-copies"):
        take({"model": split}, source="detectron2-c4", encoder="backbone.")


def test_another_encoder_can_be_asked_for(refuses):
    content = files()["moco"]
    assert_is(take(content, encoder="encoder_k"), encoder(1))
    assert_is(take(files()["mls_d2"], encoder="momentum_encoder.backbone"), encoder(1))
    # Prefixes end at a dot: "encoder" also begins encoder_q.
    with refuses("unknown-name", "'state_dict > encoder_q.'"):
        take(content, encoder="encoder")


@pytest.mark.parametrize("entry", ["model_ema", "state_dict_ema", "ema_state_dict"])
def test_averages_beside_the_weights_are_left_and_can_be_asked_for(entry):
    averaged = {entry: under("module.encoder.", encoder(1))}
    content = averaged | pair("encoder.", "", "head.0.weight", at="model")
    backbone = take(content)
    assert_is(backbone, encoder(0))
    assert backbone.info["other_encoders"] == [f"{entry} > encoder."]
    assert_is(take(content, encoder=f"{entry} > encoder."), encoder(1))
    bare = {entry: under("module.", encoder(1)), "model": encoder(0)}
    assert_is(take(bare), encoder(0))
    assert_is(take(bare, encoder=entry), encoder(1))


def test_two_different_encoders_of_an_unknown_kind_are_refused_and_copies_are_not(refuses):
    content = pair("first.", "second.", at="")
    with refuses("many-encoders", "'first.'", "'second.'"):
        take(content)
    assert_is(take(content, encoder="second"), encoder(1))
    same = under("first.", encoder(0)) | under("second.", encoder(0))
    assert take(same).info["source"] == "unknown"
    twice = take(files()["openmmlab-0"])
    assert twice.info["other_encoders"] == ["state_dict > encoder_k.0."]


def test_a_source_that_is_named_must_fit(refuses):
    with refuses("other-source"):
        take(files()["moco"], source="dino")
    with refuses("unknown-name", "did you mean 'moco'"):
        take(files()["moco"], source="mocco")


# Containers and values.


def test_names_are_sorted_by_the_reason_for_leaving_them(tmp_path):
    left = take(files()["moco"]).left
    assert left["queues, prototypes and memories"] == ["queue"]
    assert left["projectors and heads"] == ["encoder_q.fc.0.weight"]
    assert len(left["other encoders or copies of this one"]) == 265
    assert len(left["counters, which nothing needs"]) == 2 * 53
    momentum = {"blobs": caffe2(encoder(0)) | {"conv1_w_momentum": np.ones((8, 3, 7, 7))}}
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(momentum, protocol=2))
    assert load_backbone(str(path), check=False).left["no part of a ResNet"] == ["conv1_w_momentum"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_views_become_plain_float32_in_either_file(dtype, tmp_path):
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in encoder(0).items()}
    state["conv1.weight"] = torch.stack([state["conv1.weight"]] * 2)[1]
    state = {
        n: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v
        for n, v in state.items()
    }
    backbone = convert(tmp_path, state)
    assert_is(backbone, encoder(0), dtype)
    for name in ("y.pth", "y.pkl"):
        write_converted(str(tmp_path / name), backbone)
        assert_is(load_backbone(str(tmp_path / name), check=False), encoder(0), dtype)


def test_safetensors_and_arrays_in_torch_files(tmp_path, refuses):
    save_file({n: v.contiguous() for n, v in encoder(0).items()}, tmp_path / "x.safetensors")
    assert_is(load_backbone(str(tmp_path / "x.safetensors"), check=False), encoder(0))
    # As the published files of ReSim.
    path = str(tmp_path / "resim.pth.tar")
    arrays = {n: v.numpy() for n, v in detectron2(encoder(0)).items()}
    torch.save({"model": arrays, "matching_heuristics": True}, path)
    with refuses("unsafe-file", "--stub-unknown-objects"):
        load_backbone(path)
    assert_is(load_backbone(path, stubs=True, check=False), encoder(0))


@pytest.mark.parametrize(
    "content", [lambda net: net, lambda net: {"epoch": 3, "model": net}, lambda net: ("r50", net)]
)
def test_whole_modules_are_explained_and_read_with_stubs(content, tmp_path, refuses):
    net = build_torchvision(NARROW)
    net.load_state_dict(encoder(0))
    net.bn1.register_buffer("scratch", torch.ones(1), persistent=False)
    path = str(tmp_path / "module.pth")
    torch.save(content(torch.nn.DataParallel(net)), path)
    with refuses("unsafe-file", "state_dict()"):
        load_backbone(path)
    assert_is(load_backbone(path, stubs=True, check=False), encoder(0))


def odd(kind: str) -> torch.Tensor:
    dense = encoder(0)["layer1.0.conv1.weight"]
    if kind == "meta":
        return dense.to("meta")
    if kind == "sparse":
        return dense.to_sparse()
    if kind == "nested":
        return torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])
    if kind == "quantized":
        return torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8)
    return dense.to(getattr(torch, kind))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["meta", "sparse", "nested", "quantized", "int64", "bool", "complex64"]
)
def test_tensors_without_plain_values_are_refused_by_name(kind, tmp_path, refuses):
    state = encoder(0) | {"layer1.0.conv1.weight": odd(kind)}
    with refuses("bad-tensor", "layer1.0.conv1.weight is ", kind):
        convert(tmp_path, {"state_dict": under("module.", state)}, check=True)
    if kind != "nested":  # Also beside an object that needs stubs.
        with refuses("bad-tensor", kind):
            convert(tmp_path, state | {"hook": torch.nn.ReLU()}, stubs=True)
    # Beside the encoder they harm nothing.
    harmless = {"other.weight": odd(kind), "other.bias": odd(kind)}
    assert_is(convert(tmp_path, encoder(0) | harmless), encoder(0))


@pytest.mark.parametrize("value", [-1e-9, -0.1])
def test_negative_variances_are_refused_but_not_rounding(refuses, value):
    variance = encoder(0)["bn1.running_var"].clone()
    variance[0] = value
    state = encoder(0) | {"bn1.running_var": variance}
    if value > -1e-6:
        assert_is(take(state), state)
    else:
        with refuses("bad-tensor", "bn1.running_var", "negative"):
            take(state)


# Metadata.


def test_what_no_tensor_shows_can_be_corrected(tmp_path):
    known = {
        "INPUT.FORMAT": "BGR",
        "MODEL.RESNETS.STRIDE_IN_1X1": "True",
        "MODEL.PIXEL_MEAN": [1, 2, 3],
        "MODEL.PIXEL_STD": "[4, 5, 6]",
    }
    backbone = take(encoder(0), trained_on=known, check=True)
    config = backbone.config
    assert config["INPUT"]["FORMAT"] == "BGR"
    assert config["MODEL"]["PIXEL_MEAN"] == [1.0, 2.0, 3.0]
    assert config["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is True
    # It is in the file, and kept if that is converted once more.
    path = str(tmp_path / "y.pth")
    write_converted(path, backbone)
    assert load_backbone(path, check=False).config == config


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({"INPUT.FORMT": "RGB"}, "unknown-name"),
        ({"INPUT.FORMAT": "rgb"}, "bad-value"),
        ({"INPUT.FORMAT": "[a"}, "bad-value"),
        ({"MODEL.RESNETS.STRIDE_IN_1X1": 1}, "bad-value"),
        ({"MODEL.PIXEL_MEAN": [0, 0, 0]}, "bad-value"),
        ({"MODEL.PIXEL_MEAN": "[.nan, 0, 0]", "MODEL.PIXEL_STD": [1, 1, 1]}, "bad-value"),
        ({"MODEL.PIXEL_MEAN": [0, 0, 0], "MODEL.PIXEL_STD": [1, 0, 1]}, "bad-value"),
        ({"MODEL.PIXEL_MEAN": [0, 0], "MODEL.PIXEL_STD": [1, 1, 1]}, "bad-value"),
    ],
)
def test_corrections_are_checked(known, code, refuses):
    with refuses(code):
        take(encoder(0), trained_on=known)


INFO = {
    "method": "mls", "dataset": ["coco_2017_train"], "epochs": 8.0, "iterations": 80,
    "config": "MODEL: {}\n", "synthetic": True, "pixel_mean": [1.0, 2.0, 3.0],
    "pixel_std": [4.0, 5.0, 6.0], "input_format": "BGR",
}  # fmt: skip


def test_our_own_checkpoints_keep_their_metadata(tmp_path):
    path = str(tmp_path / "y.pth")
    for name in ("mls_d2", "detectron2-fpn", "detectron2-c4"):
        content = files()[name] | {"metadata": {"pretrain": INFO}, "iteration": 9}
        write_converted(path, take(content))
        info = read_backbone(path).info
        assert {key: info[key] for key in INFO} == INFO
        assert info["source"] == name
    # A detector trained from random weights is not a backbone of the method "random".
    content = files()["detectron2-fpn"] | {"metadata": {"pretrain": {"method": "random"}}}
    assert take(content).info["method"] == "detectron2-fpn"


def test_a_checkpoint_of_an_unfinished_pretraining_run_has_its_own_epochs():
    metadata = {"kind": "pretraining checkpoint", "method": "mls", "pretrain": INFO}
    content = files()["mls_d2"] | {"metadata": metadata, "iteration": 19}
    info = take(content).info
    assert (info["epochs"], info["iterations"], info["synthetic"]) == (2.0, 20, True)
    # A first stage is over.
    staged = {**metadata, "epochs_before": 4.0}
    info = take(content | {"metadata": staged}).info
    assert (info["epochs"], info["iterations"], info["planned_iterations"]) == (5.0, 20, 80)
    # Checkpoints of before have the method alone.
    del metadata["pretrain"]
    assert take(content | {"metadata": metadata}).info["method"] == "mls"


# The target.


def test_the_file_holds_tensors_and_nothing_that_detectron2_would_take_for_more(tmp_path):
    state = encoder(0) | one("fc1.weight", "fc.weight")
    backbone = take({"state_dict": state, "optimizer": {"a": 1}})
    write_converted(str(tmp_path / "y.pth"), backbone)
    content = torch.load(tmp_path / "y.pth", weights_only=True)
    assert content.keys() == {"model", "__author__", "matching_heuristics", "pretrain"}
    assert content["model"].keys() == backbone.state_dict.keys()
    # A pickle is of a protocol that NumPy 1 reads.
    write_converted(str(tmp_path / "y.pkl"), backbone)
    data = (tmp_path / "y.pkl").read_bytes()
    assert data[:2] == b"\x80\x04"
    assert b"_frombuffer" not in data
    content = DetectionCheckpointer(torch.nn.Linear(1, 1))._load_file(str(tmp_path / "y.pkl"))
    assert (content["__author__"], content["matching_heuristics"]) == ("mls_d2", True)


def test_raw_names_are_not_taken_for_detectron2s_format():
    # Without matching_heuristics Detectron2 loads nothing, with prefixes nothing into C4.
    bare = {"model": detectron2(encoder(0)), "__author__": "x"}
    assert not take(bare).in_detectron2_format
    assert take(bare | {"matching_heuristics": True}).in_detectron2_format
    prefixed = {"model": detectron2(encoder(0), "backbone.bottom_up."), "__author__": "x"}
    assert not take(prefixed | {"matching_heuristics": True}).in_detectron2_format
