"""Unpickling of tensors and arrays from fixed tables of names; nothing else is imported or run."""

from __future__ import annotations

import argparse
import collections
import pickle
import re
import types
from typing import IO, Any

import numpy as np
import torch

from mls_d2.core.errors import UserError


class ForbiddenGlobalError(UserError):
    """A pickle that names something other than arrays of numbers."""

    code = "unsafe-file"


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    # Pickle protocols up to 2 store bytes as latin-1 text. Other codecs would run decompressors.
    if encoding != "latin1":
        raise ForbiddenGlobalError(f"a pickle asks for the codec '{encoding}'; only latin1 is read")
    return text.encode("latin1")


class _Dtype:
    """A type of numbers in a pickle; NumPy's own class would trust the pickle's flags."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[fiubcSUO]\d{0,4}", code):
            raise pickle.UnpicklingError(f"an array of type {code!r}, expected numbers")
        self.real = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, …); the rest describes fields, which plain numbers do not have.
        if state[1] in ("<", ">"):
            self.real = self.real.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that takes its contents from a pickle and nothing else."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        super().__setstate__((1, shape, dtype.real, is_fortran, data))


class _ArrayClass:
    """Stands for numpy.ndarray, which pickles only name."""


def _reconstruct(*_: Any) -> Any:
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _frombuffer(buffer: Any, dtype: _Dtype, shape: Any, order: Any) -> Any:
    return np.frombuffer(buffer, dtype=dtype.real).reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: Any) -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype=dtype.real, count=1)[0]


_NUMPY: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode_latin1,
} | {
    # Both spellings occur: NumPy 1 writes numpy.core, NumPy 2 numpy._core.
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module, name, function in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}


def _rebuild_parameter(data: Any, *others: Any) -> Any:
    # Of a kind of tensor that is not in the table, there is only a stub.
    rebuild = torch._utils._rebuild_parameter
    return rebuild(data, *others) if isinstance(data, torch.Tensor) else data


_REBUILT = ("tensor_v2", "tensor_v3", "meta_tensor_no_storage", "qtensor", "sparse_tensor")
_STORED = (
    "Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool",
    "QInt8", "QUInt8", "QInt32",
)  # fmt: skip
# torch.storage._load_from_bytes is not listed: it would unpickle without these limits.
_TORCH: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("torch", "per_tensor_affine"): torch.per_tensor_affine,
}
_TORCH |= {
    ("torch._utils", f"_rebuild_{kind}"): getattr(torch._utils, f"_rebuild_{kind}")
    for kind in _REBUILT
}
# Plain objects that training scripts save, as torch's own list of safe ones has them.
_TORCH |= {
    ("argparse", "Namespace"): argparse.Namespace,
    ("collections", "Counter"): collections.Counter,
    ("torch", "device"): torch.device,
}
_TORCH |= {("torch", f"{kind}Storage"): getattr(torch, f"{kind}Storage") for kind in _STORED}
_TORCH |= {
    ("torch", str(value).removeprefix("torch.")): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}


def _refuse_embedded_torch(module: str, name: str) -> None:
    # Torch tensors in a plain pickle need a second, unrestricted one inside.
    if name == "_load_from_bytes":
        raise ForbiddenGlobalError(
            f"a plain pickle that holds torch tensors (it names '{module}.{name}') cannot be read "
            "without running what is in it; save the tensors with torch.save, or as NumPy arrays"
        )


# The one in C takes memory for as many objects as a damaged byte says.
_PythonUnpickler: Any = pickle._Unpickler


class TableUnpickler(_PythonUnpickler):
    """Builds tensors and arrays, and refuses every other class."""

    dispatch = dict(_PythonUnpickler.dispatch)

    def load_build(self) -> None:
        """Set the state of an object, but not of a class or function: those of torch are shared."""
        target = self.stack[-2]
        if isinstance(target, type | types.FunctionType | types.BuiltinFunctionType):
            raise pickle.UnpicklingError(f"it would change {target!r}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        """Return the function or class of a fixed table."""
        _refuse_embedded_torch(module, name)
        known = _TORCH.get((module, name)) or _NUMPY.get((module, name))
        return self.unknown(module, name) if known is None else known

    def unknown(self, module: str, name: str) -> Any:
        """Refuse a class that is not in the table."""
        if not re.fullmatch(r"[\w.]+", module + name):
            raise pickle.UnpicklingError("not the name of a class")
        raise ForbiddenGlobalError(
            f"a pickle names '{module}.{name}', which is not read because it could run code; only "
            "plain values and arrays are (tools/convert.py --stub-unknown-objects puts inert "
            "objects in place of others)"
        )


class Stub(dict):
    """Accepts whatever a pickle does to an object, and does nothing.

    It holds positional arguments (the fields of a NamedTuple) by position, and an object's
    attributes under ``"state"``.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        """Make one that holds ``args`` by position."""
        made = super().__new__(cls)
        made.update(enumerate(args))
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        """Return another stub."""
        return Stub(*args)

    def __setstate__(self, state: Any) -> None:
        self["state"] = state

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise pickle.PicklingError("a stub for an object of a file cannot be saved")

    def append(self, item: Any) -> None:
        """Take a list's item."""
        self[len(self)] = item

    def extend(self, items: Any) -> None:
        """Take a list's items."""
        for item in items:
            self.append(item)

    add = append


class StubUnpickler(TableUnpickler):
    """Builds tensors and arrays; every other class becomes a :class:`Stub`."""

    def unknown(self, module: str, name: str) -> Any:
        """Return an inert class."""
        return type(name, (Stub,), {})


def unpickle(file: IO[bytes], *, stubs: bool = False) -> Any:
    """Read a pickle of plain Python values and NumPy arrays; nothing is imported.

    Args:
        file: opened for binary reading.
        stubs: put a :class:`Stub` in place of every other object, instead of refusing it.

    Raises:
        ForbiddenGlobalError: the pickle names anything but arrays, and was not evaluated further.
        pickle.UnpicklingError: or another error of :mod:`pickle`: damaged or truncated.
    """
    unpickler = StubUnpickler if stubs else TableUnpickler
    return unpickler(file, encoding="latin1").load()
