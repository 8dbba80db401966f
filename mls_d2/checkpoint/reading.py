"""Reading checkpoints of any origin without running code from them."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import re
import types
import zipfile
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch

from mls_d2.checkpoint.numpy_pickle import load_numpy_pickle
from mls_d2.checkpoint.stub_pickle import StubUnpickler
from mls_d2.core.errors import UserError, nearest

LARGEST_BYTES = 16 << 30
LARGEST_MEMBER = 4 << 30
# torch.save does not compress; a zip that unpacks to much more than itself is a bomb.
_LARGEST_RATIO = 4
_NUMPY = b"\x93NUMPY"
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_NOT_A_CHECKPOINT = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<!doctype": "is a web page, not a checkpoint; download the file behind the link",
    b"<html": "is a web page, not a checkpoint; download the file behind the link",
    b"<?xml": "is an XML document, not a checkpoint; download the file behind the link",
}


def read_object(path: str, *, stubs: bool = False) -> Any:
    """Read what a checkpoint holds: tensors and plain values, in dicts and lists.

    Torch files (new and old), safetensors, pickles of NumPy arrays, .npy and .npz are told apart by
    their content, whatever their name.

    Args:
        path: of the file.
        stubs: read what torch refuses with inert objects in place of every class that the file
            names. Nothing is imported either way.

    Raises:
        UserError: no such file, larger than 16 GB (or unpacking to that, or to much more than
            itself), truncated, no checkpoint (a web page, a Git LFS pointer, TorchScript), or holds
            objects other than tensors and plain values.
    """
    head = _read_head(path)
    try:
        if _is_safetensors(head):
            return safetensors.torch.load_file(path)
        if zipfile.is_zipfile(path):
            if _check_zip(path):
                return dict(np.load(path, allow_pickle=False))
        elif head.startswith(_NUMPY):
            return _load_npy(path, stubs=stubs)
        elif not head.startswith(_LEGACY_TORCH) and head.startswith(b"\x80"):
            with open(path, "rb") as file:
                return _unpickle(file, stubs=stubs)
        return _load_torch(path, stubs=stubs)
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise UserError(
                f"'{path}' holds a {named[1]}, which is not read because it could run code; "
                "save only tensors and plain values, or convert it with "
                "tools/convert.py --stub-unknown-objects"
            ) from None
        raise _damaged(path, error) from None
    except Exception as error:
        # What a damaged pickle makes its reader raise is anything; none of it is for a user.
        raise _damaged(path, error) from None


def check_exists(path: str) -> None:
    """Raise :class:`UserError` where ``path`` is no file; it names the nearest there is."""
    if os.path.isdir(path):
        raise UserError(
            f"'{path}' is a folder, expected a weights file such as '{path}/backbone.pth'"
        )
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise UserError(f"no weights file '{path}' (there is no folder '{folder}' either)")
        names = [name for name in os.listdir(folder) if name.endswith((".pth", ".pkl"))]
        hint = nearest(os.path.basename(path), names) if names else "no .pth or .pkl file is there"
        raise UserError(f"no weights file '{path}'; {hint}")


def _read_head(path: str) -> bytes:
    check_exists(path)
    if os.path.getsize(path) > LARGEST_BYTES:
        raise UserError(
            f"'{path}' has {os.path.getsize(path) >> 30} GB, more than any ResNet needs"
        )
    try:
        with open(path, "rb") as file:
            head = file.read(256)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from None
    if not head:
        raise UserError(f"'{path}' is empty; download or write it again")
    for magic, problem in _NOT_A_CHECKPOINT.items():
        if head.lstrip().lower().startswith(magic):
            raise UserError(f"'{path}' {problem}")
    return head


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27


def _check_zip(path: str) -> bool:
    """Refuse what is not to be unpacked, and return whether it is NumPy's zip of arrays."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = [item.filename for item in members]
    if any(os.path.basename(name) == "constants.pkl" for name in names):
        raise UserError(
            "is a TorchScript archive, which holds a program; save the state_dict instead"
        )
    total, largest = sum(item.file_size for item in members), 0
    if members:
        largest = max(item.file_size for item in members)
    if total > LARGEST_BYTES or largest > LARGEST_MEMBER:
        raise UserError(
            f"unpacks to {total >> 20} MB, its largest member to {largest >> 20} MB: more than any "
            "ResNet needs"
        )
    if total > _LARGEST_RATIO * os.path.getsize(path):
        raise UserError(
            f"unpacks from {os.path.getsize(path)} bytes to {total}; torch does not compress, so "
            "this is no checkpoint"
        )
    return bool(names) and all(name.endswith(".npy") for name in names)


def _load_npy(path: str, *, stubs: bool) -> Any:
    """Read an array; one of objects is a pickle after the header, and read as one."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in read:
            raise UserError(f"is a .npy file of version {version}, expected 1.0 or 2.0")
        dtype = read[version](file)[2]
        if not dtype.hasobject:
            return np.load(path, allow_pickle=False)
        content = _unpickle(file, stubs=stubs)
    # np.save puts a dict into an array without axes.
    single = isinstance(content, np.ndarray) and content.dtype == object and not content.ndim
    return content.item() if single else content


def _unpickle(file: IO[bytes], *, stubs: bool) -> Any:
    return StubUnpickler(file, encoding="latin1").load() if stubs else load_numpy_pickle(file)


def _load_torch(path: str, *, stubs: bool) -> Any:
    if stubs:
        module = types.SimpleNamespace(
            Unpickler=StubUnpickler,
            load=lambda file, **options: StubUnpickler(file, **options).load(),
            UnpicklingError=pickle.UnpicklingError,
            __name__="stub_pickle",
        )
        return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)
    # Many training scripts save their command line; a Namespace holds values and does nothing.
    # Before torch 2.5 there is no list for one call, and such files need stubs.
    allowed = getattr(torch.serialization, "safe_globals", contextlib.nullcontext)
    with allowed([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _damaged(path: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()
    detail = f" ({reason[0][:120]})" if reason else ""
    return UserError(
        f"'{path}' is truncated, damaged or no checkpoint{detail}; download or write it again"
    )
