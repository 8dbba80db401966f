"""Reading checkpoints of any origin without running code from them."""

import argparse
import contextlib
import json
import os
import pickle
import re
import tarfile
import types
import zipfile
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch

from mls_d2.checkpoint.unpickling import StubUnpickler, TableUnpickler, unpickle
from mls_d2.core.errors import UserError, nearest

LARGEST_BYTES = 16 << 30
LARGEST_MEMBER = 4 << 30
# torch.save does not compress; a zip that unpacks to much more than itself is a bomb.
_LARGEST_RATIO = 4
_NUMPY = b"\x93NUMPY"
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_WEB_PAGE = "is a web page, not a checkpoint; download the file behind the link"
_ARCHIVE = "is a {} ({}); unpack it and use the checkpoint inside"
_OTHER_LIBRARY = ", which is not read; save the tensors with torch.save"
# How a file begins, in lower case, and what it is then.
_NOT_A_CHECKPOINT = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<?xml": "is an XML document, not a checkpoint; download the file behind the link",
    b"<": _WEB_PAGE,
    b"{": "is a JSON document, not a checkpoint",
    b"\x1f\x8b": _ARCHIVE.format("compressed file", "gzip"),
    b"bzh": _ARCHIVE.format("compressed file", "bzip2"),
    b"\xfd7zxz": _ARCHIVE.format("compressed file", "xz"),
    b"\x28\xb5\x2f\xfd": _ARCHIVE.format("compressed file", "zstd"),
    b"7z\xbc\xaf": _ARCHIVE.format("compressed file", "7-Zip"),
    b"rar!": _ARCHIVE.format("compressed file", "RAR"),
    b"\x89hdf": f"is an HDF5 file (Keras){_OTHER_LIBRARY}",
    b"gguf": f"is a GGUF file{_OTHER_LIBRARY}",
}
# Formats without such a beginning, by the end of the file's name.
_OTHER_NAMES = {
    r"\.onnx$": "an ONNX graph",
    r"\.(index|meta|data-\d+-of-\d+|pb|tflite)$": "part of a TensorFlow model",
    r"\.msgpack$": "a Flax checkpoint",
}
_JOIN = "load all shards, merge their dicts, and save them as one file with torch.save"
_JOIN_DISTRIBUTED = (
    "join its folder with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER "
    "joined.pth`"
)


def read_object(path: str, *, stubs: bool = False) -> Any:
    """Read what a checkpoint holds: tensors and plain values, in dicts and lists.

    Torch files (new and old), safetensors, pickles of NumPy arrays, .npy and .npz are recognised by
    their content, whatever their name.

    Args:
        path: of the file.
        stubs: if it is refused, put inert objects in place of every class that torch refuses.
            Nothing is imported either way.

    Raises:
        UserError: no such file, too large (also unpacked), truncated, not a whole checkpoint (a web
            page, an archive of other files, TorchScript, a shard), or it holds other objects than
            tensors and plain values.
    """
    head = _read_head(path)
    try:
        if stubs:
            # Torch's own loader knows kinds of tensors that the table of the stubs does not have.
            with contextlib.suppress(Exception):
                return _read(path, head, stubs=False)
        return _read(path, head, stubs=stubs)
    except UserError as error:
        raise UserError(f"'{path}': {error}", code=error.code) from None
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise _unsafe(path, named[1]) from None
        raise _damaged(path, error) from None
    except Exception as error:
        # A damaged pickle can make its reader raise anything.
        raise _damaged(path, error) from None


def check_exists(path: str) -> None:
    """Raise :class:`UserError` if ``path`` is not a file; it names the nearest file there is."""
    if os.path.isdir(path):
        files = sorted(item.name for item in os.scandir(path) if item.is_file())
        if any(name.endswith(".distcp") for name in files):
            raise _no_checkpoint(f"'{path}' is a distributed checkpoint; {_JOIN_DISTRIBUTED}")
        weights = [name for name in files if name.endswith((".pth", ".pkl", ".safetensors", ".pt"))]
        name = weights[0] if weights else "backbone.pth"
        raise UserError(
            f"'{path}' is a folder, expected a weights file such as '{os.path.join(path, name)}'",
            code="missing-file",
        )
    if os.path.lexists(path) and not os.path.isfile(path):
        message = f"'{path}' is a link to a file that does not exist, or no ordinary file"
        raise UserError(f"{message}; give the weights file itself", code="missing-file")
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            hint = f"there is no folder '{folder}' either"
        else:
            names = [name for name in os.listdir(folder) if name.endswith((".pth", ".pkl"))]
            hint = nearest(os.path.basename(path), names) if names else "no .pth or .pkl file there"
        raise UserError(f"no weights file '{path}'; {hint}", code="missing-file")


def refuse_what_is_no_checkpoint(path: str) -> bytes:
    """Refuse a file that its first bytes or its name show not to be a whole checkpoint.

    Returns:
        The first bytes.

    Raises:
        UserError: empty, a web page, a Git LFS pointer, an archive, or a part of a checkpoint.
    """
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        raise UserError(f"'{path}' is empty; download or write it again", code="damaged-file")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"{") and (b'"weight_map"' in head or path.endswith(".index.json")):
        raise _no_checkpoint(f"'{path}' is the index of a sharded checkpoint; {_JOIN}")
    shard = re.search(r"-(\d{5})-of-(\d{5})\.\w+$", path)
    if shard and int(shard[2]) > 1:
        part = f"shard {int(shard[1])} of {int(shard[2])}"
        raise _no_checkpoint(f"'{path}' is {part} of a checkpoint; {_JOIN}")
    if path.endswith(".distcp") or os.path.basename(path) == ".metadata":
        raise _no_checkpoint(f"'{path}' is a part of a distributed checkpoint; {_JOIN_DISTRIBUTED}")
    for magic, problem in _NOT_A_CHECKPOINT.items():
        if start.startswith(magic) and not _is_safetensors(head):
            raise _no_checkpoint(f"'{path}' {problem}")
    return head


def _read_head(path: str) -> bytes:
    check_exists(path)
    if os.path.getsize(path) > LARGEST_BYTES:
        raise UserError(
            f"'{path}' has {os.path.getsize(path) >> 30} GB, more than any ResNet needs",
            code="too-large",
        )
    try:
        return refuse_what_is_no_checkpoint(path)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}", code="missing-file") from None


def _read(path: str, head: bytes, *, stubs: bool) -> Any:
    if _is_safetensors(head):
        return _load_safetensors(path)
    if tarfile.is_tarfile(path) and (names := _names_in_tar(path)):
        raise _no_checkpoint(f"it {_ARCHIVE.format('tar archive', ', '.join(names[:3]))}")
    if zipfile.is_zipfile(path):
        return _load_arrays(path, stubs=stubs) if _check_zip(path) else _load_torch(path, stubs)
    if head.startswith(_NUMPY):
        with open(path, "rb") as file:
            return _load_npy(file, stubs=stubs)
    if _LEGACY_TORCH[2:] in head[:64]:  # after the number of the protocol
        return _load_torch(path, stubs)
    if head.startswith(b"PK"):
        raise ValueError("its end is missing")
    with open(path, "rb") as file:
        try:
            return unpickle(file, stubs=stubs)
        except UserError:
            raise
        except Exception:
            # Pickles begin so since protocol 2; older ones have no mark.
            if head.startswith(b"\x80") or _other_library(path):
                raise
            raise UserError(
                f"it begins with {head[:24]!r}, as no checkpoint of torch, safetensors or NumPy "
                "does; download or write it again",
                code="damaged-file",
            ) from None


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27


def _check_zip(path: str) -> bool:
    """Refuse what must not be unpacked or is damaged; return whether it is NumPy's of arrays."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = [item.filename for item in members]
    last = {os.path.basename(name) for name in names}
    if "constants.pkl" in last:
        raise _no_checkpoint("it is a TorchScript archive, a program; save the state_dict instead")
    arrays = bool(names) and all(name.endswith(".npy") for name in names)
    if "data.pkl" not in last and not arrays:
        inside = ", ".join(names[:3]) or "nothing"
        raise _no_checkpoint(f"it {_ARCHIVE.format('zip archive', inside)}")
    size = os.path.getsize(path)
    total = sum(item.file_size for item in members)
    largest = max(item.file_size for item in members)
    if total > min(LARGEST_BYTES, _LARGEST_RATIO * size) or largest > LARGEST_MEMBER:
        raise UserError(
            f"it unpacks from {size} bytes to {total}, its largest member to {largest}: more than "
            "any ResNet needs, or compressed, which torch's files are not",
            code="too-large",
        )
    # Torch does not compare the checksums that it writes. Without them (an option) they are 0.
    with zipfile.ZipFile(path) as archive:
        for item in filter(lambda item: item.CRC, members):
            with archive.open(item) as file:
                while file.read(1 << 20):
                    pass
    return arrays


def _load_safetensors(path: str) -> dict[str, Any]:
    """Read tensors by name; a backbone file of this project as what its other formats hold."""
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        info = (file.metadata() or {}).get("pretrain")
    return tensors if info is None else {"model": tensors, "pretrain": json.loads(info)}


def _load_arrays(path: str, *, stubs: bool) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                found[name.removesuffix(".npy")] = _load_npy(file, stubs=stubs)
        return found


def _load_npy(file: IO[bytes], *, stubs: bool) -> Any:
    """Read an array; one of objects is a pickle after the header, and read as one."""
    numpy = np.lib.format
    start = file.tell()
    version = numpy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        problem = f"it is a .npy file of version {version}, expected 1.0 or 2.0"
        raise UserError(problem, code="damaged-file")
    read = numpy.read_array_header_1_0 if version[0] == 1 else numpy.read_array_header_2_0
    if not read(file)[2].hasobject:
        file.seek(start)
        return numpy.read_array(file, allow_pickle=False)
    content = unpickle(file, stubs=stubs)
    # np.save puts a dict into an array without axes.
    single = isinstance(content, np.ndarray) and content.dtype == object and not content.ndim
    return content.item() if single else content


def _load_torch(path: str, stubs: bool) -> Any:
    if stubs:
        return _load_torch_with(StubUnpickler, path)
    # Many training scripts save their command line; a Namespace holds values and does nothing.
    # Before torch 2.5 there is no list for one call, and such files need stubs.
    allowed = getattr(torch.serialization, "safe_globals", contextlib.nullcontext)
    try:
        with allowed([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" not in str(error):
            raise
    # Torch's restricted loader does not know pickle's protocols above 3.
    return _load_torch_with(TableUnpickler, path)


def _load_torch_with(unpickler: type[TableUnpickler], path: str) -> Any:
    module = types.SimpleNamespace(
        Unpickler=unpickler,
        load=lambda file, **options: unpickler(file, **options).load(),
        UnpicklingError=pickle.UnpicklingError,
        __name__="table_pickle",
    )
    return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)


def _names_in_tar(path: str) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


def _no_checkpoint(problem: str) -> UserError:
    return UserError(problem, code="not-a-checkpoint")


def _unsafe(path: str, name: str) -> UserError:
    return UserError(
        f"'{path}' holds a {name}, which is not read because it could run code; save only tensors "
        "and plain values (of a module: torch.save(model.state_dict(), …), run where its class can "
        "be imported), or convert it with tools/convert.py --stub-unknown-objects",
        code="unsafe-file",
    )


def _other_library(path: str) -> str | None:
    return next((what for end, what in _OTHER_NAMES.items() if re.search(end, path)), None)


def _damaged(path: str, error: Exception) -> UserError:
    if other := _other_library(path):
        return _no_checkpoint(f"'{path}' is {other}{_OTHER_LIBRARY}")
    reason = re.sub(r"(?s).*WeightsUnpickler error: ", "", str(error)).strip().splitlines()
    detail = f" ({reason[0][:120]})" if reason else ""
    return UserError(
        f"'{path}' is truncated, damaged or not a checkpoint{detail}; download or write it again",
        code="damaged-file",
    )
