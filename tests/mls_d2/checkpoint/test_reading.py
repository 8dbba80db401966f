"""Hostile, damaged and mistaken files: refused with one message, and nothing in them runs."""

import builtins
import contextlib
import io
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mls_d2.checkpoint import reading
from mls_d2.checkpoint.backbone_file import read_backbone
from mls_d2.checkpoint.detector import load_detector
from mls_d2.checkpoint.initial_weights import load_initial_weights
from mls_d2.checkpoint.reading import read_object
from mls_d2.config.defaults import get_cfg
from mls_d2.convert.convert import load_backbone
from mls_d2.convert.inspection import inspect_file
from mls_d2.core.errors import UserError
from mls_d2.run.checkpointer import AtomicCheckpointer, CorruptCheckpointError
from tests.mls_d2.convert.sources import caffe2, encoder, files, write


class Hostile:
    """Does something when an ordinary unpickler reads it."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


HOSTILE = {
    "os.system": Hostile(os.system, "touch ran"),
    "getattr": Hostile(builtins.getattr, "text", "encode"),
    "eval": Hostile(eval, "open('ran', 'w')"),
    "open": Hostile(open, "ran", "w"),
    "_load_from_bytes": Hostile(
        torch.storage._load_from_bytes, pickle.dumps(Hostile(os.system, "touch ran"))
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(folder, kind: str, content) -> str:
    path = folder / "x.bin"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.array(content, dtype=object), allow_pickle=True)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return str(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "npy"])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_reader_runs_what_is_in_a_file(hostile, kind, folder):
    if kind in ("zip", "legacy"):
        content = {"state_dict": encoder(0), "hook": HOSTILE[hostile]}
    else:
        content = caffe2(encoder(0)) | {"hook": HOSTILE[hostile]}
    path = save(folder, kind, content)
    model = torch.nn.Linear(1, 1)
    for read in (
        read_object,
        read_backbone,
        load_backbone,
        inspect_file,
        lambda file: load_detector(model, file),
        lambda file: load_initial_weights(model, file, get_cfg()),
        AtomicCheckpointer(model, str(folder)).load,
    ):
        with pytest.raises(UserError, match="could run code|cannot be read|no checkpoint"):
            read(path)
    if hostile == "_load_from_bytes":
        with pytest.raises(UserError, match="without running what is in it"):
            load_backbone(path, stubs=True)
    else:
        assert len(load_backbone(path, stubs=True, check=False).state_dict) == 265
    assert os.listdir(folder) == ["x.bin"]


def test_message_hub_of_mmengine_needs_the_flag_and_runs_nothing(folder):
    # HistoryBuffer's pickle calls builtins.getattr, which is why it is on no list.
    content = files()["openmmlab-1"] | {"message_hub": {"loss": HOSTILE["getattr"]}}
    path = write(folder / "epoch_200.pth", content)
    with pytest.raises(UserError, match=r"getattr.*--stub-unknown-objects"):
        load_backbone(path)
    assert load_backbone(path, stubs=True, check=False).info["source"] == "openmmlab-1"


@pytest.mark.parametrize("name", ["model_0000001.pth", "model_0000001.pkl"])
def test_resuming_reads_by_the_same_loader(name, folder):
    if name.endswith("pkl"):
        (folder / name).write_bytes(pickle.dumps({"model": {}, "x": HOSTILE["os.system"]}))
    else:
        torch.save({"model": {}, "x": HOSTILE["os.system"]}, name)
    checkpointer = AtomicCheckpointer(torch.nn.Linear(1, 1), str(folder))
    with pytest.raises(CorruptCheckpointError, match="could run code"):
        checkpointer.load(str(folder / name))
    assert os.listdir(folder) == [name]


def test_torchscript_is_refused_under_any_name(folder):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save("x.pth")
    for stubs in (False, True):
        with pytest.raises(UserError, match="TorchScript archive, which holds a program"):
            read_object("x.pth", stubs=stubs)


def test_a_zip_bomb_is_not_unpacked(folder):
    with zipfile.ZipFile("x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (8 << 20))
    with pytest.raises(UserError, match=r"unpacks from \d+ bytes to 8388608"):
        read_object("x.pth")


def test_sizes_are_limited_before_anything_is_loaded(folder, monkeypatch):
    path = write(folder / "x.pth", encoder(0))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    monkeypatch.setattr(reading, "LARGEST_MEMBER", 1 << 10)
    with pytest.raises(UserError, match="its largest member to 0 MB"):
        read_object(path)
    monkeypatch.setattr(reading, "LARGEST_BYTES", 1 << 10)
    with pytest.raises(UserError, match="more than any ResNet needs"):
        read_object(path)


def test_a_storage_that_claims_to_be_huge_is_damage(folder):
    # An old file names its storages' sizes before their bytes.
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(7)}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue().replace(b"K\x07N", b"\x8a\x06" + struct.pack("<q", 1 << 46)[:6] + b"N")
    assert data != buffer.getvalue()
    (folder / "x.pth").write_bytes(data)
    with pytest.raises(UserError, match="truncated, damaged or no checkpoint"):
        read_object("x.pth")


@pytest.mark.parametrize("value", [np.array([None, {}]), np.ones((1,) * 5), np.array(["a"])])
def test_arrays_of_objects_text_or_many_axes_are_no_tensors(value, folder):
    path = save(folder, "pickle", {"conv1.weight": value})
    with pytest.raises(UserError, match="no tensors by name"):
        load_backbone(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "npy", "safetensors"])
def test_damage_anywhere_is_a_message(kind, folder):
    if kind == "safetensors":
        path = str(folder / "x.bin")
        save_file({"a": torch.ones(3)}, path)
    elif kind in ("zip", "legacy"):
        path = save(folder, kind, {"a": torch.ones(3), "b": {"c": [1, "d"]}})
    else:
        path = save(folder, kind, {"a": np.ones(3, np.float32), "b": {"c": [1, "d"]}})
    whole = (folder / "x.bin").read_bytes()
    generator = random.Random(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        if generator.random() < 0.3:
            data = data[: generator.randrange(len(data))]
        (folder / "x.bin").write_bytes(data)
        for stubs in (False, True):
            # Anything but a UserError fails here.
            with contextlib.suppress(UserError):
                read_object(path, stubs=stubs)


def test_npy_and_npz_of_plain_arrays(folder):
    state = {n: v.numpy() for n, v in encoder(0).items()}
    np.savez("x.npz", **state)
    assert load_backbone("x.npz", check=False).info["source"] == "bare"
    np.save("x.npy", np.ones(3))
    with pytest.raises(UserError, match="no tensors by name"):
        load_backbone("x.npy")
