"""Conversion of any ResNet checkpoint to the backbone file of Detectron2, and back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from mls_d2.checkpoint.backbone_file import (
    check_values,
    is_plain,
    pretraining_info,
    sha256,
    write_backbone,
)
from mls_d2.checkpoint.reading import read_object
from mls_d2.convert.architecture import architecture_of, check_coverage, verify
from mls_d2.convert.detector_parts import detector_parts_config, find_detector_parts
from mls_d2.convert.encoders import FoundEncoder, choose, find_encoders, others, reasons
from mls_d2.convert.layouts import DETECTRON2, detectron2_name, torchvision_from_detectron2
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
# What no tensor shows and a user may know better: the config's key and its name in the metadata.
INPUT_KEYS = {
    "INPUT.FORMAT": "input_format",
    "MODEL.PIXEL_MEAN": "pixel_mean",
    "MODEL.PIXEL_STD": "pixel_std",
    "MODEL.RESNETS.STRIDE_IN_1X1": "stride_in_1x1",
}


@dataclass(frozen=True)
class ConvertedBackbone:
    """A converted encoder.

    Attributes:
        state_dict: float32 tensors with Detectron2's names.
        info: plain metadata: source, encoder, sha256, architecture, input format, pixel mean and
            std, how many tensors were left out for which reason, the largest difference found in
            verification (None: not verified); and the pretraining metadata of the file.
        parts: tensors of an FPN or a box head that were asked for, with Detectron2's full names.
        in_detectron2_format: Detectron2 loads the file as it is.
        left: the names that were left out, by the reason.
    """

    state_dict: dict[str, Tensor]
    info: dict[str, Any]
    parts: dict[str, Tensor] = field(default_factory=dict)
    in_detectron2_format: bool = False
    left: dict[str, list[str]] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The part of a Detectron2 config that these weights need."""
        block = config_block(self.info)
        block["MODEL"] |= detector_parts_config(self.parts)
        return block

    def config_yaml(self) -> str:
        """Return it as YAML to paste."""
        return yaml.safe_dump(self.config, sort_keys=False, default_flow_style=None)


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
        path: of the file; nothing in it is run.
        source: "auto" recognises it by the structure of its names; or its name.
        encoder: prefix of the encoder to take instead of the one that the authors transfer.
        check: run both networks and compare their outputs at every stage.
        stubs: see :func:`mls_d2.checkpoint.reading.read_object`.
        parts: what else to take, of :data:`mls_d2.convert.detector_parts.PARTS`.
        trained_on: what the user knows better than the table, by key of :data:`INPUT_KEYS`; texts
            are read as YAML.

    Raises:
        UserError: unreadable, no ResNet in it, several encoders to choose from, an incomplete one,
            tensors that are not finite floating-point numbers, a part that is missing.
    """
    trained_on = {key: _parsed(key, value) for key, value in (trained_on or {}).items()}
    _source_fields(trained_on)  # Wrong values are refused before the file is read.
    content = read_object(path, stubs=stubs)
    try:
        encoders = find_encoders(content)
        chosen, entry = choose(encoders, source=source, encoder=encoder)
        # A file of ours keeps its own metadata; the user knows better.
        own = _own_info(content)
        entry = replace(entry, **_source_fields(_own_input(own) | trained_on))
        named, left = chosen.tensors(entry.also)
        chosen.check_nothing_more(left)
        check_values(named)
        named = {name: _stored(value) for name, value in named.items()}
        architecture = architecture_of(named, stride_in_1x1=entry.stride_in_1x1)
        state = {detectron2_name(name): value for name, value in named.items()}
        check_coverage(state, architecture)
        rest = {name: chosen.names[name] for name in left}
        found = find_detector_parts(rest, chosen.prefix, entry.detector_parts, parts)
        check_values(dict(found.values()))
        difference = verify(named, architecture) if check else None
    except UserError as error:
        raise UserError(f"'{path}': {error}", code=error.code) from None
    taken = {name for name, _ in found.values()}
    left_for = reasons([name for name in left if name not in taken], chosen, encoders)
    info = {
        "method": entry.name,
        "source": entry.name,
        "source_title": entry.title,
        "note": entry.note,
        "encoder": chosen.prefix,
        "container": " > ".join(chosen.path),
        "source_sha256": sha256(path),
        **own,
        "pixel_mean": list(entry.normalisation[0]),
        "pixel_std": list(entry.normalisation[1]),
        "input_format": entry.input_format,
        "folded_norm": chosen.layout.folded_norm or own.get("folded_norm") is True,
        "architecture": asdict(architecture),
        "left": {why: len(names) for why, names in left_for.items()},
        "other_encoders": others(encoders, chosen),
        "verified": difference,
    }
    extra = {name: _stored(value) for name, (_, value) in found.items()}
    ready = not trained_on and not parts and _is_detectron2_format(content, chosen)
    return ConvertedBackbone(state, info, extra, ready, left_for)


def write_converted(path: str, backbone: ConvertedBackbone, *, to: str = "detectron2") -> None:
    """Write an encoder under the names that another library expects.

    Args:
        path: ``.pth``, ``.pkl`` (Detectron2 only) or ``.safetensors`` (not Detectron2, which does
            not read it).
        backbone: what is written.
        to: of :data:`TARGETS`: "torchvision", also timm's names; "mmseg" and "mmdet", the same
            below ``backbone.``.

    Raises:
        UserError: a suffix that the target does not read, parts that only Detectron2 has names for,
            or the file cannot be written.
    """
    check_dst(path, to)
    prefix = TARGETS[to]
    if prefix is None:
        write_backbone(path, backbone.state_dict | backbone.parts, backbone.info)
        return
    if backbone.parts:
        raise UserError(
            f"an FPN and a box head are written with Detectron2's names, not {to}'s",
            code="bad-value",
        )
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


def _own_info(content: Any) -> dict[str, Any]:
    """Return the pretraining metadata of one of our files; empty for others."""
    info = pretraining_info(content)
    if info.get("method") == "random":  # A detector trained from random weights.
        del info["method"]
    return info if is_plain(info) else {}


def _own_input(info: Mapping[str, Any]) -> dict[str, Any]:
    sizes = info.get("architecture")
    flat = (sizes if isinstance(sizes, dict) else {}) | dict(info)
    return {key: flat[name] for key, name in INPUT_KEYS.items() if name in flat}


def _parsed(key: str, value: Any) -> Any:
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        raise UserError(f"{key} is '{value}', not a value of a config", code="bad-value") from None


def _source_fields(trained_on: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by key of :data:`INPUT_KEYS` as fields of ``KnownSource``, checked."""
    for key, value in trained_on.items():
        if key not in INPUT_KEYS:
            raise UserError(
                f"'{key}' cannot be set; {nearest(key, INPUT_KEYS)}", code="unknown-name"
            )
        if key == "INPUT.FORMAT":
            valid, expected = value in ("RGB", "BGR"), "RGB or BGR"
        elif key == "MODEL.RESNETS.STRIDE_IN_1X1":
            valid, expected = isinstance(value, bool), "True or False"
        else:
            numbers = value if isinstance(value, list | tuple) else []
            valid = len(numbers) == 3 and all(isinstance(item, int | float) for item in numbers)
            expected = "three numbers such as [0, 0, 0]"
        if not valid:
            raise UserError(f"{key} is {value!r}, expected {expected}", code="bad-value")
    found = {
        INPUT_KEYS[key]: value for key, value in trained_on.items() if not key.startswith("MODEL.P")
    }
    pixels = [
        trained_on[key] for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD") if key in trained_on
    ]
    if len(pixels) == 1:
        message = "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD go together; set both"
        raise UserError(message, code="bad-value")
    if pixels:
        found["normalisation"] = tuple(tuple(map(float, values)) for values in pixels)
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


def _stored(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32).contiguous()
