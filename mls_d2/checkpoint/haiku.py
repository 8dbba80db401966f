"""Networks of DeepMind's Haiku: two maps, parameters and statistics, of modules to arrays.

Flattened to names with slashes, ``res_net50/~/initial_conv/w``, with torch's order of axes. The
names are those of ``hk.nets.ResNet``, as its published checkpoints' converters read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mls_d2.checkpoint.backbone_file import as_tensor

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
        names = dict(_flat(value, "")) if _has_modules(value) else {}
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


def _has_modules(value: Any, depth: int = 0) -> bool:
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return False
    return is_haiku(value) or any(_has_modules(item, depth + 1) for item in value.values())


def _flat(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            # A stand-in's places and its "state" say nothing: Haiku's own mapping class is one.
            plain = isinstance(key, int) or (key == "state" and len(value) == 1)
            inner = name if plain else f"{name}/{key}" if name else str(key)
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
