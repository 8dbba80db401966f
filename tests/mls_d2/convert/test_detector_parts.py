"""FPN and box head arrive in Detectron2's model under the names and sizes that it has."""

import pytest
import torch
from detectron2.modeling import build_model

from mls_d2.checkpoint.initial_weights import load_initial_weights
from mls_d2.convert.convert import load_backbone, write_converted
from mls_d2.convert.detector_parts import detector_parts_config
from tests.mls_d2.checkpoint.test_initial_weights import small_cfg
from tests.mls_d2.convert.sources import encoder, under, write

WIDTH, POOLED, FC = 8, 7, 16
LEAVES = ("weight", "bias", "running_mean", "running_var")


def numbers(*shape: int) -> torch.Tensor:
    return torch.rand(*shape) + 0.5


def norm(prefix: str) -> dict:
    return {f"{prefix}.{leaf}": numbers(WIDTH) for leaf in LEAVES}


def mmdet_fpn(suffix: str = "") -> dict:
    state = {}
    for level, channels in enumerate((16, 32, 64, 128)):
        for kind, shape in (("lateral", (WIDTH, channels, 1, 1)), ("fpn", (WIDTH, WIDTH, 3, 3))):
            name = f"neck{suffix}.{kind}_convs.{level}"
            state |= {f"{name}.conv.weight": numbers(*shape)} | norm(f"{name}.bn")
    return state


def soco() -> dict:
    head = {f"head.conv{k}.weight": numbers(WIDTH, WIDTH, 3, 3) for k in range(1, 5)}
    for k in range(1, 5):
        head |= norm(f"head.bn{k}")
    head |= {"head.fc1.weight": numbers(FC, WIDTH * POOLED**2), "head.fc1.bias": numbers(FC)}
    state = under("encoder.", encoder(0)) | under("encoder_k.", encoder(1)) | mmdet_fpn() | head
    state |= mmdet_fpn("_k") | {"projector.weight": numbers(2, 2)}
    return {"model": under("module.", state)}


def insloc() -> dict:
    head = {}
    for k in range(4):
        name = f"roi_head.bbox_head.shared_convs.{k}"
        head |= {f"{name}.conv.weight": numbers(WIDTH, WIDTH, 3, 3)} | norm(f"{name}.bn")
    head["roi_head.bbox_head.shared_fcs.0.weight"] = numbers(FC, WIDTH * POOLED**2)
    head["roi_head.bbox_head.shared_fcs.0.bias"] = numbers(FC)
    state = under("backbone.", encoder(0)) | under("backbone_k.", encoder(1))
    return {"state_dict": state | mmdet_fpn() | head}


def matching_cfg():
    """The config that the tool prints for these files."""
    cfg = small_cfg()
    cfg.MODEL.FPN.NORM = "BN"
    head = cfg.MODEL.ROI_BOX_HEAD
    head.NAME, head.NUM_CONV, head.NUM_FC, head.NORM = "FastRCNNConvFCHead", 4, 1, "BN"
    head.CONV_DIM, head.FC_DIM = WIDTH, FC
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = POOLED
    return cfg


SOURCES = {
    "soco": (soco, "module.neck.lateral_convs.1.bn.running_var", "module.head.bn2.bias", "model"),
    "insloc": (
        insloc,
        "neck.lateral_convs.1.bn.running_var",
        "roi_head.bbox_head.shared_convs.1.bn.bias",
        "state_dict",
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_part_arrives_in_the_model(name, tmp_path):
    make, lateral, head, container = SOURCES[name]
    content = make()
    backbone = load_backbone(
        write(tmp_path / "x.pth", content), parts=("fpn", "box_head"), check=False
    )
    assert backbone.info["source"] == name
    config = backbone.config["MODEL"]
    assert config["FPN"] == {"OUT_CHANNELS": WIDTH, "NORM": "SyncBN"}
    assert config["ROI_BOX_HEAD"] == {
        "NAME": "FastRCNNConvFCHead",
        "NUM_CONV": 4,
        "NUM_FC": 1,
        "CONV_DIM": WIDTH,
        "FC_DIM": FC,
        "NORM": "SyncBN",
    }
    path = str(tmp_path / "out.pth")
    write_converted(path, backbone)
    model = build_model(matching_cfg())
    report = load_initial_weights(model, path, matching_cfg())
    # 8 convolutions of the FPN and 4 of the head with their norms, and a linear layer.
    assert (report.num_parts, report.ignored) == (12 * 5 + 2, ())
    state = model.state_dict()
    expected = {
        "backbone.fpn_lateral3.norm.running_var": content[container][lateral],
        "roi_heads.box_head.conv2.norm.bias": content[container][head],
    }
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_parts_are_left_where_they_are_not_asked_for(tmp_path):
    backbone = load_backbone(write(tmp_path / "x.pth", soco()), check=False)
    assert backbone.parts == {}
    assert "FPN" not in backbone.config["MODEL"]
    assert "neck.fpn_convs.0.bn.bias" in backbone.left["necks and detection heads"]


@pytest.mark.parametrize("normed", [False, True])
def test_resims_fpn_lies_in_its_encoder_with_some_levels(normed, tmp_path, refuses):
    fpn = {}
    for kind, levels in (("lateral", (3, 4, 5)), ("output", (3, 4))):
        for level in levels:
            name = f"fpn_{kind}{level}"
            if normed:  # As its --fpn-bn runs name them.
                fpn |= {f"{name}.0.weight": numbers(WIDTH, 32, 1, 1)} | norm(f"{name}.1")
            else:
                fpn |= {f"{name}.weight": numbers(WIDTH, 32, 1, 1), f"{name}.bias": numbers(WIDTH)}
    state = under("module.encoder_q.", encoder(0) | fpn) | under("module.encoder_k.", encoder(1))
    path = write(tmp_path / "x.pth.tar", {"state_dict": state})
    parts = load_backbone(path, parts=("fpn",), check=False).parts
    leaves = ["weight", *(f"norm.{leaf}" for leaf in LEAVES)] if normed else ["weight", "bias"]
    names = [f"lateral{k}" for k in (3, 4, 5)] + [f"output{k}" for k in (3, 4)]
    assert parts.keys() == {f"backbone.fpn_{name}.{leaf}" for name in names for leaf in leaves}
    assert ("NORM" in detector_parts_config(parts)["FPN"]) == normed
    with refuses("missing-part"):
        load_backbone(path, parts=("box_head",))


def test_misfits_are_refused(tmp_path, refuses):
    with refuses("missing-part"):
        load_backbone(write(tmp_path / "x.pth", encoder(0)), parts=("fpn",))
    path = str(tmp_path / "out.pth")
    source = write(tmp_path / "x.pth", soco())
    backbone = load_backbone(source, parts=("fpn", "box_head"), check=False)
    with refuses("bad-value"):  # Only Detectron2 has names for them.
        write_converted(path, backbone, to="timm")
    assert not (tmp_path / "out.pth").exists()
    write_converted(path, backbone)
    cfg = matching_cfg()
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 2 * FC
    with refuses("wrong-weights", "box_head.fc1.weight: file (16, 392)"):
        load_initial_weights(build_model(cfg), path, cfg)
