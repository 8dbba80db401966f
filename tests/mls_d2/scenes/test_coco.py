"""COCO files against the id maps they come from, by slow loops and by Detectron2's loader."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data.datasets.coco import load_coco_json
from pycocotools import mask as mask_util

from mls_d2.scenes import SceneParams, coco
from mls_d2.scenes.generate import picture_of
from mls_d2.scenes.labels import COCO_IDS, KINDS
from mls_d2.scenes.render import Picture


@pytest.fixture(scope="module")
def content(tiny_root: Path) -> dict:
    path = tiny_root / "coco" / "annotations" / "instances_train2017.json"
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def pictures(tiny_params: SceneParams) -> list[Picture]:
    split = coco.splits(tiny_params)[0]
    return [picture_of(tiny_params.seed, split, index) for index in range(split.count)]


def annotations_of(content: dict, index: int) -> list[dict]:
    image_id = content["images"][index]["id"]
    return [item for item in content["annotations"] if item["image_id"] == image_id]


def decode(annotation: dict, shape: tuple[int, int]) -> np.ndarray:
    rles = mask_util.frPyObjects(annotation["segmentation"], *shape)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


def test_masks_are_those_of_the_id_map(content: dict, pictures: list[Picture]):
    total = 0
    for index, picture in enumerate(pictures):
        for annotation in annotations_of(content, index):
            mask = decode(annotation, picture.ids.shape)
            (number,) = np.unique(picture.ids[mask])
            np.testing.assert_array_equal(mask, picture.ids == number)
            assert COCO_IDS[KINDS[picture.kinds[number]].coco] == annotation["category_id"]
            total += 1
    assert total > 15


def test_no_pixel_belongs_to_two_objects(content: dict, pictures: list[Picture]):
    for index, picture in enumerate(pictures):
        masks = [decode(item, picture.ids.shape) for item in annotations_of(content, index)]
        assert np.sum(masks, axis=0).max() <= 1


def test_boxes_and_areas_are_those_of_the_masks(content: dict, pictures: list[Picture]):
    for index, picture in enumerate(pictures):
        for annotation in annotations_of(content, index):
            mask = decode(annotation, picture.ids.shape)
            pixels = [
                (x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]
            ]
            left, right = min(x for x, _ in pixels), max(x for x, _ in pixels)
            top, bottom = min(y for _, y in pixels), max(y for _, y in pixels)
            assert annotation["bbox"] == [left, top, right - left + 1, bottom - top + 1]
            assert annotation["area"] == len(pixels)
            assert annotation["iscrowd"] == 0


def test_everything_that_shows_is_annotated_and_slivers_are_not(
    content: dict, pictures: list[Picture]
):
    for index, picture in enumerate(pictures):
        worth = 0
        for number, kind in enumerate(picture.kinds):
            rows, columns = np.nonzero(picture.ids == number)
            if KINDS[kind].coco is None or len(rows) < coco.MIN_AREA:
                continue
            sides = (np.ptp(columns) + 1, np.ptp(rows) + 1)
            worth += min(sides) >= coco.MIN_SIDE
        assert len(annotations_of(content, index)) == worth


def test_ids_are_unique_over_the_splits(tiny_root: Path):
    images, annotations = [], []
    for name in ("instances_train2017", "instances_val2017", "image_info_unlabeled2017"):
        path = tiny_root / "coco" / "annotations" / f"{name}.json"
        content = json.loads(path.read_text())
        images += [image["id"] for image in content["images"]]
        annotations += [item["id"] for item in content.get("annotations", [])]
    assert len(images) == len(set(images)) == 5 + 2 + 2
    assert len(annotations) == len(set(annotations))


def test_jpegs_show_the_scenes(tiny_root: Path, content: dict, pictures: list[Picture]):
    for image, picture in zip(content["images"], pictures, strict=True):
        pixels = cv2.imread(str(tiny_root / "coco" / "train2017" / image["file_name"]))[..., ::-1]
        assert pixels.shape == (image["height"], image["width"], 3) == (64, 96, 3)
        # JPEG loses a few grey levels, but no channel is swapped and nothing is shifted.
        assert np.abs(pixels.astype(int) - picture.image).mean() < 6


def test_unlabeled_images_are_listed_without_annotations(tiny_root: Path):
    path = tiny_root / "coco" / "annotations" / "image_info_unlabeled2017.json"
    content = json.loads(path.read_text())
    assert "annotations" not in content
    folder = tiny_root / "coco" / "unlabeled2017"
    names = sorted(image["file_name"] for image in content["images"])
    assert names == sorted(path.name for path in folder.iterdir())


def test_detectron2_loads_it(tiny_root: Path, content: dict):
    path = tiny_root / "coco" / "annotations" / "instances_train2017.json"
    folder = tiny_root / "coco" / "train2017"
    dicts = load_coco_json(str(path), str(folder), "coco_2017_train")
    assert len(dicts) == 5
    assert sum(len(item["annotations"]) for item in dicts) == len(content["annotations"])
    assert all(Path(item["file_name"]).is_file() for item in dicts)
