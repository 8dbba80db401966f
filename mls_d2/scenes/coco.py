"""Writing scenes as COCO 2017: images, instances_*.json and image_info_*.json."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from mls_d2.scenes.files import write_bytes, write_jpeg
from mls_d2.scenes.labels import COCO_CATEGORIES, COCO_IDS, KINDS
from mls_d2.scenes.marker import SceneParams
from mls_d2.scenes.outlines import mask_polygons
from mls_d2.scenes.render import Picture
from mls_d2.scenes.split import Split

MIN_AREA = 16
"""Visible pixels below which an object is too little to be annotated."""
MIN_SIDE = 3
"""Pixels of the visible box's shorter side below which an object is too little to be annotated."""

_FIRST_ID = {"train2017": 1, "val2017": 1_000_001, "unlabeled2017": 2_000_001}


def splits(params: SceneParams) -> list[Split]:
    """Return the splits that are asked for, of train2017, val2017 and unlabeled2017."""
    counts = {"train2017": params.train, "val2017": params.val, "unlabeled2017": params.unlabeled}
    return [
        Split(
            name=f"coco/{name}",
            stream=stream,
            count=count,
            size=params.size,
            folders=(f"coco/{name}", "coco/annotations"),
            save=partial(_save, name=name),
            finish=partial(_finish, name=name),
        )
        for stream, (name, count) in enumerate(counts.items())
        if count
    ]


def _save(root: Path, split: Split, index: int, picture: Picture, *, name: str) -> dict:
    """Write one image and return its records as in COCO's files, the annotations without ids."""
    image_id = _FIRST_ID[name] + index
    file_name = f"{image_id:012d}.jpg"
    write_jpeg(root / "coco" / name / file_name, picture.image)
    height, width = picture.ids.shape
    image = {"id": image_id, "file_name": file_name, "height": height, "width": width, "license": 1}
    annotations = [] if name == "unlabeled2017" else _annotations(picture, image_id)
    return {"image": image, "annotations": annotations}


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


def _finish(root: Path, split: Split, records: list[dict], *, name: str) -> None:
    """Write the split's JSON file."""
    content = {
        "info": {"description": "Synthetic scenes in COCO's layout", "version": "1", "year": 2017},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
        "images": [record["image"] for record in records],
        "categories": list(COCO_CATEGORIES),
    }
    if name == "unlabeled2017":
        path = root / "coco" / "annotations" / f"image_info_{name}.json"
    else:
        annotations = [item for record in records for item in record["annotations"]]
        for number, annotation in enumerate(annotations):
            annotation["id"] = _FIRST_ID[name] + number
        content["annotations"] = annotations
        path = root / "coco" / "annotations" / f"instances_{name}.json"
    write_bytes(path, json.dumps(content, separators=(",", ":")).encode())
