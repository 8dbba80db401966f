"""Reading pickles of NumPy arrays without running anything that the file asks for."""

from __future__ import annotations

import collections
import pickle
import re
from typing import IO, Any

import numpy as np

from mls_d2.core.errors import UserError


class ForbiddenGlobalError(UserError):
    """A pickle that names something other than arrays of numbers."""


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    # Pickle protocols up to 2 store bytes as latin-1 text. Other codecs would run decompressors.
    if encoding != "latin1":
        raise ForbiddenGlobalError(f"a pickle asks for the codec '{encoding}'; only latin1 is read")
    return text.encode("latin1")


class _Dtype:
    """What a pickle says of a type of numbers.

    NumPy's own would take flags from the pickle and trust them with memory.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[fiubcSUO]\d{0,4}", code):
            raise pickle.UnpicklingError(f"an array of type {code!r}, expected numbers")
        self.real = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, …); the rest is about fields, which plain numbers do not have.
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


# Both spellings occur: NumPy 1 writes numpy.core, NumPy 2 numpy._core.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode_latin1,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module, name, function in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}


def refuse_embedded_torch(module: str, name: str) -> None:
    """Refuse what torch tensors need in a plain pickle: a second, unrestricted one inside.

    Raises:
        ForbiddenGlobalError: this is that function.
    """
    if name == "_load_from_bytes":
        raise ForbiddenGlobalError(
            f"a plain pickle that holds torch tensors (it names '{module}.{name}') cannot be read "
            "without running what is in it; save the tensors with torch.save, or as NumPy arrays"
        )


class _NumpyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            refuse_embedded_torch(module, name)
            raise ForbiddenGlobalError(
                f"a pickle names '{module}.{name}', which is not read because it could run code; "
                "only plain values and NumPy arrays are (tools/convert.py --stub-unknown-objects "
                "puts inert objects in place of others)"
            ) from None


def load_numpy_pickle(file: IO[bytes]) -> Any:
    """Read a pickle that holds plain Python values and NumPy arrays; nothing is imported.

    Args:
        file: opened for binary reading. Python 2 pickles are read too (encoding latin1).

    Raises:
        ForbiddenGlobalError: the pickle names anything but arrays, and was not evaluated further.
        pickle.UnpicklingError: or another error of :mod:`pickle`: damaged or truncated.
    """
    return _NumpyUnpickler(file, encoding="latin1").load()
