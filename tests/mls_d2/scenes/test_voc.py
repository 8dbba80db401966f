"""VOC files: flags by hand-made pictures, boxes by slow loops, lists by reading the XML again."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets.pascal_voc import CLASS_NAMES, load_voc_instances

from mls_d2.scenes import SceneParams
from mls_d2.scenes.generate import picture_of
from mls_d2.scenes.render import Picture
from mls_d2.scenes.voc import splits, voc_objects


def picture_with(
    box: tuple[int, int, int, int], extent: tuple[float, float, float, float]
) -> Picture:
    """A 100 x 100 picture of a car that shows in ``box`` and would fill ``extent``."""
    ids = np.zeros((100, 100), np.uint16)
    x0, y0, x1, y1 = box
    ids[y0:y1, x0:x1] = 1
    return Picture(np.zeros((100, 100, 3), np.uint8), ids, ("sky", "car"), (None, extent))


@pytest.mark.parametrize(
    ("box", "extent", "truncated", "difficult"),
    [
        ((20, 30, 60, 50), (20, 30, 60, 50), False, False),  # all of it shows
        ((0, 30, 40, 50), (-40, 30, 40, 50), True, False),  # half of it is out of the image
        ((20, 30, 30, 50), (20, 30, 60, 50), True, False),  # a quarter shows, just enough
        ((20, 30, 28, 50), (20, 30, 60, 50), True, True),  # less than a quarter shows
        ((20, 30, 26, 36), (20, 30, 26, 36), False, True),  # whole, but tiny
    ],
)
def test_flags(box, extent, truncated: bool, difficult: bool):
    (item,) = voc_objects(picture_with(box, extent))
    assert (item["truncated"], item["difficult"]) == (truncated, difficult)


def test_boxes_are_one_based_and_inclusive():
    (item,) = voc_objects(picture_with((0, 30, 40, 100), (0, 30, 40, 100)))
    assert item["box"] == (1, 31, 40, 100)


def test_kinds_without_a_voc_class_are_left_out():
    picture = picture_with((20, 30, 60, 50), (20, 30, 60, 50))
    truck = Picture(picture.image, picture.ids, ("sky", "truck"), picture.extents)
    assert voc_objects(truck) == []


def stems(root: Path, year: str, name: str) -> list[str]:
    return (root / year / "ImageSets" / "Main" / f"{name}.txt").read_text().split()


def test_image_sets(tiny_root: Path):
    trainval = stems(tiny_root, "VOC2007", "trainval")
    train, val = stems(tiny_root, "VOC2007", "train"), stems(tiny_root, "VOC2007", "val")
    assert sorted(train + val) == trainval
    assert (len(train), len(val)) == (2, 2)
    test = stems(tiny_root, "VOC2007", "test")
    assert len(test) == 4
    assert not set(test) & set(trainval)
    assert len(stems(tiny_root, "VOC2012", "trainval")) == 4
    for year, names in (
        ("VOC2007", trainval + test),
        ("VOC2012", stems(tiny_root, "VOC2012", "trainval")),
    ):
        assert sorted(p.stem for p in (tiny_root / year / "JPEGImages").iterdir()) == sorted(names)
        assert sorted(p.stem for p in (tiny_root / year / "Annotations").iterdir()) == sorted(names)


def test_class_lists_say_what_the_annotations_say(tiny_root: Path):
    seen = set()
    for label in CLASS_NAMES:
        path = tiny_root / "VOC2007" / "ImageSets" / "Main" / f"{label}_trainval.txt"
        for line in path.read_text().splitlines():
            stem, flag = line.split()
            tree = ET.parse(tiny_root / "VOC2007" / "Annotations" / f"{stem}.xml")
            objects = [o for o in tree.findall("object") if o.findtext("name") == label]
            easy = [o for o in objects if o.findtext("difficult") == "0"]
            assert int(flag) == (1 if easy else 0 if objects else -1)
            seen.add(flag)
    assert {"1", "-1"} <= seen


def test_detectron2_loads_the_boxes_of_the_id_maps(tiny_root: Path, tiny_params: SceneParams):
    split = splits(tiny_params)[0]
    dicts = load_voc_instances(str(tiny_root / "VOC2007"), "trainval", CLASS_NAMES)
    assert len(dicts) == 4
    assert sum(len(item["annotations"]) for item in dicts) > 5
    for index, item in enumerate(dicts):
        picture = picture_of(tiny_params.seed, split, index)
        boxes = set()
        for number in np.unique(picture.ids):
            rows, columns = np.nonzero(picture.ids == number)
            boxes.add((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        assert {tuple(int(v) for v in a["bbox"]) for a in item["annotations"]} <= boxes
        assert (item["height"], item["width"]) == (64, 96)
