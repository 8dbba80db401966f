"""The kind of transfer of a config."""

from detectron2.config import CfgNode

from mls_d2.core.errors import UserError, nearest
from mls_d2.transfer.base import TransferTask
from mls_d2.transfer.classification import Classification
from mls_d2.transfer.detection import Detection
from mls_d2.transfer.segmentation import Segmentation

TASKS: dict[str, TransferTask] = {
    "GeneralizedRCNN": Detection(),
    "EncoderDecoder": Segmentation(),
    "ImageClassifier": Classification(),
}
"""By ``MODEL.META_ARCHITECTURE``."""


def task_of(cfg: CfgNode) -> TransferTask:
    """Return the kind of transfer for a config's ``MODEL.META_ARCHITECTURE``.

    Raises:
        UserError: there is none.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in TASKS:
        raise UserError(
            f"MODEL.META_ARCHITECTURE '{name}' is unknown; {nearest(name, TASKS)}",
            code="unknown-name",
        )
    return TASKS[name]
