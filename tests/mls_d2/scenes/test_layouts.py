"""Files against the id maps they come from, by slow loops and by the datasets' own loaders."""

import inspect
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.helpers.labels import name2label
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES as D2_CATEGORIES
from detectron2.data.datasets.cityscapes import load_cityscapes_instances, load_cityscapes_semantic
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.pascal_voc import CLASS_NAMES, load_voc_instances
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from mls_d2.scenes import layouts
from mls_d2.scenes.layouts import COCO_IDS, KINDS, VOC_CLASSES
from mls_d2.scenes.render import Picture

Pictures = dict[str, list[Picture]]


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def decode(polygons: list[list[float]], shape: tuple[int, ...]) -> np.ndarray:
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, *shape))).astype(bool)


def shoelace(polygon: list[float]) -> float:
    x, y = np.array(polygon).reshape(-1, 2).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def test_label_spaces_are_those_of_detectron2_and_cityscapesscripts():
    expected = [(c["id"], c["name"]) for c in D2_CATEGORIES if c["isthing"]]
    assert [(c["id"], c["name"]) for c in layouts.COCO_CATEGORIES] == expected
    groups: dict[str, list[int]] = {}
    for category in layouts.COCO_CATEGORIES:
        groups.setdefault(category["supercategory"], []).append(category["id"])
    # Their ids in instances_val2017.json: each group is one range.
    assert {name: (min(ids), max(ids)) for name, ids in groups.items()} == {
        "person": (1, 1), "vehicle": (2, 9), "outdoor": (10, 15), "animal": (16, 25),
        "accessory": (27, 33), "sports": (34, 43), "kitchen": (44, 51), "food": (52, 61),
        "furniture": (62, 70), "electronic": (72, 77), "appliance": (78, 82), "indoor": (84, 90),
    }  # fmt: skip
    assert VOC_CLASSES == CLASS_NAMES
    for coco, voc, cityscapes in KINDS.values():
        assert coco in (None, *COCO_IDS)
        assert voc in (None, *VOC_CLASSES)
        assert cityscapes in name2label


def test_the_polygon_of_a_pixel_and_of_nothing():
    mask = np.zeros((7, 9), bool)
    assert layouts.mask_polygons(mask) == []
    mask[5, 2] = True
    (polygon,) = layouts.mask_polygons(mask)
    assert {tuple(c) for c in np.reshape(polygon, (-1, 2))} == {(2, 5), (3, 5), (3, 6), (2, 6)}
    mask[2:7, 2:8] = True
    assert len(layouts.mask_polygons(mask)[0]) == 8  # straight edges have no corners within


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_polygons_of_noise_decode_to_the_mask(density: float):
    # Noise has holes in holes, corners that touch, and pixels at all four borders.
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((13, 17)) < density
        mask[0, 0] = True
        polygons = layouts.mask_polygons(mask)
        np.testing.assert_array_equal(decode(polygons, mask.shape), mask)
        assert abs(sum(map(shoelace, polygons))) == mask.sum()


def test_coco_annotations_are_exactly_what_shows(tiny_root: Path, pictures: Pictures):
    coco = COCO(str(tiny_root / "coco" / "annotations" / "instances_train2017.json"))
    total = 0
    for image_id, picture in zip(coco.getImgIds(), pictures["coco/train2017"], strict=True):
        expected, found = {}, {}
        for number, kind in enumerate(picture.kinds):
            pixels = [(x, y) for y, x in zip(*np.nonzero(picture.ids == number), strict=True)]
            columns, rows = zip(*pixels, strict=True) if pixels else ((0,), (0,))
            box = (min(columns), min(rows), np.ptp(columns) + 1, np.ptp(rows) + 1)
            if (
                KINDS[kind][0]
                and len(pixels) >= layouts.MIN_AREA
                and min(box[2:]) >= layouts.MIN_SIDE
            ):
                expected[number] = (COCO_IDS[KINDS[kind][0]], box, len(pixels), 0)
        for item in coco.loadAnns(coco.getAnnIds(image_id)):
            mask = coco.annToMask(item).astype(bool)
            (number,) = np.unique(picture.ids[mask])
            np.testing.assert_array_equal(mask, picture.ids == number)
            label = (item["category_id"], tuple(item["bbox"]), item["area"], item["iscrowd"])
            found[int(number)] = label
        assert found == expected
        total += len(found)
    assert total > 10


def test_coco_ids_are_unique_and_unlabeled_images_have_no_annotations(tiny_root: Path):
    images, annotations = [], []
    for name in ("instances_train2017", "instances_val2017", "image_info_unlabeled2017"):
        content = json.loads((tiny_root / "coco" / "annotations" / f"{name}.json").read_text())
        assert ("annotations" in content) == name.startswith("instances")
        images += [image["id"] for image in content["images"]]
        annotations += [item["id"] for item in content.get("annotations", [])]
        files = (tiny_root / "coco" / name.rpartition("_")[2]).iterdir()
        assert sorted(i["file_name"] for i in content["images"]) == sorted(p.name for p in files)
    assert len(images) == len(set(images)) == 5 + 2 + 2
    assert len(annotations) == len(set(annotations)) > 0


def test_detectron2_loads_coco_and_jpegs_show_the_scenes(tiny_root: Path, pictures: Pictures):
    folder = tiny_root / "coco"
    path = folder / "annotations" / "instances_train2017.json"
    dicts = load_coco_json(str(path), str(folder / "train2017"), "coco_2017_train")
    for item, picture in zip(dicts, pictures["coco/train2017"], strict=True):
        pixels = cv2.imread(item["file_name"])[..., ::-1]
        assert pixels.shape == (item["height"], item["width"], 3) == (64, 96, 3)
        # JPEG loses a few grey levels, but no channel is swapped and nothing is shifted.
        assert np.abs(pixels.astype(int) - picture.image).mean() < 6


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
def test_voc_boxes_and_flags(box, extent, truncated: bool, difficult: bool):
    ids, (x0, y0, x1, y1) = np.zeros((100, 100), np.uint16), box
    ids[y0:y1, x0:x1] = 1
    image = np.zeros((100, 100, 3), np.uint8)
    (item,) = layouts.voc_objects(Picture(image, ids, ("sky", "car"), (None, extent)))
    assert (item["truncated"], item["difficult"]) == (truncated, difficult)
    assert item["box"] == (x0 + 1, y0 + 1, x1, y1)  # 1-based, both ends inside
    assert layouts.voc_objects(Picture(image, ids, ("sky", "truck"), (None, extent))) == []


def stems(root: Path, year: str, name: str) -> list[str]:
    return (root / year / "ImageSets" / "Main" / f"{name}.txt").read_text().split()


def test_voc_lists_agree_with_the_files(tiny_root: Path):
    sets = {(y, n): stems(tiny_root, y, n) for y, n, _ in layouts._VOC_SETS}
    train, val = (stems(tiny_root, "VOC2007", name) for name in ("train", "val"))
    assert sorted(train + val) == sets["VOC2007", "trainval"]
    assert (len(train), len(val)) == (2, 2)
    later = sets.pop(("VOC2012", "trainval"))
    earlier = [stem for names in sets.values() for stem in names]
    assert len(set(earlier)) == 8
    for year, names in (("VOC2007", earlier), ("VOC2012", later)):
        for folder in ("JPEGImages", "Annotations"):
            assert sorted(p.stem for p in (tiny_root / year / folder).iterdir()) == sorted(names)
    seen = set()
    for label in CLASS_NAMES:
        path = tiny_root / "VOC2007" / "ImageSets" / "Main" / f"{label}_trainval.txt"
        for stem, flag in map(str.split, path.read_text().splitlines()):
            tree = ET.parse(tiny_root / "VOC2007" / "Annotations" / f"{stem}.xml")
            objects = [o for o in tree.findall("object") if o.findtext("name") == label]
            easy = [o for o in objects if o.findtext("difficult") == "0"]
            assert int(flag) == (1 if easy else 0 if objects else -1)
            seen.add(flag)
    assert {"1", "-1"} <= seen


def test_detectron2_loads_the_voc_boxes_of_the_id_maps(tiny_root: Path, pictures: Pictures):
    dicts = load_voc_instances(str(tiny_root / "VOC2007"), "trainval", CLASS_NAMES)
    assert sum(len(item["annotations"]) for item in dicts) > 5
    for item, picture in zip(dicts, pictures["VOC2007/trainval"], strict=True):
        boxes = set()
        for number in np.unique(picture.ids):
            rows, columns = np.nonzero(picture.ids == number)
            boxes.add((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        assert {tuple(int(v) for v in a["bbox"]) for a in item["annotations"]} <= boxes
        assert (item["height"], item["width"]) == (64, 96)


def truth_files(root: Path, kind: str) -> list[Path]:
    """The files of train in the order of the images: two cities take turns."""
    files = (root / "cityscapes" / "gtFine" / "train").glob(f"*/*_gtFine_{kind}")
    cities = ("sceneton", "scenebury")
    return sorted(files, key=lambda path: (path.name.split("_")[1], cities.index(path.parent.name)))


def test_cityscapes_id_images(tiny_root: Path, pictures: Pictures):
    kinds, counted = ("labelIds.png", "labelTrainIds.png", "instanceIds.png"), 0
    for index, picture in enumerate(pictures["cityscapes/train"]):
        paths = [truth_files(tiny_root, kind)[index] for kind in kinds]
        shown = (
            str(paths[0]).replace("gtFine_labelIds", "leftImg8bit").replace("gtFine", "leftImg8bit")
        )
        np.testing.assert_array_equal(read(Path(shown)), picture.image)
        pixels = np.stack([picture.ids, *map(read, paths)]).reshape(4, -1).T
        of_object = {number: rest for number, *rest in pixels.tolist()}
        counts: dict[int, int] = {}
        for number in sorted(of_object):
            found = name2label[KINDS[picture.kinds[number]][2]]
            label, train, has_instances = found.id, found.trainId, found.hasInstances
            instance = 1000 * label + counts.get(label, 0) if has_instances else label
            counts[label] = counts.get(label, 0) + 1
            counted += has_instances
            assert of_object[number] == [label, train, instance]
        assert len(np.unique(pixels, axis=0)) == len(of_object)
    assert counted > 5


def test_cityscapesscripts_draws_the_polygons_into_the_same_labels(tiny_root: Path):
    for polygons in truth_files(tiny_root, "polygons.json"):
        annotation = Annotation()
        annotation.fromJsonFile(str(polygons))
        drawn = np.array(createLabelImage(annotation, "ids"))
        expected = read(Path(str(polygons).replace("polygons.json", "labelIds.png")))
        # Gaps between legs are filled, as by those who drew the real ones.
        assert (drawn == expected).mean() > 0.97


@pytest.mark.skipif(
    "deeplearning" in inspect.getsource(inspect.getmodule(load_cityscapes_instances)),
    reason="this Detectron2 (main, 02b5c4e) imports a module of Meta's own to read polygons",
)
def test_detectron2_loads_cityscapes(tiny_root: Path):
    folder = tiny_root / "cityscapes"
    paths = str(folder / "leftImg8bit" / "train"), str(folder / "gtFine" / "train")
    dicts = load_cityscapes_semantic(*paths)
    assert len(dicts) == 4
    for item in dicts:
        assert (item["height"], item["width"]) == (64, 128)
        assert set(np.unique(read(item["sem_seg_file_name"])).tolist()) <= {*range(19), 255}
    outlined, drawn = (load_cityscapes_instances(*paths, from_json=json) for json in (True, False))
    truth = {item["file_name"]: item["annotations"] for item in drawn}
    assert sum(map(len, truth.values())) > 0
    for item in outlined:
        for category in range(8):
            boxes, wanted = (
                sorted(tuple(a["bbox"]) for a in items if a["category_id"] == category)
                for items in (item["annotations"], truth[item["file_name"]])
            )
            # Of what is drawn, Detectron2 leaves out what is a single pixel wide or high.
            boxes = [box for box in boxes if min(box[2] - box[0], box[3] - box[1]) > 1]
            np.testing.assert_allclose(boxes, wanted, atol=3)
