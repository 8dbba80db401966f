"""Reading pickles of NumPy arrays without running anything that the file asks for."""

from __future__ import annotations

import collections
import pickle
from typing import IO, Any

import numpy as np

from mls_d2.errors import UserError


class ForbiddenGlobalError(UserError):
    """A pickle that names something other than arrays of numbers."""


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    # Pickle protocols up to 2 store bytes as latin-1 text. Other codecs would run decompressors.
    if encoding != "latin1":
        raise ForbiddenGlobalError(f"a pickle asks for the codec '{encoding}'; only latin1 is read")
    return text.encode("latin1")


# Taken from arrays made here, so that no NumPy-internal path is imported by name. Both spellings of
# the module occur: NumPy 1 writes numpy.core, NumPy 2 numpy._core.
_reconstruct: Any = np.zeros(1).__reduce__()[0]
_frombuffer: Any = np.zeros(1).__reduce_ex__(5)[0]
_scalar: Any = np.float32(1).__reduce__()[0]
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode_latin1,
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
