"""Detection: images for training and testing, and objects that a detector can learn from."""

import copy
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from mls_d2.core.errors import UserError
from mls_d2.data.images import BrokenImageError, printable, read_image

logger = logging.getLogger(__name__)

MAX_BROKEN = 10
"""Training images that a process may leave out before the run stops."""
# Of a side in pixels; Detectron2's mapper drops smaller boxes, after scaling.
_SMALLEST = 1e-5


class UnreadableImageError(UserError):
    """An image that is damaged, or is not the one that the annotations are for."""

    code = "damaged-image"


class NothingToLearnError(UserError):
    """A training set without an image that can be used."""

    code = "missing-data"


def number_of_files(records: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of files of a dataset, which may list one several times."""
    return len({record["file_name"] for record in records})


class TolerantMapper:
    """A mapper from a record with ``file_name`` to a model's input.

    In training, an image that cannot be read is left out with a warning, and the loader takes
    another one; all of them, or more than :data:`MAX_BROKEN`, end the run. In evaluation every
    image counts.

    ``mapper`` reads the image; ``total`` is the number of files in training.
    """

    def __init__(
        self,
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
        *,
        is_train: bool,
        total: float = math.inf,
    ) -> None:
        self._mapper, self._is_train, self._total = mapper, is_train, total
        self._broken: set[str] = set()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """Return the model's input of a record; None for a training image to be left out.

        Raises:
            UnreadableImageError: names the file.
        """
        try:
            return self._mapper(record)
        except BrokenImageError as error:
            name = record["file_name"]
            message = f"image '{printable(name)}' cannot be used: {' '.join(str(error).split())}"
            if not self._is_train:
                raise UnreadableImageError(message) from None
            if name not in self._broken:
                logger.warning("%s; it is left out of training", message)
            self._broken.add(name)
            # Without another image to take, Detectron2's loader fails.
            most = min(MAX_BROKEN, self._total - 1)
            if len(self._broken) > most:
                raise UnreadableImageError(
                    f"{len(self._broken)} training images cannot be used, and {most} at most may "
                    f"be left out; get the dataset again. The last: {message}"
                ) from None
            return None


class DetectionMapper(TolerantMapper):
    """Detectron2's ``DatasetMapper``, tolerant, with this project's reader of images.

    In training, an image is also left out if it has objects and none of them is left after scaling,
    as those of which the mask has no pixel then.
    """

    def __init__(self, cfg: CfgNode, *, is_train: bool, total: float = math.inf) -> None:
        super().__init__(_ReadingMapper(cfg, is_train=is_train), is_train=is_train, total=total)
        # Left out when last met: the loader takes others only, and fails if there are none.
        self._unused: set[str] = set()
        self._warned = False

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """Return the model's input of a record; None for a training image to be left out.

        Raises:
            UserError: an image that cannot be read, by name; or no image that is not left out.
        """
        result, name = super().__call__(record), record["file_name"]
        emptied = result is not None and "instances" in result and not len(result["instances"])
        if emptied and not all(item.get("iscrowd") for item in record["annotations"]):
            if not self._warned:
                text = "'%s' has no object left after scaling; such images are left out of training"
                logger.warning(text, name)
            self._warned, result = True, None
        if result is not None:
            self._unused.discard(name)
            return result
        self._unused.add(name)
        if len(self._unused) >= self._total:
            raise NothingToLearnError(
                f"none of the {self._total} training images can be read and has an object left "
                f"after scaling, the last '{name}'; look at their masks, or set "
                "INPUT.MIN_SIZE_TRAIN higher"
            )
        return None


class _Resize(T.ResizeShortestEdge):
    """Detectron2's, with a pixel at least on either side: it scales very thin images to none."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h, transform.new_w = max(1, transform.new_h), max(1, transform.new_w)
        return transform


class _ReadingMapper(DatasetMapper):
    def __init__(self, cfg: CfgNode, *, is_train: bool) -> None:
        super().__init__(cfg, is_train=is_train)
        for place, item in enumerate(self.augmentations.augs):
            if type(item) is T.ResizeShortestEdge:
                style = "range" if item.is_range else "choice"
                resize = _Resize(item.short_edge_length, item.max_size, style, item.interp)
                self.augmentations.augs[place] = resize

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        record = copy.deepcopy(dataset_dict)
        image = read_image(record["file_name"])
        check_image_size(record, image.shape)
        augmented = T.AugInput(image[:, :, ::-1] if self.image_format == "BGR" else image)
        transforms = self.augmentations(augmented)
        image = augmented.image
        record["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, image.shape[:2])
        return record


def check_image_size(record: dict[str, Any], shape: Sequence[int]) -> None:
    """Compare the size of an image with its annotation, and complete a record that has none.

    Raises:
        BrokenImageError: they differ.
    """
    found = tuple(shape[:2])
    annotated = record.setdefault("height", found[0]), record.setdefault("width", found[1])
    if annotated != found:
        exchanged = "; height and width are exchanged" if annotated == found[::-1] else ""
        raise BrokenImageError(
            f"its height and width are {found[0]} x {found[1]}, in the annotations "
            f"{annotated[0]} x {annotated[1]}{exchanged}"
        )


def training_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """Return the images of ``DATASETS.TRAIN`` with the objects that the model can learn from.

    Objects without an area inside their image and, if ``MODEL.MASK_ON``, without a mask there are
    left out, and images without other objects (if ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``); the log
    counts them. Detectron2's mapper would leave such boxes out one by one, and an image that
    reaches the model without objects makes SyncBN in the mask head fail.

    Raises:
        UserError: no image is left, or masks are not in the configured format.
    """
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    # Detectron2's own filter asserts that something is left.
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon":
        _check_polygons(records)
    return usable_records(records, masks=cfg.MODEL.MASK_ON, filter_empty=filter_empty)


def usable_records(
    records: Sequence[dict[str, Any]], *, masks: bool, filter_empty: bool = True
) -> list[dict[str, Any]]:
    """Return records with usable objects alone: see :func:`training_records`."""
    left_out: Counter[str] = Counter()
    kept = []
    for record in records:
        objects, usable = record.get("annotations", ()), []
        for item in objects:
            problem = "" if item.get("iscrowd") else _problem(item, record, masks)
            if problem:
                left_out[problem] += 1
            else:
                usable.append(item)
        if all(item.get("iscrowd") for item in usable) and filter_empty:
            left_out["images without an object to learn from"] += 1
            continue
        kept.append(record if len(usable) == len(objects) else {**record, "annotations": usable})
    counts = ", ".join(f"{number} {problem}" for problem, number in left_out.items())
    if not kept:
        what = "a mask and a box" if masks else "a box"
        advice = "; MODEL.MASK_ON False trains boxes alone" if masks else ""
        raise UserError(
            f"none of the {len(records)} training images (the first is "
            f"'{records[0]['file_name']}') has an object with {what} with an area inside its "
            f"image: {counts}{advice}",
            code="missing-data",
        )
    if left_out:
        logger.warning("left out of training: %s", counts)
    return kept


def _problem(item: Mapping[str, Any], record: Mapping[str, Any], masks: bool) -> str:
    # Without NumPy: COCO has 860,000 boxes.
    if masks and not item.get("segmentation"):
        return "objects without a mask"
    if masks and not _is_seen(item["segmentation"], record):
        return "masks without area in their image"
    left, top, right, bottom = item["bbox"]
    if item["bbox_mode"] == BoxMode.XYWH_ABS:
        right, bottom = left + right, top + bottom
    width = min(right, record["width"]) - max(left, 0)
    height = min(bottom, record["height"]) - max(top, 0)
    return "" if width > _SMALLEST and height > _SMALLEST else "boxes without area in their image"


def _is_seen(
    mask: Mapping[str, Any] | Sequence[Sequence[float]], record: Mapping[str, Any]
) -> bool:
    """Whether some of a mask is in its image; of polygons, their bounding boxes are looked at."""
    if isinstance(mask, Mapping):
        return mask_util.area(mask) > 0
    return any(
        min(max(polygon[::2]), record["width"]) - max(min(polygon[::2]), 0) > _SMALLEST
        and min(max(polygon[1::2]), record["height"]) - max(min(polygon[1::2]), 0) > _SMALLEST
        for polygon in mask
    )


def _check_polygons(records: Sequence[Mapping[str, Any]]) -> None:
    encoded = [
        record["file_name"]
        for record in records
        for item in record.get("annotations", ())
        if isinstance(item.get("segmentation"), dict) and not item.get("iscrowd")
    ]
    if encoded:
        raise UserError(
            f"{len(encoded)} objects, the first in '{encoded[0]}', have run-length encoded masks, "
            "and INPUT.MASK_FORMAT is polygon; set INPUT.MASK_FORMAT bitmask",
            code="bad-value",
        )
