"""PASCAL VOC's average precision for boxes, computed by Detectron2's port of the official tool."""

from __future__ import annotations

import logging
import os
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import detectron2.utils.comm as comm
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_eval

from mls_d2.core.errors import UserError

logger = logging.getLogger(__name__)

IOU_THRESHOLDS = range(50, 100, 5)
"""In percent."""


class VocEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's evaluator, with AP by class and without the classes that a split lacks.

    AP is the mean over the IoU thresholds 0.50, 0.55, …, 0.95; interpolated at 11 points for 2007.
    Objects marked difficult count neither for nor against. On VOC itself, which has every class in
    every split, AP, AP50 and AP75 are those of Detectron2's evaluator, which gives 0 to a class
    without objects; generated scenes lack most classes.

    Works on the results of all processes and returns them on the main one.

    Args:
        dataset_name: a registered dataset in VOC's layout, such as ``"voc_2007_test"``.

    Raises:
        UserError: an annotation file is missing, or is none; before the model has run for an hour.
    """

    def __init__(self, dataset_name: str) -> None:
        super().__init__(dataset_name)
        self._classes: list[str] = MetadataCatalog.get(dataset_name).thing_classes
        with open(self._image_set_path, encoding="utf-8") as file:
            self._images = [line.strip() for line in file]
        self._objects = Counter(
            item["name"]
            for image in self._images
            for item in _read_annotation(self._anno_file_template.format(image))
            if not item["difficult"]
        )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return ``{"bbox": {"AP", "AP50", "AP75", "AP-<class>", …}}`` in percent.

        NaN for a class of which the split has no object, or none but difficult ones.
        """
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return {}
        lines: dict[int, list[str]] = defaultdict(list)
        for share in gathered:
            for number, found in share.items():
                lines[number] += found
        if not lines:
            logger.warning("the model detected nothing in %d images", len(self._images))
        values = {
            name: self._average_precisions(name, lines[number])
            for number, name in enumerate(self._classes)
            if self._objects[name]
        }
        return {"bbox": _summarize(values, self._classes)}

    def _average_precisions(self, name: str, lines: Sequence[str]) -> list[float]:
        """Return AP in percent at each of :data:`IOU_THRESHOLDS`."""
        with tempfile.TemporaryDirectory(prefix="voc_eval_") as folder:
            file = os.path.join(folder, "{}.txt")
            with open(file.format(name), "w", encoding="utf-8") as written:
                written.write("\n".join(lines))
            values = [
                voc_eval(
                    file,
                    self._anno_file_template,
                    self._image_set_path,
                    name,
                    ovthresh=threshold / 100,
                    use_07_metric=self._is_2007,
                )[2]
                for threshold in IOU_THRESHOLDS
            ]
        return [100.0 * float(value) for value in values]


def _read_annotation(path: str) -> list[dict]:
    try:
        return parse_rec(path)  # Detectron2 keeps it for the evaluation.
    except OSError as error:
        raise UserError(f"no annotation '{path}' ({error.strerror}); unpack VOC again") from None
    except (ET.ParseError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"'{path}' is no VOC annotation ({error}); unpack VOC again") from None


def _summarize(values: Mapping[str, Sequence[float]], classes: Sequence[str]) -> dict[str, float]:
    table = np.array(list(values.values())).reshape(-1, len(IOU_THRESHOLDS))
    # Of no class at all the mean is NaN, which is what is meant, with a warning, which is not.
    means = table.mean(axis=0) if len(table) else np.full(len(IOU_THRESHOLDS), np.nan)
    at = dict(zip(IOU_THRESHOLDS, means.tolist(), strict=True))
    result = {"AP": float(means.mean()), "AP50": at[50], "AP75": at[75]}
    line = "  ".join(f"{name} {value:.2f}" for name, value in result.items())
    logger.info("bbox: %s, over %d of %d classes", line, len(table), len(classes))
    by_class = {
        name: float(np.mean(values[name])) if name in values else np.nan for name in classes
    }
    return result | {f"AP-{name}": float(value) for name, value in by_class.items()}
