"""How scenes are written in the layouts of COCO, PASCAL VOC and Cityscapes, with their labels.

COCO boxes are tight around visible pixels; VOC's are 1-based pixel indices, both ends inside;
polygons of Cityscapes continue behind what hides them, its id images hold what is visible.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import yaml
from cityscapesscripts.helpers.labels import name2label

from mls_d2.core.files import write_bytes, write_image
from mls_d2.scenes.marker import SceneParams
from mls_d2.scenes.render import Picture

# Visible pixels, and pixels of the box's shorter side, below which nothing is annotated.
MIN_AREA, MIN_SIDE = 16, 3
# Visible share of the full box below which a VOC object is truncated, and difficult.
TRUNCATED_BELOW, DIFFICULT_SHARE = 0.85, 0.25
# Share of the image's height below which the box's longer side makes a VOC object difficult.
DIFFICULT_SIDE = 1 / 13

_LABELS = yaml.safe_load(Path(__file__).with_name("labels.yaml").read_text(encoding="utf-8"))
# Per kind the COCO category, the VOC class (None if there is none) and the Cityscapes label.
KINDS: dict[str, tuple[str | None, str | None, str]] = _LABELS["kinds"]
_NAMES = [(group, name) for group, names in _LABELS["coco"].items() for name in names]
COCO_IDS = {name: number for number, (_, name) in enumerate(_NAMES, start=1) if name}
COCO_CATEGORIES = [
    {"supercategory": group, "id": COCO_IDS[name], "name": name} for group, name in _NAMES if name
]
VOC_CLASSES = tuple(_LABELS["voc"])

_FIRST_ID = {"train2017": 1, "val2017": 1_000_001, "unlabeled2017": 2_000_001}
_VOC_SETS = (("VOC2007", "trainval", 10), ("VOC2007", "test", 11), ("VOC2012", "trainval", 12))
_VOC_HEAD = """<annotation>
\t<folder>{year}</folder>
\t<filename>{stem}.jpg</filename>
\t<segmented>0</segmented>
\t<source><database>Synthetic scenes</database></source>
\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
"""
_VOC_OBJECT = """\t<object>
\t\t<name>{name}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>{truncated:d}</truncated>
\t\t<difficult>{difficult:d}</difficult>
\t\t<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
\t</object>
"""
_CITIES = {"train": ("sceneton", "scenebury"), "val": ("sceneport",)}


@dataclass(frozen=True, slots=True)
class Split:
    """A split of a dataset."""

    name: str  # in the marker and in the progress bar
    stream: int  # of random numbers; splits with different numbers share no scene
    count: int  # of images
    size: tuple[int, int]  # (width, height) of an image in pixels
    folders: list[str]  # of its files, relative to the root
    # save(root, index, picture) writes one image with its own files and returns a record, in any
    # order and process; finish(root, records) writes the lists of all images.
    save: Callable[[Path, int, Picture], dict]
    finish: Callable[[Path, list[dict]], None] | None
    scene: str | None = None  # type of all its scenes; None: all types
    full_masks: bool = False  # whether ``save`` needs the masks without occlusion


def all_splits(params: SceneParams) -> list[Split]:
    """Return the splits that the parameters ask for, in the order in which they are written."""
    splits, size, high = [], params.size, params.size[1]
    counts = (params.train, params.val, params.unlabeled)
    for stream, (name, count) in enumerate(zip(_FIRST_ID, counts, strict=True)):
        save, finish = partial(_save_coco, name=name), partial(_finish_coco, name=name)
        folders = [f"coco/{name}", "coco/annotations"]
        splits.append(Split(f"coco/{name}", stream, count, size, folders, save, finish))
    for year, name, stream in _VOC_SETS:
        folders = [f"{year}/{part}" for part in ("JPEGImages", "Annotations", "ImageSets/Main")]
        save = partial(_save_voc, year=year, first=1 + (params.voc if name == "test" else 0))
        finish = partial(_finish_voc, year=year, name=name)
        splits.append(Split(f"{year}/{name}", stream, params.voc, size, folders, save, finish))
    few = min(params.cityscapes, max(1, params.cityscapes // 5))
    for stream, (name, count) in enumerate((("train", params.cityscapes), ("val", few)), 20):
        cities, parts = _CITIES[name][:count], ("leftImg8bit", "gtFine")
        folders = [f"cityscapes/{part}/{name}/{city}" for part in parts for city in cities]
        save, name = partial(_save_cityscapes, name=name, cities=cities), f"cityscapes/{name}"
        split = Split(name, stream, count, (2 * high, high), folders, save, None, "street", True)
        splits.append(split)
    return [split for split in splits if split.count]


def visible_things(picture: Picture) -> list[tuple[int, np.ndarray, tuple[int, int, int, int]]]:
    """Return what is annotated: ids, visible masks ``(H, W)`` bool and tight boxes (x, y, w, h)."""
    things = []
    for number in np.unique(picture.ids).tolist():
        if KINDS[picture.kinds[number]][0] is None:
            continue
        mask = picture.ids == number
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        if int(mask.sum()) >= MIN_AREA and min(w, h) >= MIN_SIDE:
            things.append((number, mask, (x, y, w, h)))
    return things


def mask_polygons(mask: np.ndarray) -> list[list[float]]:
    """Return polygons (x0, y0, x1, y1, …) that cover exactly the pixels of a mask ``(H, W)`` bool.

    Their corners are the pixels' corners: one pixel in column 2 and row 5 lies between (2, 5) and
    (3, 6). Since COCO's polygons cannot have holes, a region with a hole is cut in two.
    """
    # With two samples per pixel, border samples 2x and 2x + 1 belong to the corners x and x + 1.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, links = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour, link in zip(contours, links[0] if contours else (), strict=True):
        if link[3] >= 0:  # a hole
            cut = int(contour[:, 0, 0].min() + contour[:, 0, 0].max()) // 4
            left = np.arange(mask.shape[1]) < cut
            return mask_polygons(mask & left) + mask_polygons(mask & ~left)
        corners = (contour[:, 0] + 1) // 2
        kept = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
        polygons.append(kept.ravel().astype(float).tolist())
    return polygons


def _save_coco(root: Path, index: int, picture: Picture, *, name: str) -> dict:
    """Write one image and return its records as in COCO's files, the annotations without ids."""
    image_id = _FIRST_ID[name] + index
    file_name = f"{image_id:012d}.jpg"
    write_image(root / "coco" / name / file_name, picture.image)
    height, width = picture.ids.shape
    image = {"id": image_id, "file_name": file_name, "height": height, "width": width, "license": 1}
    annotations = [
        {
            "image_id": image_id,
            "category_id": COCO_IDS[str(KINDS[picture.kinds[number]][0])],
            "segmentation": mask_polygons(mask),
            "bbox": [float(value) for value in box],
            "area": float(mask.sum()),
            "iscrowd": 0,
        }
        for number, mask, box in (visible_things(picture) if name != "unlabeled2017" else ())
    ]
    return {"image": image, "annotations": annotations}


def _finish_coco(root: Path, records: list[dict], *, name: str) -> None:
    content = {
        "info": {"description": "Synthetic scenes in COCO's layout", "version": "1", "year": 2017},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
        "images": [record["image"] for record in records],
        "categories": COCO_CATEGORIES,
    }
    stem = "image_info" if name == "unlabeled2017" else "instances"
    if stem == "instances":
        found = (item for record in records for item in record["annotations"])
        numbered = enumerate(found, _FIRST_ID[name])
        content["annotations"] = [{**item, "id": number} for number, item in numbered]
    path = root / "coco" / "annotations" / f"{stem}_{name}.json"
    write_bytes(path, json.dumps(content, separators=(",", ":")).encode())


def _save_voc(root: Path, index: int, picture: Picture, *, year: str, first: int) -> dict:
    number = index + first
    stem = f"{number:06d}" if year == "VOC2007" else f"2012_{number:06d}"
    write_image(root / year / "JPEGImages" / f"{stem}.jpg", picture.image)
    objects, (height, width) = voc_objects(picture), picture.ids.shape
    head = _VOC_HEAD.format(year=year, stem=stem, width=width, height=height)
    text = head + "".join(_VOC_OBJECT.format(**item) for item in objects) + "</annotation>\n"
    write_bytes(root / year / "Annotations" / f"{stem}.xml", text.encode())
    clear = {item["name"] for item in objects if not item["difficult"]}
    return {"stem": stem, "clear": clear, "there": {item["name"] for item in objects}}


def voc_objects(picture: Picture) -> list[dict]:
    """Return ``{"name", "box", "truncated", "difficult"}`` of each annotated object.

    Truncated: a fair share of the full box is hidden or outside; difficult: hardly any is visible.
    """
    objects = []
    for number, _, (x, y, w, h) in visible_things(picture):
        name, extent = KINDS[picture.kinds[number]][1], picture.extents[number]
        if name is None or extent is None:
            continue
        x0, y0, x1, y1 = extent
        share = w * h / max((x1 - x0) * (y1 - y0), 1.0)
        small = max(w, h) < DIFFICULT_SIDE * picture.ids.shape[0]
        hard = small or share < DIFFICULT_SHARE
        item = {"name": name, "box": (x + 1, y + 1, x + w, y + h)}
        objects.append({**item, "truncated": share < TRUNCATED_BELOW, "difficult": hard})
    return objects


def _finish_voc(root: Path, records: list[dict], *, year: str, name: str) -> None:
    """List the images, and per class whether it is there (1), hardly (0) or not (-1)."""
    sets = {name: records}
    if name == "trainval":
        sets |= {"train": records[::2], "val": records[1::2]}
    for set_name, chosen in sets.items():
        lists = {set_name: [record["stem"] for record in chosen]}
        for label in VOC_CLASSES:
            flags = [(label in r["there"]) + (label in r["clear"]) - 1 for r in chosen]
            rows = zip(chosen, flags, strict=True)
            lists[f"{label}_{set_name}"] = [f"{r['stem']} {flag:2d}" for r, flag in rows]
        for stem, lines in lists.items():
            text = "".join(line + "\n" for line in lines)
            write_bytes(root / year / "ImageSets" / "Main" / f"{stem}.txt", text.encode())


def _save_cityscapes(
    root: Path, index: int, picture: Picture, *, name: str, cities: tuple[str, ...]
) -> dict:
    city = cities[index % len(cities)]
    stem = f"{city}_{index // len(cities):06d}_000019"
    truth = root / "cityscapes" / "gtFine" / name / city / f"{stem}_gtFine"
    kinds = ("labelIds", "labelTrainIds", "instanceIds")
    for kind, ids in zip(kinds, id_images(picture), strict=True):
        write_image(f"{truth}_{kind}.png", ids)
    height, width = picture.ids.shape
    content = {"imgHeight": height, "imgWidth": width, "objects": _city_polygons(picture)}
    write_bytes(f"{truth}_polygons.json", json.dumps(content).encode())
    folder = root / "cityscapes" / "leftImg8bit" / name / city
    write_image(folder / f"{stem}_leftImg8bit.png", picture.image)
    return {}


def id_images(picture: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return label ids and train ids ``(H, W)`` uint8, and instance ids ``(H, W)`` uint16.

    An instance is ``id * 1000 + n``, n counting the visible ones of a label that has instances.
    """
    tables = np.zeros((3, len(picture.kinds)), np.uint16)
    counts: Counter[int] = Counter()
    for number in np.unique(picture.ids).tolist():
        label = name2label[KINDS[picture.kinds[number]][2]]
        instance = label.id * 1000 + counts[label.id] if label.hasInstances else label.id
        counts[label.id] += 1
        tables[:, number] = label.id, label.trainId, instance
    label_ids, train_ids, instance_ids = tables[:, picture.ids]
    return label_ids.astype(np.uint8), train_ids.astype(np.uint8), instance_ids


def _city_polygons(picture: Picture) -> list[dict]:
    """Return the ``objects`` of a polygons file, in the order in which they are drawn.

    Of an object in several pieces the largest counts; sky and ground have one polygon per piece.
    """
    objects = []
    for number in np.unique(picture.ids).tolist():
        mask = picture.full_masks[number].astype(np.uint8)
        found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        contours = sorted((c for c in found if len(c) >= 3), key=cv2.contourArea, reverse=True)
        label = KINDS[picture.kinds[number]][2]
        for contour in contours[: 1 if picture.extents[number] else None]:
            objects.append({"label": label, "polygon": contour[:, 0].tolist()})
    return objects
