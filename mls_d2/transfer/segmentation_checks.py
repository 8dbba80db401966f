"""What a config of semantic segmentation may say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from mls_d2.core.errors import UserError, nearest
from mls_d2.modeling.encoder_decoder import HEADS
from mls_d2.run.processes import images_normalised_together

_EVALUATOR = "cityscapes_sem_seg"
_SIZE = "a height and a width of 1 and more"


def _is_size(value: Any) -> bool:
    return len(value) == 2 and all(side >= 1 for side in value)


_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("MODEL.SEM_SEG_HEAD.DROPOUT", lambda v: 0 <= v < 1, "in [0, 1)"),
    (
        "MODEL.SEM_SEG_HEAD.POOL_SCALES",
        lambda v: len(v) > 0 and min(v) >= 1,
        "numbers of 1 and more",
    ),
    (
        "MODEL.SEM_SEG_HEAD.PSA_MASK_SIZE",
        lambda v: _is_size(v) and all(n % 2 for n in v),
        "an odd height and an odd width",
    ),
    ("MODEL.AUXILIARY_HEAD.LOSS_WEIGHT", lambda v: v >= 0, "0 or more"),
    ("INPUT.FORMAT", lambda v: v == "RGB", "'RGB'"),
    ("INPUT.RANDOM_FLIP", lambda v: v in ("horizontal", "none"), "'horizontal' or 'none'"),
    ("INPUT.SEGMENTATION.BASE_SIZE", _is_size, _SIZE),
    ("INPUT.SEGMENTATION.CROP_SIZE", _is_size, _SIZE),
    (
        "INPUT.SEGMENTATION.SCALE_RANGE",
        lambda v: len(v) == 2 and 0 < v[0] <= v[1],
        "two ratios above 0, the lower one first",
    ),
    ("INPUT.SEGMENTATION.MAX_CLASS_SHARE", lambda v: 0 < v <= 1, "in (0, 1]"),
    ("TEST.SLIDING_WINDOW", lambda v: _is_size(v) or tuple(v) == (0, 0), f"{_SIZE}, or (0, 0)"),
    ("TEST.SLIDING_STRIDE", _is_size, _SIZE),
    ("SOLVER.POLY_POWER", lambda v: v > 0, "above 0"),
    ("SOLVER.POLY_FLOOR", lambda v: 0 <= v <= 1, "in [0, 1]"),
)


def check_values(cfg: CfgNode) -> None:
    """Check single values, and that sliding windows leave no gaps.

    Raises:
        UserError: names key, value and what is allowed.
    """
    name = cfg.MODEL.SEM_SEG_HEAD.NAME
    if name not in HEADS:
        raise UserError(f"MODEL.SEM_SEG_HEAD.NAME '{name}' is unknown; {nearest(name, HEADS)}")
    for key, is_good, allowed in _RULES:
        value = functools.reduce(getattr, key.split("."), cfg)
        if not is_good(value):
            raise UserError(f"{key} is {value!r}, expected {allowed}")
    window, stride = cfg.TEST.SLIDING_WINDOW, cfg.TEST.SLIDING_STRIDE
    if any(window) and any(s > w for s, w in zip(stride, window, strict=True)):
        raise UserError(
            f"TEST.SLIDING_STRIDE is {stride!r}, expected at most TEST.SLIDING_WINDOW {window!r}, "
            "or pixels between the windows have no prediction"
        )


def check_batch(cfg: CfgNode, world_size: int) -> None:
    """Refuse batches of one image for a head that normalises a single value an image.

    Args:
        cfg: before it is scaled to the number of processes.
        world_size: number of processes.

    Raises:
        UserError: PSPNet's average over a whole image has a norm over one value.
    """
    solver, head = cfg.SOLVER, cfg.MODEL.SEM_SEG_HEAD
    images = images_normalised_together(cfg, head.NORM, world_size)
    if head.NAME == "PSPHead" and 1 in head.POOL_SCALES and "BN" in head.NORM and images < 2:
        raise UserError(
            f"{head.NORM} sees one image at a time (SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH}, "
            f"SOLVER.REFERENCE_WORLD_SIZE {solver.REFERENCE_WORLD_SIZE}, {world_size} processes), "
            "which PSPNet's pooling to one value cannot be trained with; give it two or more"
        )


def check_classes(cfg: CfgNode, dataset: str) -> None:
    """Compare a dataset's classes with the model's.

    Raises:
        UserError: another number of classes, or not a dataset for semantic segmentation.
    """
    metadata = MetadataCatalog.get(dataset)
    if metadata.get("evaluator_type") != _EVALUATOR:
        raise UserError(
            f"dataset '{dataset}' is of kind '{metadata.get('evaluator_type')}', which has no "
            "evaluator here; use cityscapes_fine_sem_seg_train and …_val"
        )
    found, expected = len(metadata.stuff_classes), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if found != expected:
        raise UserError(
            f"dataset '{dataset}' has {found} classes, the model {expected}; set "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {found}"
        )
