"""Cityscapes files against the id maps, cityscapesscripts' own drawing and Detectron2's loaders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from detectron2.data.datasets.cityscapes import (
    load_cityscapes_instances,
    load_cityscapes_semantic,
)
from PIL import Image

from mls_d2.scenes import SceneParams
from mls_d2.scenes.cityscapes import id_images, splits
from mls_d2.scenes.generate import picture_of
from mls_d2.scenes.labels import CITYSCAPES_IDS, KINDS
from mls_d2.scenes.render import Picture


@pytest.fixture(scope="module")
def pictures(tiny_params: SceneParams) -> list[Picture]:
    split = splits(tiny_params)[0]
    return [picture_of(tiny_params.seed, split, index) for index in range(split.count)]


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def truth_files(root: Path, kind: str) -> list[Path]:
    """The files of train in the order of the images: two cities take turns."""
    folder = root / "cityscapes" / "gtFine" / "train"
    files = folder.glob(f"*/*_gtFine_{kind}")
    cities = ("sceneton", "scenebury")
    return sorted(files, key=lambda path: (path.name.split("_")[1], cities.index(path.parent.name)))


def test_ids_are_those_of_what_each_pixel_shows(pictures: list[Picture]):
    picture = pictures[0]
    label_ids, train_ids, instance_ids = id_images(picture)
    of_object: dict[int, int] = {}
    for y in range(picture.ids.shape[0]):
        for x in range(picture.ids.shape[1]):
            number = int(picture.ids[y, x])
            name = KINDS[picture.kinds[number]].cityscapes
            label, train, has_instances = CITYSCAPES_IDS[name]
            assert (label_ids[y, x], train_ids[y, x]) == (label, train)
            assert instance_ids[y, x] // 1000 == (label if has_instances else 0)
            assert of_object.setdefault(number, instance_ids[y, x]) == instance_ids[y, x]
    with_instances = [i for i in of_object.values() if i >= 1000]
    assert len(set(with_instances)) == len(with_instances) > 0


def test_instances_of_a_label_are_counted_from_zero(pictures: list[Picture]):
    for picture in pictures:
        instances = np.unique(id_images(picture)[2])
        for label in {int(i) // 1000 for i in instances if i >= 1000}:
            counts = sorted(int(i) % 1000 for i in instances if i // 1000 == label)
            assert counts == list(range(len(counts)))


def test_files_hold_the_id_images(tiny_root: Path, pictures: list[Picture]):
    kinds = ("labelIds.png", "labelTrainIds.png", "instanceIds.png")
    for position, kind in enumerate(kinds):
        files = truth_files(tiny_root, kind)
        assert len(files) == len(pictures) == 6
        for path, picture in zip(files, pictures, strict=True):
            expected = id_images(picture)[position]
            found = read(path)
            np.testing.assert_array_equal(found, expected)
            assert found.shape == (64, 128)


def test_images_lie_beside_their_truth(tiny_root: Path, pictures: list[Picture]):
    for path, picture in zip(truth_files(tiny_root, "labelIds.png"), pictures, strict=True):
        name = path.name.replace("gtFine_labelIds", "leftImg8bit")
        folder = tiny_root / "cityscapes" / "leftImg8bit" / "train" / path.parent.name
        np.testing.assert_array_equal(read(folder / name), picture.image)


def test_cityscapesscripts_draws_the_polygons_into_the_same_labels(tiny_root: Path):
    for polygons in truth_files(tiny_root, "polygons.json"):
        annotation = Annotation()
        annotation.fromJsonFile(str(polygons))
        drawn = np.array(createLabelImage(annotation, "ids"))
        expected = read(Path(str(polygons).replace("polygons.json", "labelIds.png")))
        # Gaps in fences and between legs are filled, as by those who drew the real ones.
        assert (drawn == expected).mean() > 0.97


def test_polygons_go_on_behind_what_hides_them(tiny_root: Path):
    # A hidden stretch is why an object in two visible pieces still is one polygon.
    names = [
        item["label"]
        for path in truth_files(tiny_root, "polygons.json")
        for item in json.loads(path.read_text())["objects"]
    ]
    instances = [np.unique(read(path)) for path in truth_files(tiny_root, "instanceIds.png")]
    for name in ("car", "person", "bus"):
        label = CITYSCAPES_IDS[name][0]
        visible = sum(int((ids // 1000 == label).sum()) for ids in instances)
        assert 0 < names.count(name) <= visible


def test_detectron2_loads_it(tiny_root: Path):
    folder = tiny_root / "cityscapes"
    dicts = load_cityscapes_semantic(
        str(folder / "leftImg8bit" / "train"), str(folder / "gtFine" / "train")
    )
    assert len(dicts) == 6
    for item in dicts:
        assert (item["height"], item["width"]) == (64, 128)
        values = set(np.unique(read(Path(item["sem_seg_file_name"]))).tolist())
        assert values <= {*range(19), 255}


def test_detectron2_loads_the_instances(tiny_root: Path):
    folder = tiny_root / "cityscapes"
    paths = str(folder / "leftImg8bit" / "train"), str(folder / "gtFine" / "train")
    drawn = load_cityscapes_instances(*paths, from_json=False)
    outlined = load_cityscapes_instances(*paths, from_json=True)
    truth = {item["file_name"]: item["annotations"] for item in drawn}
    assert sum(map(len, truth.values())) > 0
    for item in outlined:
        for category in range(8):
            shown = [a for a in truth[item["file_name"]] if a["category_id"] == category]
            # Of what is drawn, Detectron2 leaves out what is a single pixel wide or high.
            found = [
                a
                for a in item["annotations"]
                if a["category_id"] == category
                and min(np.subtract(a["bbox"][2:], a["bbox"][:2])) > 1
            ]
            assert len(found) == len(shown)
            boxes, wanted = (
                sorted(tuple(a["bbox"]) for a in found),
                [tuple(a["bbox"]) for a in shown],
            )
            np.testing.assert_allclose(boxes, sorted(wanted), atol=3)
