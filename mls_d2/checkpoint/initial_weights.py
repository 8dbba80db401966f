"""Initial weights of a model, loaded by Detectron2 and then compared tensor by tensor.

Detectron2 only logs a tensor that it did not find or that has another shape, and trains on from
random values. Here every tensor of the backbone has to arrive.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mls_d2.checkpoint.backbone_file import BackboneFile, read_backbone, sha256
from mls_d2.core.errors import UserError

logger = logging.getLogger(__name__)

RANDOM = "random"
_SHOWN = 10
# Where Detectron2's models keep the parts of a ResNet. The norm that C4 recipes add after res5 is
# named roi_heads.res5.norm and is no part of it.
_BACKBONE = re.compile(
    r"(?:backbone\.(?:bottom_up\.)?|roi_heads\.)((?:stem|res[2-5])\.(?!norm\.).+)"
)
# Parts that a file may hold beside it; they carry the names that Detectron2's models give them.
_PART = re.compile(r"(?:backbone\.fpn_|roi_heads\.box_head\.).+")
_STAGE = re.compile(r"(?:^|\.)((?:stem|res[2-5]))\.")
_BLOCK = re.compile(r"(?:^|\.)(res[2-5])\.(\d+)\.")


@dataclasses.dataclass(frozen=True)
class WeightsReport:
    """What initial weights a model got.

    Attributes:
        file: as the user gave it; ``"random"`` for random initialisation.
        sha256: of the file; empty for random initialisation.
        info: the file's pretraining metadata; empty where there is none.
        num_backbone: tensors of the backbone, all of them loaded (0 for random initialisation).
        num_random: tensors of the model that keep their random or constant initialisation.
        ignored: names in the file that have no place in the model.
        num_parts: tensors of an FPN and a box head that the file holds and the model got.
    """

    file: str
    sha256: str
    info: dict[str, Any]
    num_backbone: int
    num_random: int
    ignored: tuple[str, ...]
    num_parts: int = 0

    @property
    def method(self) -> str:
        """The pretraining method: ``"random"``, what the metadata says, or the file's stem."""
        if self.file == RANDOM:
            return RANDOM
        stem = os.path.splitext(os.path.basename(self.file))[0]
        return str(self.info.get("method", stem))


def load_initial_weights(model: nn.Module, weights: str, cfg: CfgNode) -> WeightsReport:
    """Load a backbone into a Detectron2 model and prove that all of it arrived.

    Args:
        model: with a ResNet as ``backbone`` (C4), or ``backbone.bottom_up`` (FPN), possibly wrapped
            for data parallelism.
        weights: a backbone file, or ``"random"`` to keep the random initialisation.
        cfg: of the model; its pixel mean, pixel std, colour order and stride placement must be
            those of pretraining, where the file tells; ``MODEL.ALLOW_INPUT_MISMATCH`` makes a
            warning of that.

    Returns:
        What was loaded, ignored and left as it was.

    Raises:
        UserError: no weights given, no such file, unreadable, of another width, depth or kind, or
            trained on another input format.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    num_tensors = len(_persistent(model))
    if not weights:
        raise UserError(
            "MODEL.WEIGHTS is empty; give a backbone file, or MODEL.WEIGHTS random to start from "
            "random weights"
        )
    if weights == RANDOM:
        logger.info("random initialisation: no weights loaded, as asked for")
        return WeightsReport(RANDOM, "", {}, 0, num_tensors, ())
    file = read_backbone(weights)
    _check_input_format(weights, file.info, cfg)
    backbone = _match(weights, file, model)
    parts = _match_parts(weights, file, model)
    matches = backbone | parts
    _load(model, {name: file.state_dict[name] for name in matches.values()})
    _verify(weights, file, model, matches)
    report = WeightsReport(
        file=weights,
        sha256=sha256(weights),
        info=file.info,
        num_backbone=len(backbone),
        num_random=num_tensors - len(matches),
        ignored=tuple(sorted(file.state_dict.keys() - set(matches.values()))),
        num_parts=len(parts),
    )
    _log(report)
    return report


def backbone_tensors(model: nn.Module) -> dict[str, str]:
    """Map the name of every backbone tensor of ``model`` to its name in a backbone file."""
    found = {name: _BACKBONE.fullmatch(name) for name in _persistent(model)}
    return {name: match[1] for name, match in found.items() if match}


def _persistent(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {
        name: value for name, value in state.items() if not name.endswith("num_batches_tracked")
    }


def _match(weights: str, file: BackboneFile, model: nn.Module) -> dict[str, str]:
    """Return the file's name for each backbone tensor, or refuse."""
    expected = backbone_tensors(model)
    if not expected:
        raise UserError("the model of this config has no ResNet backbone to load weights into")
    matches = {name: _find_key(name, short, file.state_dict) for name, short in expected.items()}
    if not any(matches.values()):
        raise UserError(_explain_foreign(weights, file))
    state = model.state_dict()
    missing = [name for name, key in matches.items() if key is None]
    found = {name: key for name, key in matches.items() if key is not None}
    wrong = [name for name, key in found.items() if state[name].shape != file.state_dict[key].shape]
    surplus = _surplus_blocks(file.state_dict, found)
    if missing or wrong or surplus:
        lines = [f"{name}: not in the file" for name in missing]
        lines += [
            f"{name}: file {tuple(file.state_dict[found[name]].shape)}, "
            f"model {tuple(state[name].shape)}"
            for name in wrong
        ]
        lines += [f"{key}: in the file, but the model has no such block" for key in surplus]
        raise UserError(
            _explain_misfit(weights, lines, depth=bool(missing or surplus), width=wrong)
        )
    return found


def _match_parts(weights: str, file: BackboneFile, model: nn.Module) -> dict[str, str]:
    """Return the FPN's and box head's tensors that the file has for the model, by its names."""
    state = model.state_dict()
    found = [name for name in file.state_dict if _PART.fullmatch(name) and name in state]
    wrong = [name for name in found if state[name].shape != file.state_dict[name].shape]
    if wrong:
        lines = [
            f"{name}: file {tuple(file.state_dict[name].shape)}, model {tuple(state[name].shape)}"
            for name in wrong[:_SHOWN]
        ]
        raise UserError(
            f"'{weights}' holds an FPN or a box head of other sizes than this config's; set "
            "MODEL.FPN and MODEL.ROI_BOX_HEAD as tools/convert.py printed them, or convert without "
            "--parts\n  " + "\n  ".join(lines)
        )
    return {name: name for name in found}


def _find_key(name: str, short: str, keys: Mapping[str, Tensor]) -> str | None:
    # Detectron2's rule, the longest key that is the name or follows one of its dots; but Detectron2
    # would also take torchvision's conv1.weight for the stem, so the stage has to be part of it.
    parts = name.split(".")
    suffixes = (".".join(parts[start:]) for start in range(len(parts)))
    return next((item for item in suffixes if item in keys and item.endswith(short)), None)


def _surplus_blocks(state: Mapping[str, Tensor], found: Mapping[str, str]) -> list[str]:
    """Return keys of blocks that the model's own stages lack: a deeper network fits otherwise."""
    used = set(found.values())
    stages = {match[1] for key in used if (match := _BLOCK.search(key))}
    return [
        key
        for key in state
        if key not in used
        and not key.endswith("num_batches_tracked")
        and (match := _BLOCK.search(key))
        and match[1] in stages
    ]


def _explain_foreign(weights: str, file: BackboneFile) -> str:
    sibling = os.path.join(os.path.dirname(weights), "backbone.pth")
    if {"trainer", "optimizer"} & set(file.other_keys):
        there = f"'{sibling}'" if os.path.isfile(sibling) else "the backbone.pth that it ends with"
        return f"'{weights}' is a checkpoint of a pretraining run, not a backbone file; use {there}"
    names = ", ".join(list(file.state_dict)[:3])
    return (
        f"'{weights}' holds no tensor with a name of Detectron2's ResNet (it has {names}, …, "
        "expected stem.conv1.weight, res2.0.conv1.weight, …); convert it with tools/convert.py"
    )


def _explain_misfit(weights: str, lines: list[str], *, depth: bool, width: list[str]) -> str:
    stages = sorted({match[1] for name in width if (match := _STAGE.search(name))})
    kinds = ["depth"] * depth + ["width"] * bool(width)
    where = f" (width in {', '.join(stages)})" if stages else ""
    shown = "\n  ".join(lines[:_SHOWN])
    more = f"\n  … and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return (
        f"'{weights}' is not the backbone of this config: {' and '.join(kinds)} differ{where}. "
        f"Set MODEL.RESNETS as in pretraining or use another file.\n  {shown}{more}"
    )


class _Preloaded(DetectionCheckpointer):
    """Detectron2's matching and loading, on tensors that were read safely before."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(model, save_to_disk=False)
        self._tensors = tensors

    def _load_file(self, filename: str) -> dict[str, Any]:
        return {"model": dict(self._tensors), "matching_heuristics": True}


def _load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with _quiet("fvcore.common.checkpoint", "detectron2.checkpoint.c2_model_loading"):
        # The path only has to exist; _load_file does not open it.
        _Preloaded(model, tensors).load(os.path.abspath(__file__))


def _verify(weights: str, file: BackboneFile, model: nn.Module, matches: Mapping[str, str]) -> None:
    state = model.state_dict()
    different = [
        name
        for name, key in matches.items()
        if not torch.equal(state[name].cpu(), file.state_dict[key].to(state[name].dtype))
    ]
    if different:
        shown = ", ".join(different[:_SHOWN])
        raise UserError(
            f"Detectron2 did not take {len(different)} of {len(matches)} backbone tensors of "
            f"'{weights}' ({shown}); please report this with the versions in environment.json"
        )


def _check_input_format(weights: str, info: Mapping[str, Any], cfg: CfgNode) -> None:
    """Compare what the file was trained on with ``cfg``; shapes do not show these differences."""
    norm = "FrozenBN" if info.get("folded_norm") is True else None
    pairs = {
        "MODEL.PIXEL_MEAN": (info.get("pixel_mean"), list(cfg.MODEL.PIXEL_MEAN)),
        "MODEL.PIXEL_STD": (info.get("pixel_std"), list(cfg.MODEL.PIXEL_STD)),
        "INPUT.FORMAT": (info.get("input_format"), cfg.INPUT.FORMAT),
        "MODEL.RESNETS.STRIDE_IN_1X1": (_trained_stride(info), cfg.MODEL.RESNETS.STRIDE_IN_1X1),
        "MODEL.RESNETS.NORM": (norm, cfg.MODEL.RESNETS.NORM),
    }
    lines = [
        f"{key}: pretrained with {before}, config has {now}"
        for key, (before, now) in pairs.items()
        if before is not None and not _same(before, now)
    ]
    if not lines:
        return
    message = f"'{weights}' was trained on another input than this config gives it:\n  "
    message += "\n  ".join(lines)
    if not cfg.MODEL.ALLOW_INPUT_MISMATCH:
        raise UserError(f"{message}\nIf that is meant, say MODEL.ALLOW_INPUT_MISMATCH True")
    logger.warning("%s\n  trained nevertheless: MODEL.ALLOW_INPUT_MISMATCH is True", message)


def _trained_stride(info: Mapping[str, Any]) -> bool | None:
    if isinstance(info.get("architecture"), dict):  # of a converted file
        return info["architecture"].get("stride_in_1x1")
    try:
        return yaml.safe_load(info["config"])["MODEL"]["RESNETS"]["STRIDE_IN_1X1"]
    except (KeyError, TypeError, yaml.YAMLError):
        return None


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        # Lists differ by rounding where a mean was written as 123.675 or as 0.485 * 255.
        return len(before) == len(now) and all(
            abs(a - b) < 1e-3 for a, b in zip(before, now, strict=True)
        )
    return before == now


def _log(report: WeightsReport) -> None:
    logger.info(
        "loaded all %d backbone tensors and %d of FPN and box head from %s (method %s); %d other "
        "tensors of the model start from their own initialisation",
        report.num_backbone,
        report.num_parts,
        report.file,
        report.method,
        report.num_random,
    )
    if report.ignored:
        shown = ", ".join(report.ignored[:_SHOWN])
        logger.warning("%d tensors of the file are not used: %s", len(report.ignored), shown)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silence logs that list each missing head tensor; the report says it in one line."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [item.level for item in loggers]
    for item in loggers:
        item.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for item, level in zip(loggers, levels, strict=True):
            item.setLevel(level)
