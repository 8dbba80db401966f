"""From any ResNet checkpoint to the backbone file that Detectron2 loads, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from mls_d2.checkpoint.backbone_file import check_finite, is_plain, sha256, write_backbone
from mls_d2.checkpoint.reading import read_object
from mls_d2.convert.architecture import Architecture, architecture_of, check_coverage, verify
from mls_d2.convert.layouts import DETECTRON2, detectron2_name, torchvision_from_detectron2
from mls_d2.convert.parts import find_parts, parts_config
from mls_d2.convert.recognise import Candidate, choose, find_candidates, others, reasons
from mls_d2.convert.sources import Source
from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import atomic_write

# By whose names are written, what stands before torchvision's; None are Detectron2's own.
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
class Backbone:
    """A converted encoder.

    Attributes:
        state_dict: float32 tensors with Detectron2's names.
        info: plain metadata: source, encoder, sha256, architecture, input format, pixel mean and
            std, how many tensors were left for which reason, the largest difference found in
            verification (None: not verified).
        parts: tensors of an FPN or a box head that were asked for, with Detectron2's full names.
        in_detectron2_format: the file is already what Detectron2 reads.
        left: the names that were left beside the encoder, by the reason.
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
        for name, node in parts_config(self.parts).items():
            block["MODEL"][name] = node
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
) -> Backbone:
    """Read a checkpoint of any known kind and return its encoder for Detectron2.

    Args:
        path: of the file; nothing in it is run.
        source: "auto" recognises the kind by the structure of its names; or its name.
        encoder: prefix of the encoder to take, where another than the authors' is wanted.
        check: run both networks and compare their outputs at every stage.
        stubs: read what torch refuses with inert objects, see
            :func:`mls_d2.checkpoint.reading.read_object`.
        parts: what else to take, of :data:`mls_d2.convert.parts.PARTS`.
        trained_on: what the user knows better than the table, by key of :data:`INPUT_KEYS`.

    Raises:
        UserError: unreadable, no ResNet in it, an encoder that cannot be told, incomplete or not
            finite, a part that is not there.
    """
    trained_on = trained_on or {}
    _known_input(trained_on)  # Wrong values are refused before the file is read.
    content = read_object(path, stubs=stubs)
    try:
        candidates = find_candidates(content)
        chosen, entry = choose(candidates, source=source, encoder=encoder)
        # A file of ours keeps what it says of itself; the user knows better.
        said = _own_words(content)
        entry = replace(entry, **_known_input(_said_input(said) | dict(trained_on)))
        named, left = chosen.tensors(entry.also)
        chosen.check_nothing_more(left)
        named = {name: _stored(value) for name, value in named.items()}
        architecture = architecture_of(named, stride_in_1x1=entry.stride_in_1x1)
        state = {detectron2_name(name): value for name, value in named.items()}
        check_coverage(state, architecture)
        rest = {name: chosen.names[name] for name in left}
        found = find_parts(rest, chosen.prefix, entry.parts, parts)
        extra = {name: _stored(value) for name, (_, value) in found.items()}
        check_finite(extra)
        difference = verify(named, architecture) if check else None
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None
    taken = {name for name, _ in found.values()}
    left_for = reasons([name for name in left if name not in taken], chosen, candidates)
    seen = {
        "pixel_mean": list(entry.normalisation[0]),
        "pixel_std": list(entry.normalisation[1]),
        "input_format": entry.input_format,
        "folded_norm": chosen.layout.folded_norm or said.get("folded_norm") is True,
        "architecture": asdict(architecture),
        "left": {why: len(names) for why, names in left_for.items()},
        "other_encoders": others(candidates, chosen),
        "verified": difference,
    }
    info = _describe(path, chosen, entry) | said | seen
    ready = not trained_on and not parts and _is_detectron2_format(content, chosen)
    return Backbone(state, info, extra, ready, left_for)


def write_converted(path: str, backbone: Backbone, *, to: str = "detectron2") -> None:
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
    check_target(path, to)
    prefix = TARGETS[to]
    if prefix is None:
        write_backbone(path, backbone.state_dict | backbone.parts, backbone.info)
        return
    if backbone.parts:
        raise UserError(f"an FPN and a box head are written with Detectron2's names, not {to}'s")
    state = {
        f"{prefix}{torchvision_from_detectron2(name)}": value
        for name, value in backbone.state_dict.items()
    }
    with atomic_write(path) as file:
        if path.endswith(".safetensors"):
            file.write(safetensors.torch.save(state, {"source": str(backbone.info["source"])}))
        else:
            torch.save({"state_dict": state} if prefix else state, file)


def check_target(path: str, to: str) -> None:
    """Refuse, before any work, names or a suffix that :func:`write_converted` cannot write.

    Raises:
        UserError: it is one of those.
    """
    if to not in TARGETS:
        raise UserError(f"no names of '{to}'; {nearest(to, TARGETS)}")
    allowed = (".pth", ".pkl") if TARGETS[to] is None else (".pth", ".safetensors")
    if os.path.splitext(path)[1] not in allowed:
        raise UserError(f"'{path}' must end with {' or '.join(allowed)} for {to} names")


def config_block(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Detectron2 config that must travel with converted weights."""
    sizes = Architecture(**info["architecture"])
    norm = {"NORM": "FrozenBN"} if info.get("folded_norm") else {}
    return {
        "INPUT": {"FORMAT": info["input_format"]},
        "MODEL": {
            "PIXEL_MEAN": info["pixel_mean"],
            "PIXEL_STD": info["pixel_std"],
            "RESNETS": {
                "DEPTH": sizes.depth,
                "STEM_OUT_CHANNELS": sizes.stem_out_channels,
                "RES2_OUT_CHANNELS": sizes.res2_out_channels,
                "NUM_GROUPS": sizes.num_groups,
                "WIDTH_PER_GROUP": sizes.width_per_group,
                "STRIDE_IN_1X1": sizes.stride_in_1x1,
            }
            | norm,
        },
    }


def _describe(path: str, chosen: Candidate, entry: Source) -> dict[str, Any]:
    return {
        "method": entry.name,
        "source": entry.name,
        "source_title": entry.title,
        "note": entry.note,
        "encoder": chosen.prefix,
        "container": " > ".join(chosen.path),
        "source_sha256": sha256(path),
    }


def _own_words(content: Mapping[str, Any]) -> dict[str, Any]:
    said = content.get("pretrain")
    return dict(said) if isinstance(said, dict) and is_plain(said) else {}


def _said_input(said: Mapping[str, Any]) -> dict[str, Any]:
    sizes = said.get("architecture")
    flat = (sizes if isinstance(sizes, dict) else {}) | dict(said)
    return {key: flat[name] for key, name in INPUT_KEYS.items() if name in flat}


def _known_input(trained_on: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user knows as fields of :class:`Source`, checked."""
    wrong = [key for key in trained_on if key not in INPUT_KEYS]
    if wrong:
        raise UserError(f"'{wrong[0]}' cannot be set; {nearest(wrong[0], INPUT_KEYS)}")
    found: dict[str, Any] = {}
    for key, kind in (("INPUT.FORMAT", str), ("MODEL.RESNETS.STRIDE_IN_1X1", bool)):
        if key in trained_on:
            found[INPUT_KEYS[key]] = _of_kind(key, trained_on[key], kind)
    mean, std = (trained_on.get(f"MODEL.PIXEL_{name}") for name in ("MEAN", "STD"))
    if (mean is None) != (std is None):
        raise UserError("MODEL.PIXEL_MEAN and MODEL.PIXEL_STD go together; set both")
    if mean is not None and std is not None:
        found["normalisation"] = (_three("MODEL.PIXEL_MEAN", mean), _three("MODEL.PIXEL_STD", std))
    return found


def _of_kind(key: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is str and value not in ("RGB", "BGR")):
        expected = "RGB or BGR" if kind is str else "True or False"
        raise UserError(f"{key} is {value!r}, expected {expected}")
    return value


def _three(key: str, value: Any) -> tuple[float, ...]:
    given = value if isinstance(value, list | tuple) else []
    numbers = [item for item in given if isinstance(item, int | float)]
    if len(numbers) != 3:
        raise UserError(f"{key} is {value!r}, expected three numbers such as [0, 0, 0]")
    return tuple(map(float, numbers))


def _is_detectron2_format(content: Mapping[str, Any], chosen: Candidate) -> bool:
    """Whether Detectron2 loads the file as it is: unprefixed names that it is told to match."""
    return (
        chosen.layout is DETECTRON2
        and not chosen.prefix
        and chosen.path == ("model",)
        and "__author__" in content
        and content.get("matching_heuristics") is True
    )


def _stored(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32).contiguous()
