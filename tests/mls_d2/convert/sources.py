"""Synthetic files of every source: the real containers and names around a narrow ResNet."""

import argparse
import collections
import functools
import pickle
import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from mls_d2.convert import convert as convert_module
from mls_d2.convert.architecture import Architecture, build_torchvision
from mls_d2.convert.convert import load_backbone
from mls_d2.convert.layouts import detectron2_name

NARROW = Architecture(50, 8, 16, 1, 4)
# FAIR's ResNeXt has 32 groups.
GROUPED = Architecture(50, 8, 64, 32, 1)
State = dict[str, Tensor]


def encoder(seed: int, architecture: Architecture = NARROW) -> State:
    """Return a ResNet's tensors by torchvision's names, statistics and all at random."""
    return dict(_encoder(seed, architecture))


@functools.cache
def _encoder(seed: int, architecture: Architecture) -> State:
    torch.manual_seed(seed)
    net = build_torchvision(architecture)
    for name, value in net.state_dict().items():
        if value.is_floating_point() and ("bn" in name or "downsample.1" in name):
            value.copy_(torch.rand_like(value) + 0.5)
    return {name: value.clone() for name, value in net.state_dict().items()}


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def numbered(state: State) -> State:
    def name(key: str) -> str:
        key = re.sub(r"^layer(\d)", lambda m: str(int(m[1]) + 3), key)
        return key.replace("conv1.", "0.", 1).replace("bn1.", "1.", 1) if key[0] in "cb" else key

    return {name(key): value for key, value in state.items()}


def hugging_face(state: State) -> State:
    rules = [
        (r"^conv1\.", "resnet.embedder.embedder.convolution."),
        (r"^bn1\.", "resnet.embedder.embedder.normalization."),
        (r"^layer(\d)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers."),
        (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
        (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
        (r"downsample\.0", "shortcut.convolution"),
        (r"downsample\.1", "shortcut.normalization"),
    ]
    return _renamed(state, rules)


def classy_vision(state: State) -> State:
    rules = [
        (r"^conv1\.", "initial_block._module.0."),
        (r"^bn1\.", "initial_block._module.1."),
        (r"^layer(\d)\.(\d)\.", lambda m: f"blocks.{int(m[1]) - 1}.block{int(m[1]) - 1}-{m[2]}."),
        (r"\.conv(\d)\.", lambda m: f".convolutional_block.{3 * int(m[1]) - 3}."),
        (r"\.bn3\.", ".bn."),
        (r"\.bn(\d)\.", lambda m: f".convolutional_block.{3 * int(m[1]) - 2}."),
    ]
    return _renamed(state, rules)


def caffe2(state: State, leaves: tuple[str, str] = ("gamma", "beta")) -> dict[str, Any]:
    rules = [
        (r"^conv1\.weight", "conv1_w"),
        (r"^bn1\.", "res_conv1_bn_"),
        (r"^layer(\d)\.(\d)\.", lambda m: f"res{int(m[1]) + 1}_{m[2]}_"),
        (r"conv(\d)\.weight", lambda m: f"branch2{'abc'[int(m[1]) - 1]}_w"),
        (r"bn(\d)\.", lambda m: f"branch2{'abc'[int(m[1]) - 1]}_bn_"),
        (r"downsample\.0\.weight", "branch1_w"),
        (r"downsample\.1\.", "branch1_bn_"),
        (r"_bn_weight", f"_bn_{leaves[0]}"),
        (r"_bn_bias", f"_bn_{leaves[1]}"),
    ]
    plain = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    return {name: value.numpy() for name, value in _renamed(plain, rules).items()}


def caffe2_folded(state: State) -> dict[str, Any]:
    """Weights and biases alone, as scale and shift."""
    named = caffe2(state, ("s", "b"))
    return {name: value for name, value in named.items() if "running" not in name}


def folded(state: State) -> State:
    """What folded norms stand for: mean 0 and variance 1, with BatchNorm's epsilon."""
    return {
        name: torch.zeros_like(value)
        if name.endswith("running_mean")
        else torch.ones_like(value) - 1e-5
        if name.endswith("running_var")
        else value
        for name, value in state.items()
    }


ExperimentState = collections.namedtuple(  # the state of BYOL's training
    "ExperimentState", "online_params target_params online_state target_state opt_state"
)


class FlatMapping:
    """Haiku's container: made from a dict when it is unpickled."""

    def __init__(self, content: dict) -> None:
        self.content = content

    def __reduce__(self) -> Any:
        return type(self), (self.content,)


def haiku(state: State) -> tuple[dict, dict]:
    """Return parameters and statistics, HWIO and (1, 1, 1, C), beside a projector."""
    rules = [
        (r"^conv1\.", "res_net50/~/initial_conv "),
        (r"^bn1\.", "res_net50/~/initial_batchnorm "),
        (
            r"^layer(\d)\.(\d+)\.",
            lambda m: f"res_net50/~/block_group_{int(m[1]) - 1}/~/block_{m[2]}/~/",
        ),
        (r"/conv(\d)\.", lambda m: f"/conv_{int(m[1]) - 1} "),
        (r"/bn(\d)\.", lambda m: f"/batchnorm_{int(m[1]) - 1} "),
        (r"/downsample\.0\.", "/shortcut_conv "),
        (r"/downsample\.1\.", "/shortcut_batchnorm "),
    ]
    params: dict = {"projector/~/linear": {"w": np.ones((3, 3), np.float32)}}
    statistics: dict = {}
    for name, value in _renamed(state, rules).items():
        module, _, leaf = name.partition(" ")
        if value.ndim == 4:
            params.setdefault(module, {})["w"] = value.permute(2, 3, 1, 0).numpy()
        elif leaf in ("weight", "bias"):
            key = {"weight": "scale", "bias": "offset"}[leaf]
            params.setdefault(module, {})[key] = value.view(1, 1, 1, -1).numpy()
        elif leaf.startswith("running"):
            average = value.view(1, 1, 1, -1).numpy()
            statistics[f"{module}/~/{leaf.removeprefix('running_')}_ema"] = {
                "average": average,
                "hidden": average,
                "counter": np.int32(7),
            }
    return params, statistics


def simclr_v2(state: State) -> State:
    rules = [
        (r"^conv1\.", "net.0.0."),
        (r"^bn1\.", "net.0.1.0."),
        (r"^layer(\d)\.(\d+)\.", r"net.\1.blocks.\2."),
        (r"\.conv(\d)\.", lambda m: f".net.{2 * int(m[1]) - 2}."),
        (r"\.bn(\d)\.", lambda m: f".net.{2 * int(m[1]) - 1}.0."),
        (r"downsample\.0\.", "projection.shortcut."),
        (r"downsample\.1\.", "projection.bn.0."),
    ]
    return _renamed(state, rules)


def detectron2(state: State, prefix: str = "", res5: str | None = None) -> State:
    out = {}
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            ours = detectron2_name(name)
            out[(res5 if res5 is not None and ours.startswith("res5") else prefix) + ours] = value
    return out


def _renamed(state: State, rules: list) -> State:
    out = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    return out


def one(*names: str) -> State:
    """Heads and buffers that lie beside an encoder."""
    return {name: torch.ones(3, 3) for name in names}


def write(path: Path, content: Any) -> str:
    """Write a file in the container that its source has: torch's, a pickle, or .npy."""
    if isinstance(content, np.ndarray):
        with path.open("wb") as file:
            np.save(file, content, allow_pickle=True)
    elif "experiment_state" in content or any(
        isinstance(value, np.ndarray) for value in content.values()
    ):
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    return str(path)


def expected(source: str) -> State:
    """Return the encoder to be taken from the file of :func:`files`."""
    state = encoder(0, GROUPED if source.startswith("fair") else NARROW)
    return folded(state) if source.endswith("-folded") else state


def pair(taken: str, other: str = "", *heads: str, at: str = "state_dict", names=dict) -> dict:
    """Return a file with encoder 0 under one prefix, 1 under another, and heads beside them."""
    state = under(taken, names(encoder(0))) | one(*heads)
    state |= under(other, names(encoder(1))) if other else {}
    return {at: state} if at else state


@functools.cache
def files() -> dict[str, Any]:
    """Return, by source, the content of a file of it, to be taken as :func:`expected`."""
    return _arrays() | _global_methods() | _scene_methods() | _libraries()


def _arrays() -> dict[str, Any]:
    """Return files of NumPy arrays."""
    q, k, grouped = encoder(0), encoder(1), encoder(0, GROUPED)
    (params, statistics), (target, target_statistics) = haiku(q), haiku(k)
    single = np.empty((), object)
    single[()] = {"params": params, "state": statistics}
    maps = (params, target, statistics, target_statistics)
    state = ExperimentState(*map(FlatMapping, maps), [np.ones(3)])
    return {
        "msra": caffe2(q) | {"fc1000_w": np.ones((3, 3)), "conv1_w_momentum": np.ones(3)},
        "msra-folded": caffe2_folded(q),
        "fair-x101": caffe2(grouped),
        "fair-x101-folded": caffe2_folded(grouped),
        "byol-deepmind": {"experiment_state": state, "step": 3, "rng": np.zeros(2, np.uint32)},
        "detcon": single,
    }


def _global_methods() -> dict[str, Any]:
    state = {"args": argparse.Namespace(lr=0.1), "epoch": 3}
    m, mlp = "module.", "encoder_q.fc.0.weight"
    byol = pair("encoder.", at="online_network_state_dict", names=numbered)
    byol |= {"target_network_state_dict": under("encoder.", numbered(encoder(1)))}
    return {
        "bare": pair("", "", "fc.weight", at=""),
        "moco": pair(f"{m}encoder_q.", f"{m}encoder_k.", f"{m}queue", m + mlp) | state,
        "moco-v3": pair(f"{m}base_encoder.", f"{m}momentum_encoder.", f"{m}predictor.0.weight"),
        "simsiam": pair(f"{m}encoder.", "", f"{m}encoder.fc.0.weight", f"{m}predictor.0.weight"),
        "pycontrast": pair(f"{m}encoder.", "", f"{m}head.0.weight", at="model")
        | {"model_ema": under(f"{m}encoder.", encoder(1))},
        "barlow-twins": pair(
            f"{m}backbone.", "", f"{m}projector.0.weight", f"{m}bn.running_mean", at="model"
        ),
        "vicreg": pair(f"{m}backbone.", "", f"{m}projector.0.weight", at="model"),
        "swav": pair(m, "", f"{m}prototypes.weight", f"{m}projection_head.0.weight", at=""),
        "dino": pair(f"{m}backbone.", "", f"{m}head.mlp.0.weight", at="teacher")
        | {"student": under(f"{m}backbone.", encoder(1))},
        "simclr-google": pair("", "", "fc.weight"),
        "simclr-v2": pair("", "", "fc.weight", at="resnet", names=simclr_v2),
        "simclr-sthalles": pair("backbone.", "", "backbone.fc.0.weight"),
        "simclr-spijkervet": pair("encoder.", "", "projector.0.weight", at=""),
        "byol-yaox12": pair(
            f"{m}online_network.encoder.", f"{m}target_network.encoder.", at="model", names=numbered
        ),
        "byol-yaox12-backbone": pair("", at="online_backbone", names=numbered),
        "byol-sthalles": byol,
        "byol-sthalles-encoder": pair("", at="encoder_state_dict", names=numbered),
        "byol-lucidrains": pair("net.", "target_encoder.net.", at="")
        | under("online_encoder.net.", encoder(0)),
    }


def _scene_methods() -> dict[str, Any]:
    m, q, k = "module.", encoder(0), encoder(1)
    return {
        "slotcon": pair(
            f"{m}encoder_k.", f"{m}encoder_q.", f"{m}grouping_q.slot_embed.weight", at="model"
        ),
        "pixpro": pair(
            f"{m}encoder.", f"{m}encoder_k.", f"{m}value_transform.weight", at="model"
        ),
        "soco": pair(
            f"{m}encoder.", f"{m}encoder_k.", f"{m}neck.lateral_convs.0.conv.weight",
            f"{m}projector.linear1.weight", at="model",
        ),
        "resim": pair(f"{m}encoder_q.", f"{m}encoder_k.", f"{m}encoder_q.fpn_lateral3.weight"),
        "setsim": pair(f"{m}encoder_q.0.", f"{m}encoder_k.0.", f"{m}encoder_q.1.weight"),
        "lewel": pair(
            f"{m}online_net.backbone.", f"{m}target_net.backbone.",
            f"{m}online_net.neck.proj_obj.0.weight", f"{m}predictor_obj.mlp.0.weight",
        ),
        "revisiting-contrastive": pair(
            f"{m}encoder_q.", f"{m}encoder_k.", f"{m}queue_backbone"
        ),
        "insloc": {
            "state_dict": under("backbone.", {n: v for n, v in q.items() if "layer4" not in n})
            | under("roi_head.shared_head.", {n: v for n, v in q.items() if "layer4" in n})
            | under("backbone_k.", k)
            | one("queue")
        },
        "openmmlab-0": {
            "state_dict": under("backbone.", q)
            | under("encoder_q.0.", q)
            | under("encoder_k.0.", k)
            | one("neck.mlp.0.weight", "queue")
        },
        "openmmlab-1": pair("backbone.", "encoder_k.module.0.", "neck.mlp.0.weight"),
    }  # fmt: skip


def _libraries() -> dict[str, Any]:
    q, k = encoder(0), encoder(1)

    def vissl(trunk: State, **others: Any) -> dict:
        model = {"trunk": trunk, "heads": one("0.clf.0.weight")}
        return {"classy_state_dict": {"base_model": {"model": model}} | others}

    return {
        "vissl": vissl(under("_feature_blocks.", q)),
        "vissl-dino": vissl(
            under("_feature_blocks.", k),
            loss=under("momentum_teacher.module.trunk._feature_blocks.", q)
            | one("momentum_teacher.module.heads.0.weight", "center"),
        ),
        "classy-vision": vissl(classy_vision(q)),
        "hugging-face": hugging_face(q) | one("classifier.1.weight"),
        "lightly-benchmark": pair(
            "backbone.", "teacher_backbone.", "online_classifier.linear.weight"
        ),
        "lightly-dino": pair("teacher_backbone.", "student_backbone.", names=numbered),
        "lightly": pair(
            "backbone.", "backbone_momentum.", "projection_head.layers.0.weight", names=numbered
        ),
        "solo-learn": pair("backbone.", "momentum_backbone.", "classifier.weight"),
        "solo-learn-old": pair("encoder.", "momentum_encoder.", "classifier.weight"),
        "detectron2": {"model": detectron2(q), "__author__": "x", "matching_heuristics": True},
        "detectron2-fpn": pair(
            "backbone.bottom_up.", "", "backbone.fpn_lateral2.weight", at="model", names=detectron2
        ),
        "detectron2-c4": {
            "model": detectron2(q, "backbone.", "roi_heads.")
            | one("roi_heads.box_predictor.cls_score.weight")
        },
        "detectron2-model": pair(
            "backbone.", "", "sem_seg_head.predictor.weight", at="model", names=detectron2
        ),
        "mls_d2-teacher": pair(
            "momentum_encoder.backbone.", "encoder.backbone.", "encoder.projector.0.weight",
            "centre", at="model", names=detectron2,
        ),
        "mls_d2": pair(
            "encoder.backbone.", "momentum_encoder.backbone.", "encoder.projector.0.weight",
            at="model", names=detectron2,
        ),
        "mls_d2-pair": pair(
            "pair.backbone.", "pair.momentum_backbone.", "dictionary.z", at="model",
            names=detectron2,
        ),
    }  # fmt: skip


def convert(tmp_path, content, **options):
    return load_backbone(write(tmp_path / "x.bin", content), **{"check": False} | options)


def take(content, **options):
    """Convert content without writing and reading a file, which takes most of the time."""
    with (
        mock.patch.object(convert_module, "read_object", return_value=content),
        mock.patch.object(convert_module, "sha256", return_value=""),
    ):
        return load_backbone("x.bin", **{"check": False} | options)


def assert_is(backbone, state: dict, dtype=torch.float32) -> None:
    wanted = {
        detectron2_name(name): value.to(dtype).float()
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    found = backbone.state_dict
    assert found.keys() == wanted.keys()
    assert all(v.dtype == torch.float32 and v.is_contiguous() for v in found.values())
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
