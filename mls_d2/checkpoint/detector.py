"""Weights of a whole trained model, for evaluation."""

import logging

from torch import nn

from mls_d2.checkpoint.backbone_file import check_values, read_backbone, sha256
from mls_d2.checkpoint.initial_weights import WeightsReport, listed, shape_differences
from mls_d2.core.errors import UserError

logger = logging.getLogger(__name__)

# In old Detectron2 checkpoints; computed from the config today.
_COMPUTED = ("anchor_generator", "pixel_mean", "pixel_std")


def load_detector(model: nn.Module, path: str) -> WeightsReport:
    """Load every tensor of a trained model.

    Args:
        model: built from the config that it was trained with.
        path: a checkpoint of a transfer run, such as ``model_final.pth``.

    Raises:
        UserError: no such file, unreadable, not finite, or not exactly the tensors of this model.
    """
    file = read_backbone(path)
    expected = model.state_dict()
    given = {k: v for k, v in file.state_dict.items() if not any(part in k for part in _COMPUTED)}
    lines = [f"{name}: not in the file" for name in expected if name not in given]
    lines += [f"{name}: not in the model" for name in given if name not in expected]
    lines += shape_differences(given, expected).values()
    if lines:
        raise UserError(
            f"'{path}' does not hold the model of this config; give the model_final.pth of a "
            f"transfer run with this config{listed(lines)}",
            code="wrong-weights",
        )
    for floating in (True, False):
        kind = {n: v for n, v in given.items() if expected[n].is_floating_point() == floating}
        check_values(kind, path, integers=not floating)
    model.load_state_dict(given)
    logger.info("loaded all %d tensors from %s", len(given), path)
    return WeightsReport(path, sha256(path), file.info, len(given), 0, ())
