"""COCO annotation files: validated as a whole, in one place, before anything is trained.

The file is decoded by msgspec into typed structs, which checks every field. A file that does not
pass is read again, object by object, so that all faults of a kind are counted.
"""

import contextlib
import functools
import gc
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from msgspec import Meta, Struct

from mls_d2.core.errors import UserError
from mls_d2.data.faults import Faults
from mls_d2.data.run_length import Rle, Side, rle_problem

logger = logging.getLogger(__name__)

# Evaluation keeps ids in float64, and those of images without a sign. Rasterisation takes time in
# proportion to coordinates.
Id = Annotated[int, Meta(ge=-(2**53), le=2**53)]
ImageId = Annotated[int, Meta(ge=0, le=2**53)]
Coordinate = Annotated[float, Meta(ge=-1e6, le=1e6)]
Length = Annotated[float, Meta(ge=0, le=1e6)]
Flag = Annotated[int, Meta(ge=0, le=1)] | bool | None
Text = Annotated[str, Meta(min_length=1)]
# Results have the names of categories, in UTF-8.
Name = Annotated[str, Meta(min_length=1, pattern=r"^[^\ud800-\udfff]*$")]
# COCO's evaluation leaves out larger ones.
Area = Annotated[float, Meta(ge=0, le=1e10)]


class CocoImage(Struct, gc=False):
    """An image; ``width`` and ``height`` in pixels."""

    id: ImageId
    file_name: Text
    height: Side
    width: Side


class CocoObject(Struct, gc=False):
    """An object."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[Coordinate, Coordinate, Length, Length]  # left, top, width, height in pixels
    # A mask or polygons; None if there is none, and [] if it has polygons of which none has three
    # points.
    segmentation: Rle | list[list[Coordinate]] | None = None
    iscrowd: Flag = 0
    # Pixels of the mask; None if the file has none.
    area: Area | None = None
    ignore: Flag = 0


class CocoCategory(Struct, gc=False):
    """A category."""

    id: Id
    name: Name


class CocoFile(Struct, gc=False):
    """A validated annotation file."""

    images: list[CocoImage]
    annotations: list[CocoObject]
    categories: list[CocoCategory]


class _NamedImage(Struct, gc=False):
    file_name: Text
    id: Any = None


class _ImageList(Struct, gc=False):
    images: list[_NamedImage]


_KINDS: dict[str, type] = {
    "images": CocoImage, "annotations": CocoObject, "categories": CocoCategory,
}  # fmt: skip
_WHOLE_NUMBERS = {"id", "image_id", "category_id", "height", "width", "iscrowd", "ignore"}


def read_coco(path: str) -> CocoFile:
    """Read and validate an annotation file for detection.

    Objects of images that the file does not list are left out, and polygons without three points
    as well; both are counted in the log.

    Raises:
        UserError: a missing or damaged file, or a field that is missing, of another type, out of
            range or contradicts another one. The message names file, field, id and expectation.
    """
    with _collector_paused():
        content = _decode(path, CocoFile)
        faults = Faults(path)
        for key in ("images", "annotations", "categories"):
            _check_unique(faults, key, [item.id for item in getattr(content, key)], "id")
        _check_unique(faults, "categories", [item.name for item in content.categories], "name")
        for key in ("images", "categories"):
            if not getattr(content, key):
                faults.add("empty", f"{key} is empty, expected one or more")
        _check_objects(content, faults, path)
        faults.raise_any()
    return content


def image_names(path: str) -> tuple[str, ...]:
    """Return the names of the images that an annotation file lists; nothing else is validated.

    They are in the order of their ids, as Detectron2's records are, if these are numbers.

    Raises:
        UserError: a damaged file, or one without images.
        OSError: a missing file.
    """
    stat = os.stat(path)
    return _image_names(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _image_names(path: str, mtime_ns: int, size: int) -> tuple[str, ...]:
    """Return the names; time and size only distinguish versions of the file."""
    images = _decode(path, _ImageList).images
    if not images:
        raise UserError(f"'{path}' lists no images", code="damaged-annotation")
    if all(isinstance(item.id, int | float) for item in images):
        images.sort(key=lambda item: item.id)
    return tuple(item.file_name for item in images)


def coco_records(name: str) -> list[dict[str, Any]]:
    """Return a registered dataset as Detectron2's ``load_coco_json`` does, after validation.

    Sets the categories in the dataset's metadata if they are not there yet.

    Raises:
        UserError: see :func:`read_coco` and :func:`check_categories`.
    """
    metadata = MetadataCatalog.get(name)
    content = read_coco(metadata.json_file)
    check_categories(name, content.categories)
    order = metadata.thing_dataset_id_to_contiguous_id
    with _collector_paused():
        objects = defaultdict(list)
        for item in content.annotations:
            # Detectron2 leaves an object out if all of its polygons are too short.
            if item.segmentation != []:
                objects[item.image_id].append(_training_object(item, order))
        return [
            {"file_name": os.path.join(metadata.image_root, image.file_name), "image_id": image.id}
            | {"height": image.height, "width": image.width, "annotations": objects[image.id]}
            for image in sorted(content.images, key=lambda image: image.id)
        ]


def check_categories(name: str, categories: Sequence[CocoCategory]) -> None:
    """Compare a file's categories with the metadata of its dataset, or set them there.

    Raises:
        UserError: the categories are not those of the dataset's name.
    """
    metadata = MetadataCatalog.get(name)
    ordered = sorted(categories, key=lambda item: item.id)
    names = [item.name for item in ordered]
    order = {item.id: index for index, item in enumerate(ordered)}
    known = list(metadata.get("thing_classes") or names)
    known_order = metadata.get("thing_dataset_id_to_contiguous_id") or order
    if (known, known_order) != (names, order):
        raise UserError(
            f"'{metadata.json_file}' has {len(names)} categories ({', '.join(names[:3])}, …), "
            f"dataset '{name}' has {len(known)} others ({', '.join(known[:3])}, …); register a "
            "file with its own categories under a name of its own with "
            "mls_d2.data.datasets.register_coco, see docs/datasets.md",
            code="own-categories",
        )
    metadata.set(thing_classes=known, thing_dataset_id_to_contiguous_id=known_order)


def ground_truth(path: str) -> dict[str, Any]:
    """Return a validated annotation file in COCO's own format, complete for the evaluation.

    A missing area is that of the mask, or of the box of an object without one, as pycocotools
    computes it. Objects are numbered from 1, because an object of id 0 counts as not found there.
    """
    content = read_coco(path)
    sizes = {image.id: (image.height, image.width) for image in content.images}
    annotations = []
    for number, item in enumerate(content.annotations, 1):
        entry = msgspec.structs.asdict(item) | {"id": number, "bbox": list(item.bbox)}
        entry["iscrowd"], entry["ignore"] = int(item.iscrowd or 0), 0
        if isinstance(item.segmentation, Rle):
            entry["segmentation"] = msgspec.to_builtins(item.segmentation)
        if item.area is None:
            entry["area"] = _area(item, sizes[item.image_id])
        annotations.append(entry)
    return {
        "images": msgspec.to_builtins(content.images),
        "annotations": annotations,
        "categories": msgspec.to_builtins(content.categories),
    }


def check_evaluation(path: str, *, masks: bool) -> None:
    """Refuse a file that :func:`read_coco` accepts for evaluation, of boxes or of ``masks`` too.

    Raises:
        UserError: there are no objects but crowds; masks are missing (names one and counts them).
    """
    content = _decode(path, CocoFile)
    listed = {image.id for image in content.images}
    faults, found = Faults(path), False
    for index, item in enumerate(content.annotations):
        if item.image_id not in listed:
            continue
        found = found or not item.iscrowd
        problem = _mask_problem(item.segmentation) if masks else ""
        if problem:
            problem += ", expected a mask; MODEL.MASK_ON False evaluates boxes alone"
            faults.add(problem, f"annotations[{index}].segmentation (id {item.id}) {problem}")
    if not found:
        faults.add("objects", "no listed image has an object that is no crowd: AP is undefined")
    faults.raise_any()


def _mask_problem(mask: Rle | list[list[float]] | None) -> str:
    if isinstance(mask, Rle):
        return ""
    if not mask:
        return "is missing or empty"
    if any(len(polygon) > 6 and len(polygon) & 1 for polygon in mask):
        # COCO's evaluation would take all but the last number, Detectron2 none.
        return "has a polygon with an odd number of coordinates"
    return "" if any(map(_is_polygon, mask)) else "has no polygon with three points"


def _is_polygon(coordinates: list[float]) -> bool:
    return len(coordinates) >= 6 and not len(coordinates) & 1


def _decode(path: str, kind: type) -> Any:
    try:
        with open(path, "rb") as file:
            data = file.read().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}", code="missing-file") from None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_leniently(path, data, kind)


def _decode_leniently(path: str, data: bytes, kind: type) -> Any:
    """Decode what strict JSON does not allow (NaN in other fields, ids such as 1.0), or explain."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"'{path}' is no COCO annotation file, or truncated ({error}); get it again",
            code="damaged-file",
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is no COCO annotation file: no JSON object", code="damaged-file")
    faults, lists = Faults(path), {}
    kinds = _KINDS if kind is CocoFile else {"images": _NamedImage}
    for key, item_kind in kinds.items():
        items = content.get(key)
        if not isinstance(items, list):
            faults.add(key, f"{key} is {_shown(items)}, expected a list")
            continue
        lists[key] = list(_converted(items, key, item_kind, faults))
    faults.raise_any()
    return kind(**lists)


def _converted(items: list, key: str, kind: type, faults: Faults) -> Iterator[Any]:
    for index, item in enumerate(items):
        if isinstance(item, dict):
            whole = {k: int(v) for k, v in item.items() if type(v) is float and v.is_integer()}
            item = {**item, **{key: whole[key] for key in whole.keys() & _WHOLE_NUMBERS}}
        try:
            yield msgspec.convert(item, kind)
        except (msgspec.ValidationError, UnicodeEncodeError, RecursionError) as error:
            problem, _, place = str(error).partition(" - at `$")
            place = place.removesuffix("`")
            found = item.get("id") if isinstance(item, dict) else None
            kind_of_fault = f"{key} {problem} {place.partition('[')[0]}"
            if place and " got " not in problem and "missing" not in problem:
                problem += f", got {_shown(_value_at(item, place))}"
            faults.add(kind_of_fault, f"{key}[{index}]{place} (id {_shown(found)}): {problem}")


def _value_at(item: Any, place: str) -> Any:
    """Return the field of an object at a place such as ``.bbox[2]``."""
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", place):
        item = item[name or int(index)]
    return item


def _shown(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) < 60 else f"{text[:60]}…"


def _check_unique(faults: Faults, key: str, values: list, what: str) -> None:
    if len(set(values)) == len(values):
        return
    for value, count in Counter(values).items():
        if count > 1:
            problem = f"{count} have the {what} {value!r}, expected one at most"
            faults.add(f"{what} {key}", f"{key}: {problem}")


def _check_objects(content: CocoFile, faults: Faults, path: str) -> None:
    """Compare objects with their images and categories, and leave out what cannot be used."""
    sizes = {image.id: (image.height, image.width) for image in content.images}
    known = {category.id for category in content.categories}
    short = 0
    for index, item in enumerate(content.annotations):
        if item.image_id not in sizes:
            continue
        problem, mask = "", item.segmentation
        if item.category_id not in known:
            problem = f"no category has the id {item.category_id}"
        elif item.ignore and not item.iscrowd:
            problem = "ignore is 1, which COCO's evaluation does not use; expected iscrowd 1, or 0"
        elif isinstance(mask, Rle):
            problem = rle_problem(mask, sizes[item.image_id])
        if problem:
            kind = problem.partition(" ")[0]
            faults.add(kind, f"annotations[{index}] (id {item.id}): {problem}")
        if isinstance(mask, list):
            usable = [polygon for polygon in mask if _is_polygon(polygon)]
            short += len(mask) - len(usable)
            item.segmentation = usable if mask else None
    kept = [item for item in content.annotations if item.image_id in sizes]
    if len(kept) < len(content.annotations):
        number = len(content.annotations) - len(kept)
        logger.warning("'%s': %d objects of images that are not listed are left out", path, number)
        content.annotations = kept
    if short:
        problem = "without three points or with half a point"
        logger.warning("'%s': %d polygons %s are left out", path, short, problem)


def _training_object(item: CocoObject, order: dict[int, int]) -> dict[str, Any]:
    entry = {
        "iscrowd": int(item.iscrowd or 0),
        "bbox": list(item.bbox),
        "category_id": order[item.category_id],
        "bbox_mode": BoxMode.XYWH_ABS,
    }
    if isinstance(item.segmentation, Rle):
        entry["segmentation"] = _compressed(item.segmentation)
    elif item.segmentation:
        entry["segmentation"] = item.segmentation
    return entry


def _compressed(rle: Rle) -> dict[str, Any]:
    plain = {"counts": rle.counts, "size": list(rle.size)}
    return mask_util.frPyObjects(plain, *rle.size) if isinstance(rle.counts, list) else plain


def _area(item: CocoObject, size: tuple[int, int]) -> float:
    if isinstance(item.segmentation, Rle):
        return float(mask_util.area(_compressed(item.segmentation)))
    if item.segmentation:
        masks = mask_util.frPyObjects(item.segmentation, *size)
        return float(mask_util.area(mask_util.merge(masks)))
    return item.bbox[2] * item.bbox[3]


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    # Millions of new lists make the collector of reference cycles run for seconds.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
