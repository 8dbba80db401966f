"""Intersection over union and pixel accuracy of semantic segmentation."""

import logging
from collections.abc import Sequence
from typing import Any

import detectron2.utils.comm as comm
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from mls_d2.data.segmentation_mapper import check_same_size, read_labels

logger = logging.getLogger(__name__)


class SegmentationEvaluator(DatasetEvaluator):
    """Detectron2 evaluator that counts pixels over all processes.

    Args:
        dataset_name: a registered dataset whose metadata has ``stuff_classes`` and
            ``ignore_label``.
    """

    def __init__(self, dataset_name: str) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self._classes = tuple(metadata.stuff_classes)
        self._ignore_label = metadata.ignore_label
        self.reset()

    def reset(self) -> None:
        """Drop all counts."""
        self._confusion = np.zeros((len(self._classes), len(self._classes)), np.int64)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare the predictions of a batch with the ground truth.

        Args:
            inputs: with ``sem_seg_file_name`` each.
            outputs: with ``sem_seg`` each, ``(K, H, W)`` logits of the size of the ground truth.

        Raises:
            UserError: ground truth that cannot be read, or with labels out of range.
        """
        for item, output in zip(inputs, outputs, strict=True):
            name = item["sem_seg_file_name"]
            labels = read_labels(name, len(self._classes), self._ignore_label)
            predicted = output["sem_seg"].argmax(0).cpu().numpy()
            check_same_size(name, labels.shape, predicted.shape)
            self._confusion += confusion_matrix(predicted, labels, len(self._classes))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return ``{"sem_seg": metrics}`` on the main process: see :func:`metrics_of`."""
        gathered = comm.gather(self._confusion, dst=0)
        if not comm.is_main_process():
            return {}
        metrics = metrics_of(np.sum(gathered, 0), self._classes)
        line = "  ".join(f"{name} {metrics[name]:.2f}" for name in ("mIoU", "mAcc", "aAcc"))
        logger.info("sem_seg: %s", line)
        return {"sem_seg": metrics}


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return ``(K, K)`` int64: how many pixels of class i are predicted as class j.

    ``predicted`` are in [0, K); pixels with ``labels``, of the same shape, from K on are left out.
    """
    known = labels < num_classes
    pairs = num_classes * labels[known].astype(np.int64) + predicted[known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def metrics_of(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Return the metrics of a :func:`confusion_matrix` ``(K, K)`` of K classes, in percent.

    Returns:
        ``mIoU``, the mean over classes of the intersection over the union of prediction and ground
        truth; ``mAcc``, that of the share of a class's pixels that were found; ``aAcc``, the share
        of all pixels that were right; ``IoU-<class>``. NaN, and left out of means, for a class that
        is not in the ground truth and, for IoU, not predicted on labelled pixels either.

    Source: cityscapesscripts, and mmsegmentation for the accuracies.
    """
    correct = confusion.diagonal().astype(np.float64)
    labelled, predicted = confusion.sum(1), confusion.sum(0)
    iou = _percent(correct, labelled + predicted - correct)
    accuracy = _percent(correct, labelled)
    return {
        "mIoU": _mean(iou),
        "mAcc": _mean(accuracy),
        "aAcc": float(_percent(correct.sum(), confusion.sum())),
        **{f"IoU-{name}": float(value) for name, value in zip(classes, iou, strict=True)},
    }


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return 100.0 * np.divide(part, whole)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
