"""Which config keys may change while a run goes on: those that do not change what it computes."""

from __future__ import annotations

from collections.abc import Iterable

# Settings, and sections of them.
RESUMABLE_CHANGES = (
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "PRETRAIN.KEEP_CHECKPOINTS",
    "PRETRAIN.PERMANENT_PERIOD",
    "PRETRAIN.LOG_PERIOD",
    "PRETRAIN.MAX_BROKEN_SHARE",
    "PRETRAIN.LABEL_QUALITY",
    "PRETRAIN.ONLINE_EVAL",
    "TEST.EVAL_PERIOD",
    "VIS_PERIOD",
    "VERSION",
)


def decides(key: str) -> bool:
    """Whether a config key, such as ``"SOLVER.BASE_LR"``, changes what a run computes."""
    return not is_under(key, RESUMABLE_CHANGES)


def is_under(key: str, names: Iterable[str]) -> bool:
    """Whether a dotted key is one of ``names``, or lies in a section of that name."""
    return any(key == name or key.startswith(f"{name}.") for name in names)
