"""Writing scenes as PASCAL VOC 2007 and 2012: JPEGImages, Annotations and ImageSets/Main.

Coordinates are VOC's: 1-based pixel indices, both ends inside the box.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

from mls_d2.scenes.coco import visible_things
from mls_d2.scenes.files import write_bytes, write_jpeg
from mls_d2.scenes.labels import KINDS, VOC_CLASSES
from mls_d2.scenes.marker import SceneParams
from mls_d2.scenes.render import Picture
from mls_d2.scenes.split import Split

TRUNCATED_BELOW = 0.85
"""Share of the full box that must be visible for an object not to be ``truncated``."""
DIFFICULT_SHARE = 0.25
"""Share of the full box below which an object is ``difficult``."""
DIFFICULT_SIDE = 1 / 13
"""Share of the image's height below which the longer side of the visible box is ``difficult``."""

_STREAMS = (("VOC2007", "trainval", 10), ("VOC2007", "test", 11), ("VOC2012", "trainval", 12))


def splits(params: SceneParams) -> list[Split]:
    """Return the splits that are asked for: VOC2007 trainval and test, VOC2012 trainval."""
    return [
        Split(
            name=f"{year}/{name}",
            stream=stream,
            count=params.voc,
            size=params.size,
            folders=tuple(
                f"{year}/{part}" for part in ("JPEGImages", "Annotations", "ImageSets/Main")
            ),
            save=partial(_save, year=year, name=name),
            finish=partial(_finish, year=year, name=name),
        )
        for year, name, stream in _STREAMS
        if params.voc
    ]


def _image_name(year: str, name: str, index: int, count: int) -> str:
    if year == "VOC2007":
        return f"{index + 1 + (count if name == 'test' else 0):06d}"
    return f"2012_{index + 1:06d}"


def _save(root: Path, split: Split, index: int, picture: Picture, *, year: str, name: str) -> dict:
    stem = _image_name(year, name, index, split.count)
    write_jpeg(root / year / "JPEGImages" / f"{stem}.jpg", picture.image)
    objects = voc_objects(picture)
    height, width = picture.ids.shape
    tree = ET.Element("annotation")
    for tag, text in (("folder", year), ("filename", f"{stem}.jpg"), ("segmented", "0")):
        ET.SubElement(tree, tag).text = text
    ET.SubElement(ET.SubElement(tree, "source"), "database").text = "Synthetic scenes"
    size = ET.SubElement(tree, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        ET.SubElement(size, tag).text = str(value)
    for item in objects:
        _add_object(tree, item)
    ET.indent(tree, "\t")
    write_bytes(root / year / "Annotations" / f"{stem}.xml", ET.tostring(tree) + b"\n")
    return {"stem": stem, "objects": [(item["name"], item["difficult"]) for item in objects]}


def _add_object(tree: ET.Element, item: dict) -> None:
    element = ET.SubElement(tree, "object")
    ET.SubElement(element, "name").text = item["name"]
    ET.SubElement(element, "pose").text = "Unspecified"
    ET.SubElement(element, "truncated").text = str(int(item["truncated"]))
    ET.SubElement(element, "difficult").text = str(int(item["difficult"]))
    box = ET.SubElement(element, "bndbox")
    for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), item["box"], strict=True):
        ET.SubElement(box, tag).text = str(value)


def voc_objects(picture: Picture) -> list[dict]:
    """Return the annotated objects of a picture.

    Returns:
        ``{"name", "box", "truncated", "difficult"}`` each; the box is (xmin, ymin, xmax, ymax),
        1-based and inclusive, around the visible pixels. Truncated is what reaches beyond the image
        or behind something else with a fair share of its full box; difficult is what hardly shows.
    """
    objects = []
    for number, _, (x, y, w, h) in visible_things(picture):
        name, extent = KINDS[picture.kinds[number]].voc, picture.extents[number]
        if name is None or extent is None:
            continue
        x0, y0, x1, y1 = extent
        share = w * h / max((x1 - x0) * (y1 - y0), 1.0)
        small = max(w, h) < DIFFICULT_SIDE * picture.ids.shape[0]
        objects.append(
            {
                "name": name,
                "box": (x + 1, y + 1, x + w, y + h),
                "truncated": share < TRUNCATED_BELOW,
                "difficult": small or share < DIFFICULT_SHARE,
            }
        )
    return objects


def _finish(root: Path, split: Split, records: list[dict], *, year: str, name: str) -> None:
    """List the images, and for each class where it is (1), hardly (0) or not (-1)."""
    sets = {name: records}
    if name == "trainval":
        sets |= {"train": records[::2], "val": records[1::2]}
    folder = root / year / "ImageSets" / "Main"
    for set_name, chosen in sets.items():
        stems = [record["stem"] for record in chosen]
        write_bytes(folder / f"{set_name}.txt", _lines(stems))
        for label in VOC_CLASSES:
            flags = [f"{record['stem']} {_presence(record, label):2d}" for record in chosen]
            write_bytes(folder / f"{label}_{set_name}.txt", _lines(flags))


def _presence(record: dict, label: str) -> int:
    difficult = [flag for name, flag in record["objects"] if name == label]
    if not difficult:
        return -1
    return 0 if all(difficult) else 1


def _lines(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()
