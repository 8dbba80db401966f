"""Writing street scenes as Cityscapes: leftImg8bit and gtFine.

As in the original, polygons are drawn one over the other in their order, in pixel indices, and go
on behind what hides them; the id images say what is visible, pixel by pixel.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from mls_d2.scenes.files import write_bytes, write_png
from mls_d2.scenes.labels import CITYSCAPES_IDS, KINDS
from mls_d2.scenes.marker import SceneParams
from mls_d2.scenes.render import Picture
from mls_d2.scenes.split import Split

_CITIES = {"train": ("sceneton", "scenebury"), "val": ("sceneport",)}


def splits(params: SceneParams) -> list[Split]:
    """Return the splits that are asked for: train, and val with a fifth as many images."""
    if not params.cityscapes:
        return []
    height = params.size[1]
    counts = {"train": params.cityscapes, "val": max(1, params.cityscapes // 5)}
    return [
        Split(
            name=f"cityscapes/{name}",
            stream=20 + number,
            count=count,
            size=(2 * height, height),
            folders=tuple(
                f"cityscapes/{part}/{name}/{city}"
                for part in ("leftImg8bit", "gtFine")
                for city in _cities(name, count)
            ),
            save=partial(_save, name=name),
            finish=_finish,
            kind="street",
            full_masks=True,
        )
        for number, (name, count) in enumerate(counts.items())
    ]


def _cities(name: str, count: int) -> tuple[str, ...]:
    return _CITIES[name][:count]


def _save(root: Path, split: Split, index: int, picture: Picture, *, name: str) -> dict:
    cities = _cities(name, split.count)
    city = cities[index % len(cities)]
    stem = f"{city}_{index // len(cities):06d}_000019"
    folder = root / "cityscapes"
    label_ids, train_ids, instance_ids = id_images(picture)
    truth = folder / "gtFine" / name / city
    write_png(truth / f"{stem}_gtFine_labelIds.png", label_ids)
    write_png(truth / f"{stem}_gtFine_labelTrainIds.png", train_ids)
    write_png(truth / f"{stem}_gtFine_instanceIds.png", instance_ids)
    height, width = picture.ids.shape
    content = {"imgHeight": height, "imgWidth": width, "objects": polygons(picture)}
    write_bytes(truth / f"{stem}_gtFine_polygons.json", json.dumps(content).encode())
    write_png(folder / "leftImg8bit" / name / city / f"{stem}_leftImg8bit.png", picture.image)
    return {}


def _finish(root: Path, split: Split, records: list[dict]) -> None:
    """Nothing lists Cityscapes' images: the folders do."""


def id_images(picture: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what each pixel shows.

    Returns:
        Label ids and train ids ``(H, W)`` uint8, and instance ids ``(H, W)`` uint16: ``id * 1000 +
        n`` for the n-th instance of a label that has instances, else the label id.
    """
    label_ids = np.zeros(len(picture.kinds), np.uint8)
    train_ids = np.zeros(len(picture.kinds), np.uint8)
    instance_ids = np.zeros(len(picture.kinds), np.uint16)
    counts: dict[int, int] = {}
    visible = set(np.unique(picture.ids).tolist())
    for number, kind in enumerate(picture.kinds):
        label, train, has_instances = CITYSCAPES_IDS[KINDS[kind].cityscapes]
        label_ids[number], train_ids[number], instance_ids[number] = label, train, label
        if has_instances and number in visible:
            instance_ids[number] = label * 1000 + counts.get(label, 0)
            counts[label] = counts.get(label, 0) + 1
    return label_ids[picture.ids], train_ids[picture.ids], instance_ids[picture.ids]


def polygons(picture: Picture) -> list[dict]:
    """Return the ``objects`` of a polygons file, in the order in which they are drawn.

    Of an object in several pieces the largest piece counts; sky and ground have a polygon for each
    piece.
    """
    objects = []
    visible = set(np.unique(picture.ids).tolist())
    for number, (kind, mask) in enumerate(zip(picture.kinds, picture.full_masks, strict=True)):
        if number not in visible:
            continue
        found, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        contours = sorted((c for c in found if len(c) >= 3), key=cv2.contourArea, reverse=True)
        is_object = picture.extents[number] is not None
        for contour in contours[:1] if is_object else contours:
            corners = [[int(x), int(y)] for x, y in contour[:, 0]]
            objects.append({"label": KINDS[kind].cityscapes, "polygon": corners})
    return objects
