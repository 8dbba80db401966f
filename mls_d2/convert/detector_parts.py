"""Pretrained FPN and box head beside the backbone, under Detectron2's full names."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mls_d2.core.errors import UserError

FPN, BOX_HEAD = "fpn", "box_head"
PARTS = (FPN, BOX_HEAD)
_NORM = r"(weight|bias|running_mean|running_var)"
_PLAIN = r"(weight|bias)"
_HEAD = "roi_heads.box_head"
# Pattern of a name and Detectron2's name; "{encoder}" stands for the prefix of the taken encoder.
_RESIM_FPN = (
    (rf"{{encoder}}fpn_(lateral|output)(\d)\.(?:0\.)?{_PLAIN}", r"backbone.fpn_\1\2.\3"),
    (rf"{{encoder}}fpn_(lateral|output)(\d)\.1\.{_NORM}", r"backbone.fpn_\1\2.norm.\3"),
)
_MMDET_FPN = tuple(
    (rf"neck\.{theirs}_convs\.{level}\.{leaf}", rf"backbone.fpn_{ours}{level + 2}.{place}\1")
    for theirs, ours in (("lateral", "lateral"), ("fpn", "output"))
    for level in range(4)
    for leaf, place in ((rf"conv\.{_PLAIN}", ""), (rf"bn\.{_NORM}", "norm."))
)
_SOCO_HEAD = (
    (rf"head\.conv(\d)\.{_PLAIN}", rf"{_HEAD}.conv\1.\2"),
    (rf"head\.bn(\d)\.{_NORM}", rf"{_HEAD}.conv\1.norm.\2"),
    (rf"head\.fc1\.{_PLAIN}", rf"{_HEAD}.fc1.\1"),
)
_INSLOC_HEAD = (
    *(
        (rf"roi_head\.bbox_head\.shared_convs\.{k}\.{leaf}", rf"{_HEAD}.conv{k + 1}.{place}\1")
        for k in range(10)
        for leaf, place in ((rf"conv\.{_PLAIN}", ""), (rf"bn\.{_NORM}", "norm."))
    ),
    (rf"roi_head\.bbox_head\.shared_fcs\.0\.{_PLAIN}", rf"{_HEAD}.fc1.\1"),
)
_LEAF = rf"(?:{_PLAIN}|norm\.{_NORM})"
_OWN: dict[str, tuple[tuple[str, str], ...]] = {
    FPN: ((rf"encoder\.neck\.(fpn_(?:lateral|output)\d\.{_LEAF})", r"backbone.\1"),),
    BOX_HEAD: ((rf"encoder\.box_head\.((?:conv|fc)\d\.{_LEAF})", rf"{_HEAD}.\1"),),
}
# By KnownSource.detector_parts and the part.
_RULES: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "": {},
    "mls_d2": _OWN,
    "ReSim": {FPN: _RESIM_FPN},
    "SoCo": {FPN: _MMDET_FPN, BOX_HEAD: _SOCO_HEAD},
    "InsLoc": {FPN: _MMDET_FPN, BOX_HEAD: _INSLOC_HEAD},
}


def find_detector_parts(
    names: Mapping[str, Tensor], encoder: str, naming: str, wanted: tuple[str, ...]
) -> dict[str, tuple[str, Tensor]]:
    """Return the tensors of the wanted parts.

    Args:
        names: all tensors beside the encoder.
        encoder: its prefix.
        naming: :attr:`mls_d2.convert.sources.KnownSource.detector_parts`.
        wanted: of :data:`PARTS`.

    Returns:
        By Detectron2's name, the file's name and the tensor.

    Raises:
        UserError: the file does not have a part.
    """
    found: dict[str, tuple[str, Tensor]] = {}
    for part in wanted:
        before = len(found)
        for pattern, replacement in _RULES[naming].get(part, ()):
            compiled = re.compile(pattern.replace("{encoder}", re.escape(encoder)))
            for name, value in names.items():
                if match := compiled.fullmatch(name):
                    found[match.expand(replacement)] = (name, value)
        if len(found) == before:
            raise UserError(
                f"there is no {part.replace('_', ' ')} in it; sources that may have one are "
                + ", ".join(name for name, rules in _RULES.items() if part in rules),
                code="missing-part",
            )
    return found


def detector_parts_config(parts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the ``MODEL`` part of a Detectron2 config whose model has these tensors."""
    config: dict[str, Any] = {}
    fpn = {n.removeprefix("backbone.fpn_"): v for n, v in parts.items() if "backbone.fpn_" in n}
    if fpn:
        width = next(v.shape[0] for n, v in fpn.items() if re.fullmatch(r"\w+\.weight", n))
        config["BACKBONE"] = {"NAME": "build_resnet_fpn_backbone"}
        config["FPN"] = {"OUT_CHANNELS": width} | _norm_config(fpn)
    head = {n.removeprefix(f"{_HEAD}."): v for n, v in parts.items() if n.startswith(_HEAD)}
    if head:
        convs = [name for name in head if re.fullmatch(r"conv\d+\.weight", name)]
        config["ROI_HEADS"] = {"NAME": "StandardROIHeads"}
        config["ROI_BOX_HEAD"] = {
            "NAME": "FastRCNNConvFCHead",
            "NUM_CONV": len(convs),
            "NUM_FC": len([name for name in head if re.fullmatch(r"fc\d\.weight", name)]),
            **({"CONV_DIM": head[convs[0]].shape[0]} if convs else {}),
            **({"FC_DIM": head["fc1.weight"].shape[0]} if "fc1.weight" in head else {}),
            **_norm_config(head),
        }
    return config


def _norm_config(names: Mapping[str, Tensor]) -> dict[str, str]:
    return {"NORM": "SyncBN"} if any(".norm." in name for name in names) else {}
