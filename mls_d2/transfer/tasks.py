"""Which kind of transfer a config asks for."""

from __future__ import annotations

from detectron2.config import CfgNode

from mls_d2.core.errors import UserError, nearest
from mls_d2.transfer.classification import Classification
from mls_d2.transfer.detection import Detection
from mls_d2.transfer.segmentation import Segmentation
from mls_d2.transfer.task import Task

TASKS: dict[str, Task] = {
    "GeneralizedRCNN": Detection(),
    "EncoderDecoder": Segmentation(),
    "ImageClassifier": Classification(),
}
"""By ``MODEL.META_ARCHITECTURE``."""


def task_of(cfg: CfgNode) -> Task:
    """Return the kind of transfer that a config's ``MODEL.META_ARCHITECTURE`` belongs to.

    Raises:
        UserError: one that no task here trains.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in TASKS:
        raise UserError(f"MODEL.META_ARCHITECTURE '{name}' is unknown; {nearest(name, TASKS)}")
    return TASKS[name]
