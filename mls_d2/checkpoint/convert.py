"""From any ResNet checkpoint to the backbone file that Detectron2 loads, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from mls_d2.checkpoint.architecture import Architecture, architecture_of, check_coverage, verify
from mls_d2.checkpoint.backbone_file import sha256, write_backbone
from mls_d2.checkpoint.layouts import detectron2_name, torchvision_from_detectron2
from mls_d2.checkpoint.reading import read_object
from mls_d2.checkpoint.recognise import choose, find_candidates
from mls_d2.engine.files import atomic_write
from mls_d2.errors import UserError

TARGETS = ("detectron2", "torchvision", "mmseg")


@dataclass(frozen=True)
class Backbone:
    """A converted encoder.

    Attributes:
        state_dict: float32 tensors with Detectron2's names.
        info: plain metadata: source, encoder, sha256, architecture, input format, pixel mean and
            std, what was left, the largest difference found in verification (None: not verified).
    """

    state_dict: dict[str, Tensor]
    info: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The part of a Detectron2 config that these weights need."""
        return config_block(self.info)

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
) -> Backbone:
    """Read a checkpoint of any known kind and return its encoder for Detectron2.

    Args:
        path: of the file; nothing in it is run.
        source: "auto" recognises the kind by the structure of its names; or its name.
        encoder: prefix of the encoder to take, where another than the authors' is wanted.
        check: run both networks and compare their outputs at every stage.
        stubs: read what torch refuses with inert objects, see
            :func:`mls_d2.checkpoint.reading.read_object`.

    Raises:
        UserError: unreadable, no ResNet in it, an encoder that cannot be told, incomplete or not
            finite.
    """
    content = read_object(path, stubs=stubs)
    try:
        candidate, entry = choose(find_candidates(content), source=source, encoder=encoder)
        named, left = candidate.tensors(entry.also)
        named = {name: _stored(value) for name, value in named.items()}
        architecture = architecture_of(named, stride_in_1x1=entry.stride_in_1x1)
        state = {detectron2_name(name): value for name, value in named.items()}
        check_coverage(state, architecture)
        difference = verify(named, architecture) if check else None
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None
    # A file of ours keeps what it says of itself.
    known = content.get("pretrain") if isinstance(content, dict) else None
    mean, std = entry.normalisation
    info = {
        "method": entry.name,
        "source": entry.name,
        "source_title": entry.title,
        "note": entry.note,
        "encoder": candidate.prefix,
        "container": " > ".join(candidate.path),
        "source_sha256": sha256(path),
        "pixel_mean": list(mean),
        "pixel_std": list(std),
        "input_format": entry.input_format,
        "architecture": asdict(architecture),
        "left": sorted(name for name in left if not name.endswith("num_batches_tracked")),
        "verified": difference,
    } | (known if isinstance(known, dict) else {})
    return Backbone(state, info)


def write_converted(path: str, backbone: Backbone, *, to: str = "detectron2") -> None:
    """Write an encoder under the names that another library expects.

    Args:
        path: ``.pth``, ``.pkl`` (Detectron2 only) or ``.safetensors`` (not Detectron2, which does
            not read it).
        backbone: what is written.
        to: "detectron2"; "torchvision", also timm's names; "mmseg", the same below ``backbone.``.

    Raises:
        UserError: a suffix that the target does not read, or the file cannot be written.
    """
    suffix = os.path.splitext(path)[1]
    allowed = {"detectron2": (".pth", ".pkl")}.get(to, (".pth", ".safetensors"))
    if suffix not in allowed:
        raise UserError(f"'{path}' must end with {' or '.join(allowed)} for {to} names")
    if to == "detectron2":
        write_backbone(path, backbone.state_dict, backbone.info)
        return
    prefix = "backbone." if to == "mmseg" else ""
    state = {
        f"{prefix}{torchvision_from_detectron2(name)}": value
        for name, value in backbone.state_dict.items()
    }
    with atomic_write(path) as file:
        if suffix == ".safetensors":
            file.write(safetensors.torch.save(state, {"source": str(backbone.info["source"])}))
        else:
            torch.save(state if to == "torchvision" else {"state_dict": state}, file)


def config_block(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Detectron2 config that must travel with converted weights."""
    sizes = Architecture(**info["architecture"])
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
            },
        },
    }


def _stored(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32).contiguous()
