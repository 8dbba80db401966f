"""Preset onegpu: the published recipes, made shorter by one rule for one consumer GPU.

Images have 5/7 of their side, so half of their pixels (224 becomes 160), on whole multiples of 32.
A batch has at most 128 images in pretraining, 8 in detection and segmentation and 64 in
classification, for 16 GB with mixed precision; the learning rate is scaled with it.
Pretraining lasts a quarter of its epochs, with its warm-up, fine-tuning an eighth. What is fitted
to features without training stays as it is. docs/benchmark.md has the estimated time.
"""

import math
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from mls_d2.config.loading import load_cfg
from mls_d2.config.rules import value_at

ONE_GPU = "onegpu"
_PROCESSES = 8  # of the published pretraining
_PRETRAINING, _FINE_TUNING = 4, 8  # the published length is divided by these
_PRETRAINING_BATCH = 128
# By MODEL.META_ARCHITECTURE the largest batch, and the keys of sizes in pixels.
_TASKS: dict[str, tuple[int, tuple[str, ...]]] = {
    "GeneralizedRCNN": (
        8,
        tuple(f"INPUT.{side}_SIZE_{part}" for side in ("MIN", "MAX") for part in ("TRAIN", "TEST")),
    ),
    "EncoderDecoder": (8, ("INPUT.SEGMENTATION.CROP_SIZE",)),
    "ImageClassifier": (64, ("CLASSIFICATION.CROP_SIZE", "CLASSIFICATION.RESIZE")),
}


def one_gpu_pretraining(config: Path) -> dict[str, Any]:
    """Return the config keys, with values, by which the recipe of a pretraining is made shorter."""
    cfg = load_cfg(str(config))
    published = cfg.SOLVER.IMS_PER_BATCH
    batch = min(published, _PRETRAINING_BATCH)
    sync = cfg.PRETRAIN.BATCH_NORM == "sync"
    sizes = ("PRETRAIN.AUGMENT.CROP_SIZE", "PRETRAIN.AUGMENT.LOCAL_SIZE")
    return {
        **_batch(cfg, batch),
        **_smaller(cfg, sizes),
        # Statistics of as many images as a process of the published run has.
        "PRETRAIN.BATCH_NORM_GROUPS": 1 if sync else batch * _PROCESSES // published,
        "PRETRAIN.EPOCHS": cfg.PRETRAIN.EPOCHS / _PRETRAINING,
        "PRETRAIN.WARMUP_EPOCHS": cfg.PRETRAIN.WARMUP_EPOCHS / _PRETRAINING,
        "SOLVER.CHECKPOINT_PERIOD": cfg.SOLVER.CHECKPOINT_PERIOD * published // batch,
    }


def one_gpu_transfer(config: Path) -> dict[str, Any]:
    """Return the config keys, with values, by which the recipe of a task is made shorter."""
    cfg = load_cfg(str(config))
    if not cfg.SOLVER.MAX_ITER:
        return {"PRESET": ONE_GPU}
    most, sizes = _TASKS[cfg.MODEL.META_ARCHITECTURE]
    batch = min(cfg.SOLVER.IMS_PER_BATCH, most)
    share = cfg.SOLVER.IMS_PER_BATCH / batch / _FINE_TUNING
    return {
        **_batch(cfg, batch),
        **_smaller(cfg, sizes),
        "SOLVER.MAX_ITER": math.ceil(cfg.SOLVER.MAX_ITER * share),
        "SOLVER.STEPS": tuple(round(step * share) for step in cfg.SOLVER.STEPS),
        "SOLVER.WARMUP_ITERS": round(cfg.SOLVER.WARMUP_ITERS * share),
    }


def _batch(cfg: CfgNode, batch: int) -> dict[str, Any]:
    return {
        "PRESET": ONE_GPU,
        "SOLVER.REFERENCE_WORLD_SIZE": 0,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.BASE_LR": cfg.SOLVER.BASE_LR * batch / cfg.SOLVER.IMS_PER_BATCH,
        "SOLVER.AMP.ENABLED": True,
    }


def _smaller(cfg: CfgNode, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return sizes, numbers or tuples of them, times 5/7 and rounded to multiples of 32."""

    def size(pixels: int) -> int:
        return 32 * round(pixels * 5 / 7 / 32)

    values = {key: value_at(cfg, key) for key in keys}
    return {
        key: size(value) if isinstance(value, int) else tuple(map(size, value))
        for key, value in values.items()
    }
