"""Finding the encoder in a checkpoint: by the structure of its names, never by the file's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mls_d2.checkpoint.backbone_file import as_tensor
from mls_d2.checkpoint.layouts import LAYOUTS, Layout
from mls_d2.checkpoint.sources import SOURCES, Source
from mls_d2.errors import UserError, nearest

_WRAPPERS = ("module", "_orig_mod")
_DEEPEST = 5
_MAIN_ENTRIES = ("state_dict", "model", "model_state_dict")
_FOREIGN = (
    (r"(.*\.)?(cls_token|patch_embed\..*|pos_embed)", "a Vision Transformer"),
    (r"(.*\.)?(downsample_layers|stages\.\d\.\d+\.dwconv|stages\.\d\.\d+\.depthwise_conv)\b.*",
     "a ConvNeXt"),
    (r"(.*\.)?(conv1|stem)\.0\.weight", "a ResNet with a deep stem (three 3×3 convolutions)"),
    (r"(.*\.)?layer1\.0\.conv2\.(convs|fc|attn)\b.*", "a network of Selective Kernel units"),
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """An encoder in a file.

    Attributes:
        path: steps to the dict that holds it.
        prefix: of its names there, wrappers taken off.
        layout: of its names below the prefix.
        names: all names of that dict, wrappers taken off, with their tensors.
    """

    path: tuple[str, ...]
    prefix: str
    layout: Layout
    names: Mapping[str, Tensor]

    def describe(self) -> str:
        """Return how a user names it."""
        where = " > ".join(self.path)
        return f"'{self.prefix}'{f' in {where}' if where else ''} ({self.layout.name} names)"

    def tensors(self, also: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], list[str]]:
        """Return the backbone's tensors by torchvision's names, and the names left behind."""
        found: dict[str, Tensor] = {}
        left = []
        for name, value in self.names.items():
            prefix = next((p for p in (self.prefix, *also) if name.startswith(p)), None)
            ours = self.layout.torchvision_name(name[len(prefix) :]) if prefix is not None else None
            if ours is None or ours in found:
                left.append(name)
            else:
                found[ours] = value
        return found, left


def find_candidates(content: Any) -> list[Candidate]:
    """Return every encoder in a file's content.

    Raises:
        UserError: there is none; says what is there instead, where that is known.
    """
    maps = list(_tensor_maps(content, ()))
    found = [
        Candidate(path, prefix, layout, names)
        for path, names in maps
        for layout in LAYOUTS
        for prefix in _prefixes(names, layout)
    ]
    if not found:
        raise UserError(_what_is_there([name for _, names in maps for name in names]))
    return found


def choose(
    candidates: list[Candidate], *, source: str = "auto", encoder: str | None = None
) -> tuple[Candidate, Source]:
    """Return the encoder to take and the kind of file that it is from.

    Args:
        candidates: of :func:`find_candidates`.
        source: "auto", or the name of one of :data:`mls_d2.checkpoint.sources.SOURCES`.
        encoder: prefix of the encoder to take whatever the authors take.

    Raises:
        UserError: an unknown source, one that does not fit, or several different encoders of
            which none is known to be the one that is transferred.
    """
    names = {entry.name for entry in SOURCES}
    if source != "auto" and source not in names:
        raise UserError(f"no source '{source}'; {nearest(source, names)}")
    entries = [entry for entry in SOURCES if source in ("auto", entry.name)]
    listed = "\n  ".join(candidate.describe() for candidate in candidates)
    if encoder is not None:
        wanted = encoder.rstrip(".") + "." if encoder else ""
        candidates = [item for item in candidates if item.prefix == wanted]
        if not candidates:
            raise UserError(f"there is no encoder '{encoder}'; there are\n  {listed}")
        entries = [*entries, _unknown(candidates[0])]
    for entry in entries:
        fitting = [item for item in candidates if _fits(entry, item, chosen=encoder is not None)]
        if fitting:
            return _preferred(fitting), entry
    if source != "auto":
        raise UserError(f"this is no checkpoint of source '{source}'; its encoders are\n  {listed}")
    different = _without_aliases(candidates)
    if len(different) > 1:
        raise UserError(
            f"several encoders, of which none is known to be the one to transfer:\n  {listed}\n"
            "Choose one with --encoder PREFIX"
        )
    return different[0], _unknown(different[0])


def _tensor_maps(
    content: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or len(path) > _DEEPEST:
        return
    tensors = {}
    for key, value in content.items():
        tensor = as_tensor(value)
        if tensor is not None and isinstance(key, str):
            tensors[_unwrapped(key)] = tensor
        elif isinstance(value, Mapping):
            yield from _tensor_maps(value, (*path, str(key)))
    if tensors:
        yield path, tensors


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefixes(names: Mapping[str, Tensor], layout: Layout) -> list[str]:
    ends = [name[: -len(layout.stem)] for name in names if name.endswith(layout.stem)]
    return [
        prefix
        for prefix in ends
        if (not prefix or prefix.endswith(".")) and prefix + layout.block in names
    ]


def _fits(entry: Source, item: Candidate, *, chosen: bool) -> bool:
    return (
        (chosen or entry.encoder is None or item.prefix == entry.encoder)
        and (not entry.layout or item.layout.name == entry.layout)
        and (not entry.container or (bool(item.path) and item.path[-1] == entry.container))
        and all(any(re.match(pattern, name) for name in item.names) for pattern in entry.needs)
    )


def _preferred(fitting: list[Candidate]) -> Candidate:
    """Where a file holds moving averages beside its weights, take the weights."""
    plain = [item for item in fitting if not item.path or item.path[-1] in _MAIN_ENTRIES]
    return (plain or fitting)[0]


def _without_aliases(candidates: list[Candidate]) -> list[Candidate]:
    """Leave out encoders that hold the same tensors as one before."""
    kept: list[Candidate] = []
    for item in candidates:
        mine = item.tensors()[0]
        if not any(_same(mine, other.tensors()[0]) for other in kept):
            kept.append(item)
    return kept


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _unknown(item: Candidate) -> Source:
    return Source("unknown", f"an unknown source with {item.layout.name} names", item.prefix)


def _what_is_there(names: list[str]) -> str:
    for pattern, kind in _FOREIGN:
        if any(re.fullmatch(pattern, _unwrapped(name)) for name in names):
            return f"this is {kind}, and Detectron2's ResNet cannot hold it"
    if not names:
        return "there are no tensors by name in it (only an optimizer's state, or something else)"
    shown = ", ".join(names[:5])
    if all(re.search(r"proj|head|fc|predictor|queue|prototypes", name) for name in names):
        return f"there is a projector or head in it and no backbone ({shown})"
    return f"there is no ResNet in it; its names are {shown}, …"
