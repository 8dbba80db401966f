"""Boxes that training cannot use: without area, or outside of their image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.structures import BoxMode

from mls_d2.core.errors import UserError

logger = logging.getLogger(__name__)

# Of a side in pixels; Detectron2's mapper drops what is below it, after scaling.
_SMALLEST = 1e-5


def with_usable_boxes(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the images that have at least one box to learn from.

    Detectron2's mapper drops unusable boxes one by one; an image that had no others would reach the
    model without objects, where a SyncBN in the mask head fails on an empty batch.

    Args:
        records: in Detectron2's format, with ``annotations`` of boxes as COCO and VOC have them.

    Raises:
        UserError: no image is left.
    """
    bad = [sum(not _is_usable(item, record) for item in _objects(record)) for record in records]
    kept = [
        record
        for record, number in zip(records, bad, strict=True)
        if number < len(_objects(record))
    ]
    if not kept:
        raise UserError(
            f"none of the {len(records)} training images has a box with an area inside of the image"
        )
    if sum(bad):
        logger.warning(
            "%d boxes without area inside of their image are ignored, and %d images without others",
            sum(bad),
            len(records) - len(kept),
        )
    return kept


def _objects(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [item for item in record.get("annotations", ()) if not item.get("iscrowd", 0)]


def _is_usable(item: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    # Without NumPy: COCO has 860,000 boxes.
    left, top, right, bottom = item["bbox"]
    if item["bbox_mode"] == BoxMode.XYWH_ABS:
        right, bottom = left + right, top + bottom
    width = min(right, record["width"]) - max(left, 0)
    height = min(bottom, record["height"]) - max(top, 0)
    return width > _SMALLEST and height > _SMALLEST
