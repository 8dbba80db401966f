"""Weights of a whole trained model, for evaluation."""

from __future__ import annotations

import logging

from torch import nn

from mls_d2.checkpoint.backbone_file import read_backbone, sha256
from mls_d2.checkpoint.initial_weights import WeightsReport
from mls_d2.core.errors import UserError

logger = logging.getLogger(__name__)

_SHOWN = 10
# Old Detectron2 checkpoints hold these; today they are computed from the config.
_COMPUTED = ("anchor_generator", "pixel_mean", "pixel_std")


def load_detector(model: nn.Module, path: str) -> WeightsReport:
    """Load all tensors of a trained model.

    Args:
        model: built from the config that it was trained with.
        path: a checkpoint of a transfer run, such as ``model_final.pth``.

    Raises:
        UserError: no such file, unreadable, or not all tensors of this very model.
    """
    file = read_backbone(path)
    expected = model.state_dict()
    given = {k: v for k, v in file.state_dict.items() if not any(part in k for part in _COMPUTED)}
    lines = [f"{name}: not in the file" for name in expected if name not in given]
    lines += [f"{name}: not in the model" for name in given if name not in expected]
    lines += [
        f"{name}: file {tuple(value.shape)}, model {tuple(expected[name].shape)}"
        for name, value in given.items()
        if name in expected and value.shape != expected[name].shape
    ]
    if lines:
        shown = "\n  ".join(lines[:_SHOWN])
        more = f"\n  … and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise UserError(
            f"'{path}' does not hold the model of this config; give the model_final.pth of a "
            f"transfer run with this config\n  {shown}{more}"
        )
    model.load_state_dict(given)
    logger.info("loaded all %d tensors from %s", len(given), path)
    return WeightsReport(path, sha256(path), file.info, len(given), 0, ())
