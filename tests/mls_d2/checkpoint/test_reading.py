"""Hostile, damaged and mistaken files: refused with one message, and nothing in them runs."""

import argparse
import builtins
import codecs
import collections
import contextlib
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
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
from mls_d2.checkpoint.unpickling import ForbiddenGlobalError, unpickle
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
    "subprocess": Hostile(subprocess.call, ["touch", "ran"]),
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
    torch_file = kind in ("zip", "legacy")
    values = torch.ones(3) if torch_file else np.ones(3)
    path = save(folder, kind, {"x": values, "hook": HOSTILE[hostile]})
    model = torch.nn.Linear(1, 1)
    readers = [
        read_object,
        read_backbone,
        load_backbone,
        inspect_file,
        lambda file: load_detector(model, file),
        lambda file: load_initial_weights(model, file, get_cfg()),
        AtomicCheckpointer(model, str(folder)).load,
    ]
    # Each of them reads through the first; the others are tried on one kind.
    for read in readers if hostile == "os.system" else readers[:1]:
        with pytest.raises(UserError, match="could run code|cannot be read|not a checkpoint"):
            read(path)
    if hostile == "_load_from_bytes":
        with pytest.raises(UserError, match="without running what is in it"):
            read_object(path, stubs=True)
    else:
        assert read_object(path, stubs=True)["x"].tolist() == [1, 1, 1]
    assert os.listdir(folder) == ["x.bin"]
    if torch_file and hostile == "eval":
        path = save(folder, kind, {"state_dict": encoder(0), "hook": HOSTILE[hostile]})
        assert len(load_backbone(path, stubs=True, check=False).state_dict) == 265


def test_message_hub_of_mmengine_needs_the_flag_and_runs_nothing(folder, refuses):
    # HistoryBuffer's pickle calls builtins.getattr, which is why it is on no list.
    content = files()["openmmlab-1"] | {"message_hub": {"loss": HOSTILE["getattr"]}}
    path = write(folder / "epoch_200.pth", content)
    with refuses("unsafe-file", "--stub-unknown-objects"):
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


# Pickles.


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_come_back_equal(protocol, tmp_path):
    content = collections.OrderedDict(
        a=np.arange(6, dtype=np.float32).reshape(2, 3),
        b=np.float64([[0.1]]).T,
        c=np.array(True),
        d="text",
    )
    data = pickle.dumps(content, protocol=protocol)
    for spelling in (data, data.replace(b"numpy._core", b"numpy.core")):  # NumPy 2, NumPy 1
        if protocol > 3 and spelling != data:
            continue  # Its strings begin with their lengths.
        result = unpickle(io.BytesIO(spelling))
        assert list(result) == list(content)
        for name in "abc":
            assert result[name].dtype == content[name].dtype
            np.testing.assert_array_equal(result[name], content[name])
    (tmp_path / "x.pkl").write_bytes(data)
    assert list(read_object(str(tmp_path / "x.pkl"))) == list(content)
    for zipped in (True, False):
        saved = {"a": torch.ones(3), "args": argparse.Namespace(lr=0.1)}
        torch.save(
            saved, tmp_path / "x.pth", pickle_protocol=max(protocol, 2),
            _use_new_zipfile_serialization=zipped,
        )  # fmt: skip
        found = read_object(str(tmp_path / "x.pth"))
        assert (found["a"].tolist(), found["args"].lr) == ([1, 1, 1], 0.1)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (pickle.dumps({"x": HOSTILE["os.system"]}, protocol=2), "system"),
        (pickle.dumps({"x": HOSTILE["subprocess"]}, protocol=4), "call"),
        (pickle.dumps(Hostile(codecs.encode, "x", "zlib"), protocol=2), "codec 'zlib'"),
        # The pair has to match exactly: a dotted attribute of an allowed module does not.
        (b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tobytes\x93.", "ndarray.tobytes"),
    ],
)
def test_other_names_are_refused_and_do_not_run(data, named, folder):
    with pytest.raises(ForbiddenGlobalError, match=named):
        unpickle(io.BytesIO(data))
    assert os.listdir(folder) == []


@pytest.mark.parametrize("target", [b"storage\nUntypedStorage", b"_utils\n_rebuild_tensor_v2"])
def test_functions_and_classes_are_not_changed(target, folder, refuses):
    (folder / "x.pkl").write_bytes(
        b"\x80\x02ctorch." + target + b"\n(N}X\x01\x00\x00\x00aK\x01stb."
    )
    with refuses("damaged-file", "it would change"):
        read_object("x.pkl")


# What a file is.

INDEX = b'{"metadata": {"total_size": 9}, "weight_map": {"conv1.weight": "a.safetensors"}}'


@pytest.mark.parametrize(
    ("name", "data", "named"),
    [
        ("x.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("x.pkl", b"\n<!DOCTYPE html><html>sign in</html>", "web page"),
        ("x.pth", b"<HTML><body>404</body></HTML>", "web page"),
        ("x.pth", b"\xef\xbb\xbf<!-- sign in --><html>", "web page"),
        ("model.safetensors.index.json", INDEX, "index of a sharded checkpoint"),
        ("config.json", b'{"architectures": []}', "JSON"),
        ("x.pth", b"\x1f\x8b\x08\x00" + bytes(20), "gzip"),
        ("x.pth", b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        ("x.bin", b"GGUF\x03\x00\x00\x00" + bytes(20), "GGUF"),
        ("x.onnx", b"\x08\x08\x12\x07pytorch" + bytes(20), "ONNX"),
        ("x.ckpt-9.data-00000-of-00001", bytes(90), "part of a TensorFlow model"),
        ("__0_0.distcp", bytes(90), "dcp_to_torch"),
    ],
)
def test_files_that_are_no_checkpoints_are_named(name, data, named, folder, refuses):
    (folder / name).write_bytes(data)
    for stubs in (False, True):
        with refuses("not-a-checkpoint", named):
            read_object(name, stubs=stubs)


@pytest.mark.parametrize("data", [b"404: Not Found", bytes(900), b"content-type: x\nrun\n"])
def test_what_begins_as_no_checkpoint_is_shown(data, folder, refuses):
    (folder / "x.pth").write_bytes(data)
    with refuses("damaged-file") as caught:
        read_object("x.pth", stubs=True)
    assert f"begins with {data[:24]!r}" in str(caught.value)


def test_what_is_no_file_is_named(folder, refuses):
    (folder / "parts").mkdir()
    (folder / "parts" / "resnet.safetensors").touch()
    (folder / "gone.pth").symlink_to("nowhere")
    for path, named in (("parts", "'parts/resnet.safetensors'"), ("gone.pth", "is a link to")):
        with refuses("missing-file") as caught:
            read_object(path)
        assert named in str(caught.value)
    (folder / "parts" / "__0_0.distcp").touch()
    with refuses("not-a-checkpoint"):
        read_object("parts")


def test_archives_of_other_files_are_named_with_what_is_in_them(folder, refuses):
    torch.save(encoder(0), "inside.pth")
    with zipfile.ZipFile("x.zip", "w") as archive:
        archive.write("inside.pth")
    with tarfile.open("x.tar", "w") as archive:
        archive.add("inside.pth")
    for name in ("x.zip", "x.tar"):
        with refuses("not-a-checkpoint", "inside.pth"):
            read_object(name)


def test_shards_are_named_and_a_single_one_is_read(folder, refuses):
    save_file({"a": torch.ones(3)}, "model-00001-of-00002.safetensors")
    with refuses("not-a-checkpoint", "shard 1 of 2"):
        load_backbone("model-00001-of-00002.safetensors")
    save_file({"a": torch.ones(3)}, "model-00001-of-00001.safetensors")
    assert read_object("model-00001-of-00001.safetensors")["a"].tolist() == [1, 1, 1]


def test_torchscript_is_refused_under_any_name(folder, refuses):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save("x.pth")
    for stubs in (False, True):
        with refuses("not-a-checkpoint", "TorchScript"):
            read_object("x.pth", stubs=stubs)


def test_sizes_are_limited_before_anything_is_loaded(folder, monkeypatch, refuses):
    with zipfile.ZipFile("bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (8 << 20))
    path = write(folder / "x.pth", encoder(0))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with refuses("too-large"):
        read_object("bomb.pth")
    for limit in ("LARGEST_MEMBER", "LARGEST_BYTES"):
        monkeypatch.setattr(reading, limit, 1 << 10)
        with refuses("too-large"):
            read_object(path)


# Damage.


def test_a_storage_that_claims_to_be_huge_is_damage(folder, refuses):
    # An old file names its storages' sizes before their bytes.
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(7)}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue().replace(b"K\x07N", b"\x8a\x06" + struct.pack("<q", 1 << 46)[:6] + b"N")
    assert data != buffer.getvalue()
    (folder / "x.pth").write_bytes(data)
    with refuses("damaged-file"):
        read_object("x.pth")


@pytest.mark.parametrize("kind", ["torch", "npz"])
def test_no_changed_bit_of_a_number_is_read(kind, folder, refuses):
    values = {"a": torch.arange(500.0), "b": torch.ones(9)}
    if kind == "torch":
        torch.save(values, "x.pth")
    else:
        np.savez("x.npz", **{name: value.numpy() for name, value in values.items()})
    path = "x.pth" if kind == "torch" else "x.npz"
    whole = (folder / path).read_bytes()
    start, end = (whole.index(values["a"].numpy().tobytes()) + k for k in (0, 2000))
    for place in random.Random(0).sample(range(start, end), 20):
        data = bytearray(whole)
        data[place] ^= 1
        (folder / path).write_bytes(data)
        with refuses("damaged-file"):
            read_object(path)


def test_torch_files_without_checksums_are_read(folder):
    torch.save({"a": torch.ones(3)}, "x.pth")
    with zipfile.ZipFile("x.pth") as archive:
        sums = [item.CRC for item in archive.infolist()]
    data = (folder / "x.pth").read_bytes()
    for value in sums:
        data = data.replace(struct.pack("<I", value), bytes(4))
    (folder / "x.pth").write_bytes(data)
    assert read_object("x.pth")["a"].tolist() == [1, 1, 1]


def test_a_pickle_takes_no_memory_for_objects_that_it_does_not_have(folder):
    # A place in its memo of 2**31 would be a table of 16 GB.
    data = b"\x80\x02}r" + struct.pack("<I", 1 << 31) + b"."
    (folder / "x.pkl").write_bytes(data)
    limit = f"import resource as r; r.setrlimit(r.RLIMIT_DATA, ({8 << 30}, {8 << 30}));"
    read = "from mls_d2.checkpoint.reading import read_object; print(read_object('x.pkl'))"
    done = subprocess.run([sys.executable, "-c", limit + read], capture_output=True, text=True)
    assert done.stdout == "{}\n", done.stderr


@pytest.mark.parametrize("value", [np.array([None, {}]), np.ones((1,) * 5), np.array(["a"])])
def test_arrays_of_objects_text_or_many_axes_are_no_tensors(value, folder, refuses):
    with refuses("no-encoder"):
        load_backbone(save(folder, "pickle", {"conv1.weight": value}))


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
    for _ in range(100):
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


def test_npy_and_npz_of_plain_arrays(folder, refuses):
    state = {n: v.numpy() for n, v in encoder(0).items()}
    np.savez("x.npz", **state)
    assert load_backbone("x.npz", check=False).info["source"] == "bare"
    np.savez("x.npz", model=np.array(state, dtype=object))
    assert load_backbone("x.npz", check=False).info["container"] == "model"
    # A dict in a .npy file, and a pickle of Caffe2's names with objects beside them.
    assert (
        len(load_backbone(save(folder, "npy", caffe2(encoder(0))), check=False).state_dict) == 265
    )
    path = save(folder, "pickle", caffe2(encoder(0)) | {"config": HOSTILE["eval"]})
    assert len(load_backbone(path, check=False, stubs=True).state_dict) == 265
    np.save("x.npy", np.ones(3))
    with refuses("no-encoder"):
        load_backbone("x.npy")
