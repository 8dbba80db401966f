"""Networks of DeepMind's Haiku: two maps, parameters and statistics, of modules to arrays.

Flattened to names with slashes, ``res_net50/~/initial_conv/w``, with torch's order of axes. The
names are those of ``hk.nets.ResNet``, as its published checkpoints' converters read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mls_d2.checkpoint.backbone_file import as_tensor
from mls_d2.checkpoint.stub_pickle import Stub

_MARK = "/~/"
_DEEPEST = 6
Encoder = tuple[str, dict[str, Tensor]]


def haiku_encoders(content: Mapping[Any, Any]) -> list[Encoder]:
    """Return the networks among a mapping's values, each with its statistics.

    The i-th map of parameters goes with the i-th map of statistics: BYOL's state has the fields
    online parameters, target parameters, online statistics, target statistics, optimiser.

    Args:
        content: a dict, or the stand-in for a NamedTuple, whose keys are places.

    Returns:
        The key of the parameters and all tensors by name, in the file's order.
    """
    parameters: list[Encoder] = []
    statistics: list[dict[str, Tensor]] = []
    for key, value in content.items():
        names = dict(_flat(_modules(value), ""))
        if any(name.endswith("initial_conv/w") for name in names):
            parameters.append((str(key), names))
        elif any(name.endswith("mean_ema/average") for name in names):
            statistics.append(names)
    paired = len(parameters) == len(statistics)
    return [
        (key, names | (statistics[place] if paired else {}))
        for place, (key, names) in enumerate(parameters)
    ]


def is_haiku(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping is, itself, of Haiku's modules."""
    return any(isinstance(key, str) and _MARK in key for key in content)


def _modules(value: Any, depth: int = 0) -> Mapping[Any, Any] | None:
    """Return the map of modules that a value is, or that Haiku's own mapping class holds."""
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return None
    if is_haiku(value):
        return value
    if not isinstance(value, Stub) and "_mapping" not in value:
        return None
    # Of several, as in a NamedTuple, each is a map of its own.
    inside = [found for item in value.values() if (found := _modules(item, depth + 1)) is not None]
    return inside[0] if len(inside) == 1 else None


def _flat(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            # The places of a stand-in, for Haiku's own mapping class, are no part of the name.
            inner = name if isinstance(key, int) else f"{name}/{key}" if name else str(key)
            yield from _flat(item, inner, depth + 1)
        return
    tensor = as_tensor(value)
    if tensor is not None:
        yield name.replace("initial_conv_1", "initial_conv"), _torch_axes(tensor, name)


def _torch_axes(value: Tensor, name: str) -> Tensor:
    if value.ndim == 4 and name.endswith("/w"):
        return value.permute(3, 2, 0, 1)
    # Norms keep (1, 1, 1, C), so that they broadcast over N, H, W, C.
    return value.flatten() if value.ndim == 4 else value
