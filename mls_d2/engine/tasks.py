"""Which kind of transfer a config asks for."""

from __future__ import annotations

from detectron2.config import CfgNode

from mls_d2.engine.classification import Classification
from mls_d2.engine.detection import Detection
from mls_d2.engine.segmentation import Segmentation
from mls_d2.engine.task import Task
from mls_d2.errors import UserError, nearest

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
