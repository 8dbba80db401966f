"""Initial weights of a Detectron2 model, matched by its rule and compared tensor by tensor.

Detectron2 only logs a tensor that is missing or has another shape, and trains from random values.
Here every tensor of the backbone has to be loaded.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mls_d2.checkpoint.backbone_file import (
    BackboneFile,
    check_values,
    read_backbone,
    same_values,
    sha256,
)
from mls_d2.core.errors import UserError
from mls_d2.core.files import YAML_FAULTS

logger = logging.getLogger(__name__)

RANDOM = "random"
_SHOWN = 10
# Names of a ResNet's tensors in Detectron2's models. The norm that C4 recipes add after res5,
# roi_heads.res5.norm, does not belong to it.
_BACKBONE = re.compile(
    r"(?:backbone\.(?:bottom_up\.)?|roi_heads\.)((?:stem|res[2-5])\.(?!norm\.).+)"
)
# What a file may hold beside it, under the full names of Detectron2's models.
_PART = re.compile(r"(?:backbone\.fpn_|roi_heads\.box_head\.).+")
_STAGE = re.compile(r"(?:^|\.)((?:stem|res[2-5]))\.")
_BLOCK = re.compile(r"(?:^|\.)(res[2-5])\.(\d+)\.")


@dataclasses.dataclass(frozen=True)
class WeightsReport:
    """The initial weights that a model was given."""

    file: str  # as the user gave it; "random" for random initialisation
    sha256: str  # of the file; "" for random initialisation
    info: dict[str, Any]  # the file's pretraining metadata; empty if it has none
    num_backbone: int  # tensors of the backbone, all of them loaded; 0 for random initialisation
    num_random: int  # tensors of the model that keep their random or constant initialisation
    ignored: tuple[str, ...]  # names in the file that the model does not have
    num_parts: int = 0  # loaded tensors of an FPN and a box head

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
        cfg: of the model; its input (pixel mean and std, colour order, stride placement) must be
            that of pretraining, as far as the file has it, or ``MODEL.ALLOW_INPUT_MISMATCH`` set.

    Raises:
        UserError: no weights given, no such file, unreadable, of another width, depth or kind,
            not finite, or trained on another input.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    num_tensors = len(_persistent(model))
    if not weights:
        raise UserError(
            "MODEL.WEIGHTS is empty; give a backbone file, or MODEL.WEIGHTS random to start from "
            "random weights",
            code="missing-file",
        )
    if weights == RANDOM:
        logger.info("random initialisation: no weights loaded, as asked for")
        return WeightsReport(RANDOM, "", {}, 0, num_tensors, ())
    file = read_backbone(weights)
    _check_input_format(weights, file.info, cfg)
    backbone = _match(weights, file, model)
    parts = _match_parts(weights, file, model)
    matches = backbone | parts
    _load(model, {name: file.state_dict[key] for name, key in matches.items()})
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
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def _match(weights: str, file: BackboneFile, model: nn.Module) -> dict[str, str]:
    """Return the file's name for each backbone tensor, or refuse the file."""
    expected = backbone_tensors(model)
    if not expected:
        raise UserError(
            "the model of this config has no ResNet backbone to load weights into",
            code="wrong-weights",
        )
    given = file.state_dict
    copies = {name: _copies(name, short, given) for name, short in expected.items()}
    for keys in copies.values():
        _check_equal(weights, keys, given)
    found = {name: keys[0] for name, keys in copies.items() if keys}
    if not found:
        raise UserError(_explain_foreign(weights, file), code="wrong-weights")
    check_values({key: given[key] for key in found.values()}, weights)
    wrong = shape_differences({n: given[key] for n, key in found.items()}, model.state_dict())
    lacking = [f"{name}: not in the file" for name, keys in copies.items() if not keys]
    surplus = _surplus_blocks(given, {key for keys in copies.values() for key in keys})
    lines = [*lacking, *wrong.values()]
    lines += [f"{key}: in the file, but the model has no such block" for key in surplus]
    if lines:
        kinds = ["depth"] * bool(lacking or surplus) + ["width"] * bool(wrong)
        stages = sorted({match[1] for name in wrong if (match := _STAGE.search(name))})
        where = f" (width in {', '.join(stages)})" if stages else ""
        raise UserError(
            f"'{weights}' is not the backbone of this config: {' and '.join(kinds)} differ{where}. "
            f"Set MODEL.RESNETS as in pretraining or use another file.{listed(lines)}",
            code="wrong-weights",
        )
    return found


def _match_parts(weights: str, file: BackboneFile, model: nn.Module) -> dict[str, str]:
    """Return the FPN's and box head's tensors that the file has for the model, by its names."""
    state = model.state_dict()
    found = [name for name in file.state_dict if _PART.fullmatch(name) and name in state]
    check_values({name: file.state_dict[name] for name in found}, weights)
    wrong = shape_differences({name: file.state_dict[name] for name in found}, state)
    if wrong:
        raise UserError(
            f"'{weights}' holds an FPN or a box head of other sizes than this config's; set "
            "MODEL.FPN and MODEL.ROI_BOX_HEAD as tools/convert.py printed them, or convert without "
            f"--parts{listed([*wrong.values()])}",
            code="wrong-weights",
        )
    return {name: name for name in found}


def _check_equal(weights: str, keys: list[str], given: Mapping[str, Tensor]) -> None:
    if any(not same_values(given[keys[0]], given[key]) for key in keys[1:]):
        raise UserError(
            f"'{weights}' holds different copies of one tensor: {' and '.join(keys)}; remove one, "
            "or choose with tools/convert.py --encoder",
            code="two-copies",
        )


def _copies(name: str, short: str, keys: Mapping[str, Tensor]) -> list[str]:
    """Return the file's names of a tensor, the one to take first.

    It is Detectron2's rule, the longest key that is the name or follows one of its dots; but
    Detectron2 would also take torchvision's conv1.weight for the stem, so the stage has to be part
    of it.
    """
    steps = name.split(".")
    suffixes = (".".join(steps[start:]) for start in range(len(steps)))
    return [item for item in suffixes if item in keys and item.endswith(short)]


def _surplus_blocks(state: Mapping[str, Tensor], used: set[str]) -> list[str]:
    """Return keys of blocks that the model's own stages lack: a deeper network fits otherwise."""
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
        there = f"'{sibling}'" if os.path.isfile(sibling) else "the backbone.pth written at its end"
        return f"'{weights}' is a checkpoint of a pretraining run, not a backbone file; use {there}"
    names = ", ".join(list(file.state_dict)[:3])
    return (
        f"'{weights}' has no name of Detectron2's ResNet (it has {names}, …, expected "
        "stem.conv1.weight, res2.0.conv1.weight, …); convert it with tools/convert.py"
    )


def shape_differences(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor], than: str = "model"
) -> dict[str, str]:
    """Return, by name, a line on each tensor that has another shape than expected."""
    return {
        name: f"{name}: file {tuple(value.shape)}, {than} {tuple(expected[name].shape)}"
        for name, value in given.items()
        if name in expected and value.shape != expected[name].shape
    }


def listed(lines: list[str]) -> str:
    """Return the first lines, indented, and how many more there are."""
    more = [f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:_SHOWN], *more])


def _load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors by the model's names, and prove that each has its value there."""
    model.load_state_dict(dict(tensors), strict=False)
    state = model.state_dict()
    taken = {k: torch.equal(state[k].cpu(), v.to(state[k].dtype)) for k, v in tensors.items()}
    different = [name for name, equal in taken.items() if not equal]
    if different:
        raise UserError(
            f"the model did not take {len(different)} of {len(tensors)} tensors; please report "
            f"this with the versions in environment.json{listed(different)}",
            code="not-loaded",
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
        raise UserError(
            f"{message}\nIf this is intended, set MODEL.ALLOW_INPUT_MISMATCH True",
            code="input-mismatch",
        )
    logger.warning("%s\n  training anyway: MODEL.ALLOW_INPUT_MISMATCH is True", message)


def _trained_stride(info: Mapping[str, Any]) -> bool | None:
    if isinstance(info.get("architecture"), dict):  # of a converted file
        return info["architecture"].get("stride_in_1x1")
    try:
        return yaml.safe_load(str(info["config"]))["MODEL"]["RESNETS"]["STRIDE_IN_1X1"]
    except (KeyError, TypeError, *YAML_FAULTS):
        return None


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        # Lists differ by rounding if a mean was written as 123.675 or as 0.485 * 255.
        numbers = all(isinstance(item, int | float) for item in before)
        return (
            numbers
            and len(before) == len(now)
            and all(abs(a - b) < 1e-3 for a, b in zip(before, now, strict=True))
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
