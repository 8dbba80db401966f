"""Writing scenes as COCO 2017: images, instances_*.json and image_info_*.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mls_d2.data.scenes.files import make_folder, write_bytes, write_jpeg
from mls_d2.data.scenes.labels import COCO_CATEGORIES, COCO_IDS, KINDS
from mls_d2.data.scenes.outlines import mask_polygons
from mls_d2.data.scenes.render import Picture

MIN_AREA = 16
"""Visible pixels below which an object is too little to be annotated."""
MIN_SIDE = 3
"""Pixels of the visible box's shorter side below which an object is too little to be annotated."""

_FIRST_ID = {"train2017": 1, "val2017": 1_000_001, "unlabeled2017": 2_000_001}


def save_image(root: Path, split: str, index: int, picture: Picture) -> dict:
    """Write one image and return its records.

    Args:
        root: the datasets' root.
        split: ``train2017``, ``val2017`` or ``unlabeled2017``.
        index: number of the image in the split.
        picture: the rendered scene.

    Returns:
        ``{"image": …, "annotations": […]}`` as in COCO's files, the annotations without ids.
    """
    image_id = _FIRST_ID[split] + index
    name = f"{image_id:012d}.jpg"
    write_jpeg(root / "coco" / split / name, picture.image)
    height, width = picture.ids.shape
    record = {"id": image_id, "file_name": name, "height": height, "width": width, "license": 1}
    annotations = [] if split == "unlabeled2017" else _annotations(picture, image_id)
    return {"image": record, "annotations": annotations}


def visible_things(picture: Picture) -> list[tuple[int, np.ndarray, tuple[int, int, int, int]]]:
    """Return what is worth annotating in a picture: id, mask ``(H, W)`` bool and box (x, y, w, h).

    Only kinds with a COCO category count; the box is the tight box around the visible mask.
    """
    things = []
    for number in np.unique(picture.ids).tolist():
        if KINDS[picture.kinds[number]].coco is None:
            continue
        mask = picture.ids == number
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        w, h = int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
        if int(mask.sum()) >= MIN_AREA and min(w, h) >= MIN_SIDE:
            things.append((number, mask, (x, y, w, h)))
    return things


def _annotations(picture: Picture, image_id: int) -> list[dict]:
    annotations = []
    for number, mask, box in visible_things(picture):
        name = KINDS[picture.kinds[number]].coco
        assert name is not None, "visible_things returns things with a category only"
        annotations.append(
            {
                "image_id": image_id,
                "category_id": COCO_IDS[name],
                "segmentation": mask_polygons(mask),
                "bbox": [float(value) for value in box],
                "area": float(mask.sum()),
                "iscrowd": 0,
            }
        )
    return annotations


def write_annotations(root: Path, split: str, records: list[dict]) -> None:
    """Write a split's JSON file from the records of its images, in their order."""
    annotations = [item for record in records for item in record["annotations"]]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number + _FIRST_ID[split] - 1
    content = {
        "info": {"description": "Synthetic scenes in COCO's layout", "version": "1", "year": 2017},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
        "images": [record["image"] for record in records],
        "categories": list(COCO_CATEGORIES),
    }
    stem = "image_info" if split == "unlabeled2017" else "instances"
    if stem == "instances":
        content["annotations"] = annotations
    path = root / "coco" / "annotations" / f"{stem}_{split}.json"
    make_folder(path.parent)
    write_bytes(path, json.dumps(content, separators=(",", ":")).encode())
