"""PASCAL VOC's annotation files and lists: validated before anything is trained."""

import math
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from mls_d2.core.errors import UserError
from mls_d2.data.faults import Faults
from mls_d2.data.images import BrokenImageError, image_size

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ONCE = ("name", "difficult", *(f"bndbox/{corner}" for corner in _CORNERS))
_LIMIT = 1e6
_FLAGS = {"-1", "0", "1"}


@dataclass(frozen=True)
class VocObject:
    """An object."""

    name: str  # of its class
    # xmin, ymin, xmax, ymax; the first pixel is 1, and a box includes its last pixel.
    box: tuple[float, float, float, float]
    difficult: bool  # whether it counts neither for nor against a detector


def voc_stems(folder: str, split: str) -> list[str]:
    """Return the names of the images of a split: the first word of each line of its list.

    Raises:
        UserError: a missing list, one without images, one that lists an image twice, or a line with
            other words after the name than VOC's flags -1, 0 and 1.
    """
    path = os.path.join(folder, "ImageSets", "Main", f"{split}.txt")
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.split() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' cannot be read: {error}", code="missing-file") from None
    stems = [words[0] for words in lines]
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    long = [words for words in lines if not _FLAGS.issuperset(words[1:])]
    problem = "" if stems else "lists no images"
    if twice:
        problem = f"lists '{twice[0]}' twice"
    elif long:
        words = " ".join(long[0][:3])
        problem = f"has a line '{words} …', expected one image, and no more than -1, 0 or 1 after"
    if problem:
        raise UserError(f"'{path}' {problem}; unpack VOC again", code="damaged-annotation")
    return stems


def read_voc(name: str) -> dict[str, list[VocObject]]:
    """Read and validate the annotations of a registered dataset in VOC's layout.

    Returns:
        The objects by image, in the order of the list.

    Raises:
        UserError: a file that is missing or damaged, one with boxes that belong to no object of it,
            or an object that lacks its class or its box, or has several; names the file and counts
            the others. A missing ``difficult`` is 0.
    """
    return {stem: objects for stem, _, objects in _read(name)}


def voc_records(name: str) -> list[dict[str, Any]]:
    """Return a registered dataset as Detectron2's ``load_voc_instances`` does, after validation.

    The size of an image whose annotation has none is read from the image.

    Raises:
        UserError: see :func:`read_voc`; or neither annotation nor image has a size.
    """
    metadata = MetadataCatalog.get(name)
    numbers = {item: index for index, item in enumerate(metadata.thing_classes)}
    records = []
    for stem, root, objects in _read(name):
        path = os.path.join(metadata.dirname, "JPEGImages", f"{stem}.jpg")
        height, width = _size(root, stem, path)
        annotations = [
            {
                "category_id": numbers[item.name],
                "bbox": [item.box[0] - 1.0, item.box[1] - 1.0, *item.box[2:]],
                "bbox_mode": BoxMode.XYXY_ABS,
            }
            for item in objects
        ]
        size = {"height": height, "width": width}
        records.append({"file_name": path, "image_id": stem, "annotations": annotations} | size)
    return records


def _read(name: str) -> list[tuple[str, ET.Element, list[VocObject]]]:
    metadata = MetadataCatalog.get(name)
    faults, found = Faults(), []
    for stem in voc_stems(metadata.dirname, metadata.split):
        path = os.path.join(metadata.dirname, "Annotations", f"{stem}.xml")
        root = _parse(path, faults)
        _check_structure(root, path, faults)
        found.append((stem, root, list(_objects(root, path, metadata.thing_classes, faults))))
    faults.raise_any()
    return found


def _parse(path: str, faults: Faults) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except OSError as error:
        faults.add("missing", f"no annotation '{path}' ({error.strerror}); unpack VOC again")
    except ET.ParseError as error:
        faults.add("xml", f"'{path}' is no XML, or truncated ({error}); unpack VOC again")
    except (ValueError, LookupError) as error:
        faults.add("encoding", f"'{path}' cannot be read ({error}); save it as UTF-8")
    return ET.Element("annotation")


def _check_structure(root: ET.Element, path: str, faults: Faults) -> None:
    """Refuse a file of another format, or with objects that are not where VOC has them.

    Such are objects in a namespace, in capitals, or inside of another element.
    """
    if root.tag != "annotation":
        faults.add("root", f"'{path}' is <{root.tag}>, expected VOC's <annotation>")
        return
    boxes, parts = _count(root, "bndbox"), sum(_count(part, "bndbox") for part in root.iter("part"))
    objects = len(root.findall("object"))
    if boxes - parts > objects:
        expected = "expected an <object> in <annotation> for each"
        faults.add(
            "structure", f"'{path}' has {boxes - parts} bndbox, {objects} object; {expected}"
        )


def _count(element: ET.Element, tag: str) -> int:
    return sum(item.tag.rpartition("}")[2].lower() == tag for item in element.iter())


def _objects(
    root: ET.Element, path: str, classes: Collection[str], faults: Faults
) -> Iterator[VocObject]:
    for index, item in enumerate(root.findall("object")):
        place = f"'{path}': object[{index}]"
        name = (item.findtext("name") or "").strip()
        texts = [item.findtext(f"bndbox/{corner}") for corner in _CORNERS]
        difficult = (item.findtext("difficult") or "0").strip()
        doubled = [field for field in _ONCE if len(item.findall(field)) > 1]
        if doubled:
            faults.add("doubled", f"{place} has several {doubled[0]}, expected one")
        elif name not in classes:
            expected = f"expected one of {', '.join(classes)}"
            faults.add("name", f"{place}.name is {name!r}, {expected}")
        elif difficult not in ("0", "1"):
            faults.add("difficult", f"{place}.difficult is {difficult!r}, expected 0 or 1")
        elif (box := _box(texts)) is None:
            values = ", ".join(map(str, texts))
            expected = f"expected four numbers {', '.join(_CORNERS)}, the smaller ones first"
            faults.add("box", f"{place}.bndbox ({name}) is {values}, {expected}")
        else:
            yield VocObject(name, box, difficult == "1")


def _box(texts: list[str | None]) -> tuple[float, float, float, float] | None:
    try:
        left, top, right, bottom = (float(text or "") for text in texts)
    except ValueError:
        return None
    fits = all(abs(value) <= _LIMIT for value in (left, top, right, bottom))
    return (left, top, right, bottom) if fits and left <= right and top <= bottom else None


def _size(root: ET.Element, stem: str, image: str) -> tuple[int, int]:
    height, width = (_side(root.findtext(f"size/{side}")) for side in ("height", "width"))
    if height and width:
        return height, width
    try:
        return image_size(image)
    except BrokenImageError as error:
        raise UserError(
            f"the annotation of '{stem}' has no size, and its image cannot be read: {error}",
            code="damaged-annotation",
        ) from None


def _side(text: str | None) -> int:
    try:
        value = float(text or "")
    except ValueError:
        return 0
    return int(value) if math.isfinite(value) and 1 <= value <= 2**16 else 0
