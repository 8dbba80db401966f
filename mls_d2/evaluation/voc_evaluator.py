"""PASCAL VOC's average precision for boxes."""

import logging
from collections.abc import Mapping, Sequence

import detectron2.utils.comm as comm
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import voc_ap

from mls_d2.data.annotations_voc import read_voc

logger = logging.getLogger(__name__)

IOU_THRESHOLDS = range(50, 100, 5)
"""In percent."""


class VocEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's evaluator, with AP by class and without the classes that a split lacks.

    AP is the mean over the IoU thresholds 0.50, 0.55, …, 0.95; interpolated at 11 points for 2007.
    Objects marked difficult count neither for nor against. On VOC itself, which has every class in
    every split, AP, AP50 and AP75 are those of Detectron2's evaluator, which gives 0 to a class
    without objects; generated scenes lack most classes. Detections of equal score (of three
    decimals, as VOC's files have them) count in the order of the image list, and those of one image
    in the order of the model's output; Detectron2's order of them is not defined.

    Works on the results of all processes and returns them on the main one.

    Args:
        dataset_name: a registered dataset in VOC's layout, such as ``"voc_2007_test"``.

    Raises:
        UserError: an annotation file is missing or damaged.
    """

    def __init__(self, dataset_name: str) -> None:
        super().__init__(dataset_name)
        self._classes: list[str] = MetadataCatalog.get(dataset_name).thing_classes
        self._truth = read_voc(dataset_name)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return ``{"bbox": {"AP", "AP50", "AP75", "AP-<class>", …}}`` in percent.

        NaN for a class of which the split has no object, or none but difficult ones.
        """
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return {}
        if not any(any(share.values()) for share in gathered):
            logger.warning("the model detected nothing in %d images", len(self._truth))
        values = {}
        for number, name in enumerate(self._classes):
            lines = [line.split() for share in gathered for line in share[number]]
            if precisions := self._average_precisions(name, lines):
                values[name] = precisions
        return {"bbox": _summarize(values, self._classes)}

    def _average_precisions(self, name: str, lines: Sequence[Sequence[str]]) -> list[float]:
        """Return AP in percent at each of :data:`IOU_THRESHOLDS`; [] for a class without objects.

        A line is image, score, xmin, ymin, xmax and ymax of a detection.
        """
        objects = {
            stem: [item for item in found if item.name == name]
            for stem, found in self._truth.items()
        }
        count = sum(not item.difficult for found in objects.values() for item in found)
        if not count:
            return []
        # VOC's coordinates are whole numbers; some files of VOC2012 have others.
        boxes = {
            stem: np.array([[int(value) for value in item.box] for item in found], float)
            for stem, found in objects.items()
        }
        place = {stem: index for index, stem in enumerate(self._truth)}
        ranked = sorted(lines, key=lambda line: (-float(line[1]), place[line[0]]))
        best = [_best_overlap(np.array(line[2:], float), boxes[line[0]]) for line in ranked]
        result = []
        for threshold in IOU_THRESHOLDS:
            hits, wrong = np.zeros(len(ranked)), np.zeros(len(ranked))
            found = set()
            for rank, (line, (overlap, index)) in enumerate(zip(ranked, best, strict=True)):
                if overlap <= threshold / 100:
                    wrong[rank] = 1
                elif not objects[line[0]][index].difficult:
                    (wrong if (line[0], index) in found else hits)[rank] = 1
                    found.add((line[0], index))
            hits, wrong = hits.cumsum(), wrong.cumsum()
            precision = hits / np.maximum(hits + wrong, np.finfo(np.float64).eps)
            result.append(100.0 * float(voc_ap(hits / count, precision, self._is_2007)))
        return result


def _best_overlap(box: np.ndarray, truth: np.ndarray) -> tuple[float, int]:
    """Return the largest IoU of a box ``(4,)`` with boxes ``(M, 4)``, and which one it is."""
    if not len(truth):
        return -np.inf, -1
    low, high = np.maximum(truth[:, :2], box[:2]), np.minimum(truth[:, 2:], box[2:])
    inside = np.maximum(high - low + 1.0, 0.0).prod(axis=1)
    areas = (truth[:, 2:] - truth[:, :2] + 1.0).prod(axis=1)
    overlaps = inside / ((box[2:] - box[:2] + 1.0).prod() + areas - inside)
    return float(overlaps.max()), int(overlaps.argmax())


def _summarize(values: Mapping[str, Sequence[float]], classes: Sequence[str]) -> dict[str, float]:
    table = np.array(list(values.values())).reshape(-1, len(IOU_THRESHOLDS))
    # NumPy warns of the mean over no class at all, which is NaN.
    means = table.mean(axis=0) if len(table) else np.full(len(IOU_THRESHOLDS), np.nan)
    at = dict(zip(IOU_THRESHOLDS, means.tolist(), strict=True))
    result = {"AP": float(means.mean()), "AP50": at[50], "AP75": at[75]}
    line = "  ".join(f"{name} {value:.2f}" for name, value in result.items())
    logger.info("bbox: %s, over %d of %d classes", line, len(table), len(classes))
    return result | {f"AP-{c}": float(np.mean(values.get(c, np.nan))) for c in classes}
