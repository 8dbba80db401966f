"""What a checkpoint holds is described, and what would be taken from it."""

import argparse

import torch

from mls_d2.checkpoint.backbone_file import sha256
from mls_d2.convert.inspection import inspect_file
from tests.mls_d2.convert.sources import files, pair, write


def test_encoders_copies_and_choice_are_described(tmp_path):
    path = write(tmp_path / "x.pth", files()["openmmlab-0"] | {"meta": {"epoch": 3}})
    found = inspect_file(path)
    assert found["sha256"] == sha256(path)
    assert found["entries"] == {"state_dict": "dict", "meta": "dict"}
    assert found["tensors"]["state_dict"]["count"] == 3 * 318 + 2
    whole = "torchvision names; ResNet-50 (stem 8, res2 16, groups 1×4), whole"
    assert found["encoders"] == {
        "state_dict > backbone.": whole,
        "state_dict > encoder_q.0.": "a copy of one above",
        "state_dict > encoder_k.0.": whole,
    }
    assert (found["taken"], found["source"]) == ("state_dict > backbone.", "openmmlab-0")


def test_ambiguous_and_broken_encoders_are_described(tmp_path):
    content = pair("first.", "second.", at="")
    del content["second.layer3.1.bn2.bias"]
    found = inspect_file(write(tmp_path / "x.pth", content))
    assert found["encoders"]["first."].endswith("whole")
    assert "res4.1.conv2.norm.bias" in found["encoders"]["second."]
    assert "taken" not in found
    assert inspect_file(str(tmp_path / "x.pth"), encoder="first")["taken"] == "first."


def test_what_is_no_network_is_described(tmp_path):
    torch.save({"args": argparse.Namespace(), "optimizer": {"state": {}}}, tmp_path / "x.pth")
    found = inspect_file(str(tmp_path / "x.pth"))
    assert found["entries"] == {"args": "Namespace", "optimizer": "dict"}
    assert found["encoders"] == {}
    assert "no tensors by name" in found["refused"]
    torch.save([1], tmp_path / "y.pth")
    assert inspect_file(str(tmp_path / "y.pth"))["entries"] == {".": "list"}
