"""The dicts of tensors in a file's content: nested dicts, whole modules, and DeepMind's Haiku.

Haiku has two maps, parameters and statistics, of modules to arrays. They are flattened to names
with slashes, ``res_net50/~/initial_conv/w``, with torch's order of axes. The names are those of
``hk.nets.ResNet``, as the converters of its published checkpoints read them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mls_d2.checkpoint.backbone_file import as_tensor, same_values
from mls_d2.checkpoint.unpickling import Stub
from mls_d2.core.errors import UserError

# Of DataParallel, torch.compile, FSDP, and activation checkpointing.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_HAIKU_MARK = "/~/"
_DEEPEST = 6
_DEEPEST_MODULE = 50


def tensor_maps(
    content: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield every dict of tensors by name in nested dicts, with the path to it.

    The prefixes of wrappers are taken off, whole saved modules (read with stubs) become their state
    dicts, and Haiku's two maps become one.

    Raises:
        UserError: a dict has different copies of one tensor, with and without a wrapper's prefix.
    """
    if isinstance(content, Stub):
        content = dict(_module_tensors(content)) or content
    if isinstance(content, list | tuple) and not path:
        content = dict(enumerate(content))
    if not isinstance(content, Mapping) or len(path) > _DEEPEST:
        return
    if _is_haiku(content):
        yield from ((path, names) for _, names in _haiku_networks({"": content}))
        return
    networks = _haiku_networks(content)
    yield from (((*path, key), names) for key, names in networks)
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        tensor = as_tensor(value)
        if tensor is not None and isinstance(key, str):
            name = ".".join(step for step in key.split(".") if step not in _WRAPPERS)
            check_copy(name, tensors.get(name, tensor), tensor)
            tensors[name] = tensor
        elif isinstance(value, Mapping) and not networks:
            yield from tensor_maps(value, (*path, str(key)))
    if tensors:
        yield path, tensors


def _module_tensors(
    stub: Stub, prefix: str = "", around: tuple[Stub, ...] = ()
) -> Iterator[tuple[str, Tensor]]:
    """Yield what the state dict of a whole saved module would hold."""
    state = stub.get("state")
    attributes = state if isinstance(state, Mapping) and len(around) < _DEEPEST_MODULE else {}
    unsaved = attributes.get("_non_persistent_buffers_set")  # a set, which is a stub of its list
    unsaved = unsaved.get(0) if isinstance(unsaved, Mapping) else unsaved
    unsaved = unsaved if isinstance(unsaved, list | set) else ()
    for kind in ("_parameters", "_buffers", "_modules"):
        items = attributes.get(kind)
        for name, value in items.items() if isinstance(items, Mapping) else ():
            if kind == "_modules" and isinstance(value, Stub):
                if not any(value is outer for outer in (stub, *around)):
                    yield from _module_tensors(value, f"{prefix}{name}.", (stub, *around))
            elif isinstance(value, Tensor) and name not in unsaved:
                yield f"{prefix}{name}", value


def check_copy(name: str, one: Tensor, other: Tensor) -> None:
    """Refuse different copies of one tensor in a file.

    Raises:
        UserError: they differ.
    """
    if one is not other and not same_values(one, other):
        raise UserError(
            f"it holds two different copies of {name}, perhaps under the prefix of a wrapper such "
            "as module.; remove one of them",
            code="two-copies",
        )


def _haiku_networks(content: Mapping[Any, Any]) -> list[tuple[str, dict[str, Tensor]]]:
    """Return the Haiku networks among a mapping's values: key of the parameters, and tensors.

    The i-th map of parameters goes with the i-th map of statistics: BYOL's state has the fields
    online parameters, target parameters, online statistics, target statistics, optimizer.
    """
    parameters: list[tuple[str, dict[str, Tensor]]] = []
    statistics: list[dict[str, Tensor]] = []
    for key, value in content.items():
        names = dict(_flat(_haiku_modules(value), ""))
        if any(name.endswith("initial_conv/w") for name in names):
            parameters.append((str(key), names))
        elif any(name.endswith("mean_ema/average") for name in names):
            statistics.append(names)
    paired = len(parameters) == len(statistics)
    return [
        (key, names | (statistics[place] if paired else {}))
        for place, (key, names) in enumerate(parameters)
    ]


def _is_haiku(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping itself has the names of Haiku's modules."""
    return any(isinstance(key, str) and _HAIKU_MARK in key for key in content)


def _haiku_modules(value: Any, depth: int = 0) -> Mapping[Any, Any] | None:
    """Return the map of modules in a value, which may be wrapped in Haiku's mapping class."""
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return None
    if _is_haiku(value):
        return value
    if not isinstance(value, Stub) and "_mapping" not in value:
        return None
    # If there are several, as in a NamedTuple, each is a separate map.
    inside = [
        found for item in value.values() if (found := _haiku_modules(item, depth + 1)) is not None
    ]
    return inside[0] if len(inside) == 1 else None


def _flat(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            # The positions in a stub, for Haiku's mapping class, do not belong to the name.
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
