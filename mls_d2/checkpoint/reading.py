"""Reading checkpoints of any origin without running code from them."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import types
import zipfile
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from mls_d2.checkpoint.numpy_pickle import load_numpy_pickle
from mls_d2.checkpoint.stub_pickle import StubUnpickler
from mls_d2.errors import UserError, nearest

LARGEST_BYTES = 16 << 30
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_NOT_A_CHECKPOINT = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<!doctype": "is a web page, not a checkpoint; download the file behind the link",
    b"<html": "is a web page, not a checkpoint; download the file behind the link",
    b"<?xml": "is an XML document, not a checkpoint; download the file behind the link",
}
_DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    MemoryError,
    AssertionError,
    SafetensorError,
    zipfile.BadZipFile,
)


def read_object(path: str, *, stubs: bool = False) -> Any:
    """Read what a checkpoint holds: tensors and plain values, in dicts and lists.

    Torch files (new and old), safetensors and pickles of NumPy arrays are told apart by their
    content, whatever their name.

    Args:
        path: of the file.
        stubs: read what torch refuses with inert objects in place of every class that the file
            names. Nothing is imported either way.

    Raises:
        UserError: no such file, larger than 16 GB, truncated, no checkpoint (a web page, a Git LFS
            pointer, TorchScript), or holds objects other than tensors and plain values.
    """
    head = _read_head(path)
    try:
        if _is_safetensors(head):
            return safetensors.torch.load_file(path)
        if zipfile.is_zipfile(path):
            _refuse_torchscript(path)
        elif not head.startswith(_LEGACY_TORCH) and head.startswith(b"\x80"):
            with open(path, "rb") as file:
                return (
                    StubUnpickler(file, encoding="latin1").load()
                    if stubs
                    else load_numpy_pickle(file)
                )
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
    except _DAMAGED as error:
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


def _refuse_torchscript(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        if any(os.path.basename(name) == "constants.pkl" for name in archive.namelist()):
            raise UserError(
                "is a TorchScript archive, which holds a program; save the state_dict instead"
            )
        if sum(item.file_size for item in archive.infolist()) > LARGEST_BYTES:
            raise UserError("unpacks to more than any ResNet needs")


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
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _damaged(path: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()
    detail = f" ({reason[0][:120]})" if reason else ""
    return UserError(
        f"'{path}' is truncated, damaged or no checkpoint{detail}; download or write it again"
    )
