"""Backbone files keep what they were given and refuse what is no backbone file."""

import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from mls_d2.checkpoint.backbone_file import read_backbone, sha256, write_backbone

INFO = {"method": "mls", "epochs": 3, "pixel_mean": [1.0, 2.0, 3.0], "nested": {"a": [None, True]}}


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "stem.conv1.weight": torch.randn(4, 3, 7, 7, generator=generator),
        "res2.0.conv1.norm.running_var": torch.rand(4, generator=generator),
        "res2.0.conv1.norm.num_batches_tracked": torch.tensor(5),
    }


@pytest.mark.parametrize("name", ["backbone.pth", "backbone.pkl"])
def test_what_is_written_is_read_and_detectron2_takes_it_for_its_own_format(
    tmp_path, name, monkeypatch
):
    path = str(tmp_path / name)
    write_backbone(path, tensors(), INFO)
    file = read_backbone(path)
    assert file.info == INFO
    assert set(file.state_dict) == {"stem.conv1.weight", "res2.0.conv1.norm.running_var"}
    for key, value in file.state_dict.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, tensors()[key])
    assert os.listdir(tmp_path) == [name]
    seen = []
    checkpointer = DetectionCheckpointer(torch.nn.Linear(1, 1))
    monkeypatch.setattr(checkpointer, "_load_model", seen.append)
    checkpointer.load(path)
    (content,) = seen
    assert (content["__author__"], content["matching_heuristics"]) == ("mls_d2", True)
    assert set(content["model"]) == set(file.state_dict)


def test_half_precision_views_and_channels_last_become_plain_float32(tmp_path):
    path = str(tmp_path / "backbone.pth")
    base = torch.arange(4096.0).reshape(4, 16, 8, 8)
    state = {
        "stem.conv1.weight": base[:1],
        "res2.0.conv1.weight": base.to(memory_format=torch.channels_last)[:1],
        "res3.0.conv1.weight": base[:1].bfloat16(),
    }
    write_backbone(path, state, {})
    loaded = read_backbone(path).state_dict
    for key, value in state.items():
        assert loaded[key].is_contiguous()
        assert torch.equal(loaded[key], value.float())
        assert loaded[key].untyped_storage().nbytes() == 1024 * 4
    # A view would have dragged its whole storage along: 3 x 16 KiB.
    assert os.path.getsize(path) < 3 * 4096 + 4096


@pytest.mark.parametrize(
    ("state", "info", "problem"),
    [
        ({"fc.weight": torch.zeros(1)}, {}, "'fc.weight' is not a name"),
        ({"backbone.stem.conv1.weight": torch.zeros(1)}, {}, "not a name"),
        ({"stem.conv1.weight": torch.tensor([float("nan")])}, {}, "NaN"),
        ({}, {}, "no tensors"),
        (tensors(), {"versions": {"numpy": np.float32(1)}}, "info.versions.numpy is a float32"),
        (tensors(), {"x": [torch.zeros(1)]}, r"info.x\[0\] is a Tensor"),
    ],
)
def test_what_is_no_backbone_is_not_written(tmp_path, state, info, problem):
    with pytest.raises(ValueError, match=problem):
        write_backbone(str(tmp_path / "backbone.pth"), state, info)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.99, b"some text that is not a checkpoint"])
def test_a_truncated_file_and_other_text_are_damaged(tmp_path, suffix, part, refuses):
    path = tmp_path / f"backbone.{suffix}"
    write_backbone(str(path), tensors(), INFO)
    data = path.read_bytes()
    path.write_bytes(part if isinstance(part, bytes) else data[: int(len(data) * part)])
    with refuses("damaged-file"):
        read_backbone(str(path))


def test_a_missing_file_names_what_is_near(tmp_path, refuses):
    write_backbone(str(tmp_path / "backbone.pth"), tensors(), {})
    for path, named in (
        (tmp_path / "bakbone.pth", "did you mean 'backbone.pth'"),
        (tmp_path / "none" / "backbone.pth", "no folder"),
        (tmp_path, "is a folder"),
    ):
        with refuses("missing-file", named):
            read_backbone(str(path))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([1, 2], "holds a list"),
        ({"model": [1]}, "holds a list under 'model'"),
        ({"model": {"a": 1}}, "found a"),
        ({}, "found nothing"),
        ({"model": {"a": np.array([None, {}])}}, "found a"),
    ],
)
def test_other_contents_name_what_was_found(tmp_path, content, problem, refuses):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content, protocol=4))
    with refuses("not-a-checkpoint", problem):
        read_backbone(str(path))


def test_sha256_is_that_of_the_bytes(tmp_path, refuses):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    # FIPS 180-2, example B.1.
    assert sha256(str(path)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with refuses("missing-file"):
        sha256(str(tmp_path / "y"))
