"""Conversion of any ResNet checkpoint to the backbone file of Detectron2, and back."""

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from mls_d2.checkpoint.backbone_file import (
    check_values,
    pretraining_info,
    sha256,
    write_backbone,
)
from mls_d2.checkpoint.download import fetch
from mls_d2.checkpoint.reading import read_object
from mls_d2.convert.architecture import architecture_of, check_coverage, verify
from mls_d2.convert.detector_parts import detector_parts_config, find_detector_parts
from mls_d2.convert.encoders import FoundEncoder, choose, find_encoders, others, reasons
from mls_d2.convert.layouts import DETECTRON2, detectron2_name, torchvision_from_detectron2
from mls_d2.convert.sources import KnownSource
from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import atomic_write

# By the library whose names are written, the prefix of torchvision's; None are Detectron2's names.
TARGETS: dict[str, str | None] = {
    "detectron2": None,
    "torchvision": "",
    "timm": "",
    "mmseg": "backbone.",
    "mmdet": "backbone.",
}
_THREE = "three numbers such as [0, 0, 0]"


def _are_three(value: Any) -> bool:
    numbers = value if isinstance(value, list | tuple) else ()
    plain = (type(item) in (int, float) and math.isfinite(item) for item in numbers)
    return len(numbers) == 3 and all(plain)


# What the tensors do not show and a user may know: the config's key, its name in the metadata, what
# is expected, and whether a value is that.
INPUT_KEYS: dict[str, tuple[str, str, Callable[[Any], bool]]] = {
    "INPUT.FORMAT": ("input_format", "RGB or BGR", lambda value: value in ("RGB", "BGR")),
    "MODEL.PIXEL_MEAN": ("pixel_mean", _THREE, _are_three),
    "MODEL.PIXEL_STD": (
        "pixel_std", "three numbers above 0", lambda value: _are_three(value) and min(value) > 0,
    ),
    "MODEL.RESNETS.STRIDE_IN_1X1": (
        "stride_in_1x1", "True or False", lambda value: isinstance(value, bool),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ConvertedBackbone:
    """A converted encoder."""

    state_dict: dict[str, Tensor]  # float32, with Detectron2's names
    # Source, architecture, input, what was left out, the largest difference found in verification
    # (None: not verified); and the pretraining metadata of the file.
    info: dict[str, Any]
    parts: dict[str, Tensor]  # of an FPN or a box head, with Detectron2's full names
    in_detectron2_format: bool  # Detectron2 loads the file as it is
    left: dict[str, list[str]]  # names that were left out, by the reason

    @property
    def config(self) -> dict[str, Any]:
        """The part of a Detectron2 config that these weights need."""
        block = config_block(self.info)
        block["MODEL"] |= detector_parts_config(self.parts)
        return block


def load_backbone(
    path: str,
    *,
    source: str = "auto",
    encoder: str | None = None,
    check: bool = True,
    stubs: bool = False,
    parts: tuple[str, ...] = (),
    trained_on: Mapping[str, Any] | None = None,
) -> ConvertedBackbone:
    """Read a checkpoint of any known source and return its encoder for Detectron2.

    Args:
        path: of the file, or its URL or ``hf://`` path; nothing in it is run.
        source: "auto" recognises it by the structure of its names; or its name.
        encoder: prefix of the encoder to take instead of the one that the authors transfer.
        check: run both networks and compare their outputs at every stage.
        stubs: see :func:`mls_d2.checkpoint.reading.read_object`.
        parts: what else to take, of :data:`mls_d2.convert.detector_parts.PARTS`.
        trained_on: corrections of the table's input, by key of :data:`INPUT_KEYS`; texts are YAML.

    Raises:
        UserError: unreadable, no ResNet in it, several encoders to choose from, an incomplete one,
            tensors that are not finite floating-point numbers, a part that is missing.
    """
    given = _checked_input(trained_on or {})
    content = read_object(fetch(path), stubs=stubs)
    try:
        encoders = find_encoders(content)
        chosen, entry = choose(encoders, source=source, encoder=encoder)
        named, left = chosen.tensors(entry.also)
        chosen.check_nothing_more(left)
        rest = {name: chosen.names[name] for name in left}
        found = find_detector_parts(rest, chosen.prefix, entry.detector_parts, parts)
        extra = {name: value for name, (_, value) in found.items()}
        check_values(named | extra)
        named, extra = _float32(named), _float32(extra)
        # A file of ours keeps its own metadata; the user knows better.
        own = _own_info(content)
        architecture = architecture_of(named)
        trained = entry.input | _own_input(own) | given
        architecture = replace(architecture, stride_in_1x1=trained.pop("stride_in_1x1"))
        state = {detectron2_name(name): value for name, value in named.items()}
        check_coverage(state, architecture)
        difference = verify(named, architecture) if check else None
    except UserError as error:
        raise UserError(f"'{path}': {error}", code=error.code) from None
    taken = {name for name, _ in found.values()}
    left_for = reasons([name for name in left if name not in taken], chosen, encoders)
    info = _info(path, encoders, chosen, entry, own) | trained
    info["architecture"] = asdict(architecture)
    info["left"] = {why: len(names) for why, names in left_for.items()}
    info["verified"] = difference
    # With an FPN or a box head beside it, there is a backbone to take out.
    ready = not (given or parts or left) and _is_detectron2_format(content, chosen)
    return ConvertedBackbone(state, info, extra, ready, left_for)


def write_converted(path: str, backbone: ConvertedBackbone, *, to: str = "detectron2") -> None:
    """Write an encoder under the names of a library in :data:`TARGETS`.

    Args:
        path: ``.pth``, ``.pkl`` (Detectron2 only) or ``.safetensors`` (others only).
        backbone: what is written.
        to: the library.

    Raises:
        UserError: a suffix that it does not read, parts that only Detectron2 has names for, or the
            file cannot be written.
    """
    check_dst(path, to)
    prefix = TARGETS[to]
    if prefix is None:
        write_backbone(path, backbone.state_dict | backbone.parts, backbone.info)
        return
    if backbone.parts:
        message = f"an FPN and a box head are written with Detectron2's names, not {to}'s"
        raise UserError(message, code="bad-value")
    state = {
        f"{prefix}{torchvision_from_detectron2(name)}": value
        for name, value in backbone.state_dict.items()
    }
    with atomic_write(path) as file:
        if path.endswith(".safetensors"):
            file.write(safetensors.torch.save(state, {"source": str(backbone.info["source"])}))
        else:
            torch.save({"state_dict": state} if prefix else state, file)


def check_dst(path: str, to: str, *, force: bool = True) -> None:
    """Refuse, before any work, what :func:`write_converted` could not write.

    Raises:
        UserError: unknown names, a suffix that their library does not read, a folder, an existing
            file (unless ``force``), or a folder that cannot be written to.
    """
    if to not in TARGETS:
        raise UserError(f"no names of '{to}'; {nearest(to, TARGETS)}", code="unknown-name")
    allowed = (".pth", ".pkl") if TARGETS[to] is None else (".pth", ".safetensors")
    if os.path.splitext(path)[1] not in allowed:
        suffixes = " or ".join(allowed)
        raise UserError(f"'{path}' must end with {suffixes} for {to} names", code="bad-value")
    if os.path.isdir(path):
        file = os.path.join(path, "backbone.pth")
        raise UserError(f"'{path}' is a folder; name a file, such as '{file}'", code="bad-value")
    if os.path.exists(path) and not force:
        message = f"'{path}' exists; take another name, or --force to overwrite it"
        raise UserError(message, code="file-exists")
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(path) or "."):
            pass
    except OSError as error:
        message = f"cannot write to '{path}': {error.strerror}; choose another folder"
        raise UserError(message, code="no-space") from None


def config_block(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Detectron2 config that converted weights with this metadata need."""
    sizes = {name.upper(): value for name, value in info["architecture"].items()}
    return {
        "INPUT": {"FORMAT": info["input_format"]},
        "MODEL": {
            "PIXEL_MEAN": info["pixel_mean"],
            "PIXEL_STD": info["pixel_std"],
            "RESNETS": sizes | ({"NORM": "FrozenBN"} if info.get("folded_norm") else {}),
        },
    }


def _info(
    path: str,
    encoders: list[FoundEncoder],
    chosen: FoundEncoder,
    entry: KnownSource,
    own: Mapping[str, Any],
) -> dict[str, Any]:
    """Return where an encoder comes from, and a file's own metadata."""
    return {
        "method": entry.name,
        "source": entry.name,
        "source_title": entry.title,
        "note": entry.note,
        "encoder": chosen.prefix,
        "container": " > ".join(chosen.path),
        "source_sha256": sha256(path),
        **own,
        "folded_norm": chosen.layout.folded_norm or own.get("folded_norm") is True,
        "other_encoders": others(encoders, chosen),
    }


def _own_info(content: Any) -> dict[str, Any]:
    """Return the pretraining metadata of one of our files; empty for others."""
    info = pretraining_info(content)
    if info.get("method") == "random":  # A detector trained from random weights.
        del info["method"]
    return info


def _own_input(info: Mapping[str, Any]) -> dict[str, Any]:
    sizes = info.get("architecture")
    flat = (sizes if isinstance(sizes, dict) else {}) | dict(info)
    known = {key: flat[name] for key, (name, _, _) in INPUT_KEYS.items() if name in flat}
    return _checked_input(known)


def _checked_input(trained_on: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by key of :data:`INPUT_KEYS` by their names in the metadata."""
    found: dict[str, Any] = {}
    for key, value in trained_on.items():
        if key not in INPUT_KEYS:
            hint = nearest(key, INPUT_KEYS)
            raise UserError(f"'{key}' cannot be set; {hint}", code="unknown-name")
        name, expected, is_valid = INPUT_KEYS[key]
        with contextlib.suppress(yaml.YAMLError):
            value = yaml.safe_load(value) if isinstance(value, str) else value
        if not is_valid(value):
            raise UserError(f"{key} is {value!r}, expected {expected}", code="bad-value")
        found[name] = [float(item) for item in value] if _are_three(value) else value
    if ("pixel_mean" in found) != ("pixel_std" in found):
        message = "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD go together; set both"
        raise UserError(message, code="bad-value")
    return found


def _is_detectron2_format(content: Mapping[str, Any], chosen: FoundEncoder) -> bool:
    """Whether Detectron2 loads the file as it is: unprefixed names, and the flag to match them."""
    return (
        chosen.layout is DETECTRON2
        and not chosen.prefix
        and chosen.path == ("model",)
        and "__author__" in content
        and content.get("matching_heuristics") is True
    )


def _float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.detach().to("cpu", torch.float32).contiguous()
        for name, value in tensors.items()
    }
