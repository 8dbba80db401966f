"""Labels of registered datasets, used to measure a run and never to train it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from mls_d2.core.errors import UserError

# A crop shows an object if it contains this share of its box, or if the box fills this share of it.
_HELD, _FILLED = 0.5, 0.3


@dataclass(frozen=True)
class Annotations:
    """The objects of a dataset's images."""

    paths: tuple[str, ...]  # of the N images
    boxes: tuple[np.ndarray, ...]  # for each image ``(M, 4)`` x, y, width, height in pixels
    categories: tuple[np.ndarray, ...]  # for each image ``(M,)`` of int in [0, C)
    names: tuple[str, ...]  # the C categories

    def shown(self) -> np.ndarray:
        """Return ``(N, C)`` bool: which categories each image shows."""
        return np.stack([self._mark(classes) for classes in self.categories])

    def seen(self, index: int, crop: np.ndarray) -> np.ndarray:
        """Return ``(C,)`` bool: the categories that a crop x, y, width, height of an image shows.

        It shows an object if it contains half of its box, or if the box fills 30 % of it.
        """
        x, y, width, height = crop[:4]
        boxes = self.boxes[index]
        across = np.minimum(boxes[:, 0] + boxes[:, 2], x + width) - np.maximum(boxes[:, 0], x)
        down = np.minimum(boxes[:, 1] + boxes[:, 3], y + height) - np.maximum(boxes[:, 1], y)
        area = across.clip(0) * down.clip(0)
        held = area >= _HELD * boxes[:, 2] * boxes[:, 3]
        filled = area >= _FILLED * width * height
        return self._mark(self.categories[index][(area > 0) & (held | filled)])

    def _mark(self, classes: np.ndarray) -> np.ndarray:
        row = np.zeros(len(self.names), dtype=bool)
        row[classes] = True
        return row


def load_annotations(names: Sequence[str], *, key: str) -> Annotations:
    """Return the objects of registered datasets, crowds left out, in the order of their images.

    Args:
        names: of datasets in the catalog with the same categories.
        key: the config key that asks for them, for messages.

    Raises:
        UserError: no registered dataset, one with damaged or no annotations, or different
            categories.
    """
    paths, boxes, categories = [], [], []
    spaces = set()
    for name in names:
        if name not in DatasetCatalog.list():
            raise UserError(
                f"{key} needs a registered dataset with annotations; '{name}' is none",
                code="unknown-name",
            )
        for record in DatasetCatalog.get(name):
            objects = [item for item in record.get("annotations", ()) if not item.get("iscrowd")]
            corners = [
                BoxMode.convert(i["bbox"], i["bbox_mode"], BoxMode.XYWH_ABS) for i in objects
            ]
            paths.append(record["file_name"])
            boxes.append(np.array(corners, dtype=float).reshape(-1, 4))
            categories.append(np.array([i["category_id"] for i in objects], dtype=int))
        spaces.add(tuple(MetadataCatalog.get(name).get("thing_classes", ())))
    if len(spaces) != 1:
        raise UserError(
            f"{key}: the datasets {tuple(names)} have different categories", code="bad-value"
        )
    if not any(map(len, categories)):
        raise UserError(
            f"{key} needs annotations, and {tuple(names)} has none", code="missing-data"
        )
    return Annotations(tuple(paths), tuple(boxes), tuple(categories), spaces.pop())
