"""Unpickling with inert stand-ins: the tensors of a file whose other objects are not wanted."""

from __future__ import annotations

import pickle
from typing import Any

import torch

from mls_d2.checkpoint.numpy_pickle import ALLOWED, refuse_embedded_torch

_TORCH: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
} | {
    ("torch", name): getattr(torch, name)
    for name in (
        "FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "LongStorage",
        "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage",
    )
}  # fmt: skip


class Stub(dict):
    """Takes whatever a pickle does to an object, and does nothing.

    A dict, so that positional arguments stay reachable by their place: the fields of a NamedTuple,
    which is made without ``__init__``.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        """Make one that holds ``args`` by their place."""
        made = super().__new__(cls)
        made.update(enumerate(args))
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        """Return another stand-in."""
        return Stub(*args)

    def __setstate__(self, state: Any) -> None:
        self["state"] = state

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise pickle.PicklingError("a stand-in for an object of a file is not to be saved")

    def append(self, item: Any) -> None:
        """Take a list's item."""
        self[len(self)] = item

    def extend(self, items: Any) -> None:
        """Take a list's items."""
        for item in items:
            self.append(item)

    add = append


class StubUnpickler(pickle.Unpickler):
    """Imports nothing: tensors and arrays are built, everything else becomes a :class:`Stub`.

    Source: the exact pairs that plain tensors and arrays need. ``torch.storage._load_from_bytes``
    is none of them, since it would unpickle without these limits, nor is ``builtins.getattr``.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the function or class of a fixed table, else an inert class."""
        refuse_embedded_torch(module, name)
        known = _TORCH.get((module, name)) or ALLOWED.get((module, name))
        return known if known is not None else type(name, (Stub,), {})
