"""Pretrained parts beside the backbone: the FPN and the box head, under Detectron2's full names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mls_d2.convert.layouts import with_arithmetic
from mls_d2.core.errors import UserError

FPN, BOX_HEAD = "fpn", "box_head"
PARTS = (FPN, BOX_HEAD)
_LEAF = r"(weight|bias|running_mean|running_var)"
_LEVELS = {"lateral_convs": "backbone.fpn_lateral", "fpn_convs": "backbone.fpn_output"}

# By how a source names them (Source.parts): for each part, pattern and Detectron2's name. What
# "{encoder}" stands for is the prefix of the encoder that was taken.
_RESIM = (
    (r"{encoder}fpn_(lateral|output)(\d)\.(?:0\.)?(weight|bias)", r"backbone.fpn_\1\2.\3"),
    (rf"{{encoder}}fpn_(lateral|output)(\d)\.1\.{_LEAF}", r"backbone.fpn_\1\2.norm.\3"),
)
_MMDET_FPN = tuple(
    rule
    for theirs, ours in _LEVELS.items()
    for rule in (
        (rf"neck\.{theirs}\.(\d)\.conv\.(weight|bias)", rf"{ours}{{\1+2}}.\2"),
        (rf"neck\.{theirs}\.(\d)\.bn\.{_LEAF}", rf"{ours}{{\1+2}}.norm.\2"),
    )
)
_SOCO_HEAD = (
    (r"head\.conv(\d)\.(weight|bias)", r"roi_heads.box_head.conv\1.\2"),
    (rf"head\.bn(\d)\.{_LEAF}", r"roi_heads.box_head.conv\1.norm.\2"),
    (r"head\.fc1\.(weight|bias)", r"roi_heads.box_head.fc1.\1"),
)
_INSLOC_HEAD = tuple(
    (rf"roi_head\.bbox_head\.{theirs}", f"roi_heads.box_head.{ours}")
    for theirs, ours in (
        (r"shared_convs\.(\d)\.conv\.(weight|bias)", r"conv{\1+1}.\2"),
        (rf"shared_convs\.(\d)\.bn\.{_LEAF}", r"conv{\1+1}.norm.\2"),
        (r"shared_fcs\.0\.(weight|bias)", r"fc1.\1"),
    )
)
_RULES: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "": {},
    "ReSim": {FPN: _RESIM},
    "SoCo": {FPN: _MMDET_FPN, BOX_HEAD: _SOCO_HEAD},
    "InsLoc": {FPN: _MMDET_FPN, BOX_HEAD: _INSLOC_HEAD},
}


def find_parts(
    names: Mapping[str, Tensor], encoder: str, naming: str, wanted: tuple[str, ...]
) -> dict[str, tuple[str, Tensor]]:
    """Return the tensors of the wanted parts.

    Args:
        names: all tensors beside the encoder.
        encoder: its prefix.
        naming: of :attr:`mls_d2.convert.sources.Source.parts`.
        wanted: of :data:`PARTS`.

    Returns:
        By Detectron2's name, the file's name and the tensor.

    Raises:
        UserError: a part is not there.
    """
    found: dict[str, tuple[str, Tensor]] = {}
    for part in wanted:
        before = len(found)
        for pattern, replacement in _RULES[naming].get(part, ()):
            compiled = re.compile(pattern.replace("{encoder}", re.escape(encoder)))
            for name, value in names.items():
                if match := compiled.fullmatch(name):
                    found[with_arithmetic(match.expand(replacement))] = (name, value)
        if len(found) == before:
            raise UserError(
                f"there is no {part.replace('_', ' ')} in it; sources that may have one are "
                + ", ".join(name for name, rules in _RULES.items() if part in rules)
            )
    return found


def parts_config(parts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the ``MODEL`` part of a Detectron2 config in which these tensors have a place."""
    config: dict[str, Any] = {}
    if any(name.startswith("backbone.fpn_") for name in parts):
        normed = any(re.match(r"backbone\.fpn_.*\.norm\.", name) for name in parts)
        width = next(v.shape[0] for n, v in parts.items() if re.match(r".*fpn_\w+\.weight", n))
        config["BACKBONE"] = {"NAME": "build_resnet_fpn_backbone"}
        config["FPN"] = {"OUT_CHANNELS": width} | ({"NORM": "SyncBN"} if normed else {})
    head = {n.removeprefix("roi_heads.box_head."): v for n, v in parts.items() if "box_head" in n}
    if head:
        convs = [name for name in head if re.fullmatch(r"conv\d\.weight", name)]
        config["ROI_HEADS"] = {"NAME": "StandardROIHeads"}
        config["ROI_BOX_HEAD"] = {
            "NAME": "FastRCNNConvFCHead",
            "NUM_CONV": len(convs),
            "NUM_FC": len([name for name in head if re.fullmatch(r"fc\d\.weight", name)]),
            **({"CONV_DIM": head[convs[0]].shape[0]} if convs else {}),
            **({"FC_DIM": head["fc1.weight"].shape[0]} if "fc1.weight" in head else {}),
            **({"NORM": "SyncBN"} if any(".norm." in name for name in head) else {}),
        }
    return config
