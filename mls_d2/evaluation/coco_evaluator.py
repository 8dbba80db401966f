"""COCO's average precision for boxes and masks, computed by faster-coco-eval."""

import itertools
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import detectron2.utils.comm as comm
import msgspec
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from faster_coco_eval import COCO, COCOeval_faster

from mls_d2.core.files import write_bytes
from mls_d2.data.annotations_coco import ground_truth

logger = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class CocoEvaluator(DatasetEvaluator):
    """Detectron2 evaluator for datasets in COCO format.

    Works on the results of all processes and returns them on the main one.

    Args:
        dataset_name: a registered dataset whose metadata has ``json_file``,
            ``thing_dataset_id_to_contiguous_id`` and ``thing_classes``.
        tasks: ``"bbox"``, and ``"segm"`` for models that predict masks.
        save_to: file for the detections in COCO's result format; "" writes none.
    """

    def __init__(self, dataset_name: str, tasks: Sequence[str], *, save_to: str = "") -> None:
        self._metadata = MetadataCatalog.get(dataset_name)
        self._tasks = tuple(tasks)
        self._save_to = save_to
        self._detections: list[dict[str, Any]] = []

    def reset(self) -> None:
        """Forget all detections."""
        self._detections = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect the detections of a batch.

        Args:
            inputs: with ``image_id`` each.
            outputs: with ``instances`` each, in pixels of the original image.
        """
        for item, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to(torch.device("cpu"))
            self._detections += instances_to_coco_json(instances, item["image_id"])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return AP in percent by task: see :func:`evaluate_detections`.

        Raises:
            UserError: the detections cannot be written.
        """
        gathered = comm.gather(self._detections, dst=0)
        if not comm.is_main_process():
            return {}
        mapping = self._metadata.thing_dataset_id_to_contiguous_id
        dataset_ids = {contiguous: original for original, contiguous in mapping.items()}
        detections = [
            {**detection, "category_id": dataset_ids[detection["category_id"]]}
            for detection in itertools.chain.from_iterable(gathered)
        ]
        if self._save_to:
            write_bytes(self._save_to, msgspec.json.encode(detections))
        truth = COCO(ground_truth(self._metadata.json_file))
        if not detections:
            logger.warning("the model detected nothing in %d images", len(truth.imgs))
        names = dict(zip(sorted(dataset_ids), self._metadata.thing_classes, strict=True))
        classes = {dataset_ids[contiguous]: name for contiguous, name in names.items()}
        return evaluate_detections(truth, detections, self._tasks, classes)


def evaluate_detections(
    truth: COCO, detections: Sequence[dict[str, Any]], tasks: Sequence[str], classes: dict[int, str]
) -> dict[str, dict[str, float]]:
    """Compute COCO's AP of detections in its result format as the official tool does.

    Tasks are ``"bbox"`` and ``"segm"``; ``classes`` are names by category id, for AP by class.

    Returns:
        By task: AP, AP50, AP75, APs, APm, APl, and ``AP-<class>``, in percent. NaN if the ground
        truth has no such object; 0 if it has and nothing was detected.
    """
    results: dict[str, dict[str, float]] = OrderedDict()
    for task in tasks:
        evaluation = _run(truth, detections, task)
        stats = [float(value) for value in evaluation.stats[: len(METRICS)]]
        results[task] = dict(zip(METRICS, map(_percent, stats), strict=True))
        line = "  ".join(f"{name} {value:.2f}" for name, value in results[task].items())
        logger.info("%s: %s", task, line)
        # Indexed by IoU threshold, recall, class, area range (0: all) and detections (-1: 100).
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        for index, category in enumerate(evaluation.params.catIds):
            known = precision[:, :, index][precision[:, :, index] > -1]
            mean = float(np.mean(known)) if known.size else -1.0
            results[task][f"AP-{classes[category]}"] = _percent(mean)
    return results


def _run(truth: COCO, detections: Sequence[dict[str, Any]], task: str) -> COCOeval_faster:
    # Loading adds keys to each detection, so it gets copies. Masks must come without their box,
    # or their size class would be that of the box.
    dropped = {"segmentation"} if task == "bbox" else {"bbox"}
    copies = [{k: v for k, v in item.items() if k not in dropped} for item in detections]
    evaluation = COCOeval_faster(truth, truth.loadRes(copies), task, extra_calc=False)
    evaluation.run()
    return evaluation


def _percent(value: float) -> float:
    # COCO's tool returns -1 if there is nothing to measure.
    return 100.0 * value if value >= 0 else np.nan
