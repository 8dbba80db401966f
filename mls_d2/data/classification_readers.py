"""Reading the files of classification datasets, each in the layout that its archive unpacks to."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torchvision.datasets as tv
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from mls_d2.core.errors import UserError
from mls_d2.data.annotations_coco import CocoImage, read_coco
from mls_d2.data.images import IMAGE_SUFFIXES, list_images, printable


@dataclass(frozen=True)
class Labelled:
    """Labelled images."""

    # Of the N images, or parts of images: ``file_name``; ``image_id``, unique; ``classes``, a list
    # of int in [0, C); ``difficult``, those of which the image shows objects that are hard to see,
    # and no others; and, for a part, ``box`` (left, top, right, bottom) in pixels.
    records: list[dict[str, Any]] = field(default_factory=list)
    names: tuple[str, ...] = ()  # of the C classes


Reader = Callable[[str, str], Labelled]
"""From the datasets' root and the name of a split."""


def read_voc2007(root: str, split: str) -> Labelled:
    """Read PASCAL VOC 2007's lists of the images of each class.

    They have 1 if the class is shown, 0 if difficult objects alone show it, and -1 otherwise.

    Raises:
        UserError: a line with anything else, or a list that lacks an image or has it twice.
    """
    folder = os.path.join(root, "VOC2007")
    lists = os.path.join(folder, "ImageSets", "Main")
    stems = [words[0] for _, words in _lines(os.path.join(lists, f"{split}.txt"), 1)]
    found: dict[str, dict[int, list[int]]] = {stem: {0: [], 1: []} for stem in stems}
    for index, name in enumerate(CLASS_NAMES):
        path = os.path.join(lists, f"{name}_{split}.txt")
        seen: set[str] = set()
        for number, (stem, flag) in _lines(path, 2):
            if stem not in found or flag not in ("-1", "0", "1"):
                raise UserError(
                    f"'{path}', line {number}: '{stem} {flag}', expected an image of "
                    f"{split}.txt and -1, 0 or 1",
                    code="damaged-annotation",
                )
            if stem in seen:
                raise UserError(
                    f"'{path}', line {number}: '{stem}' is there twice", code="damaged-annotation"
                )
            seen.add(stem)
            if flag != "-1":
                found[stem][int(flag)].append(index)
        if len(seen) < len(found):
            raise UserError(
                f"'{path}' has {len(seen)} of the {len(found)} images of {split}.txt; unpack VOC "
                "again",
                code="damaged-annotation",
            )
    return Labelled(
        [
            _record(os.path.join(folder, "JPEGImages", f"{stem}.jpg"), stem, flags[1], flags[0])
            for stem, flags in found.items()
        ],
        CLASS_NAMES,
    )


def read_cub200(root: str, split: str) -> Labelled:
    """Read CUB-200-2011, whose ``train_test_split.txt`` has 1 for the training images."""
    folder = os.path.join(root, "CUB_200_2011")
    tables = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    paths, labels, training, classes = (
        dict(words for _, words in _lines(os.path.join(folder, name), 2)) for name in tables
    )
    wanted = "1" if split == "train" else "0"
    order = {number: index for index, number in enumerate(classes)}
    records = []
    for number, path in paths.items():
        if number not in training or labels.get(number) not in order:
            raise UserError(
                f"'{folder}': {tables[1]} or {tables[2]} lacks image {number}",
                code="damaged-annotation",
            )
        if training[number] == wanted:
            file = os.path.join(folder, "images", path)
            records.append(_record(file, number, [order[labels[number]]]))
    return Labelled(records, tuple(name.partition(".")[2] for name in classes.values()))


def read_indoor67(root: str, split: str) -> Labelled:
    """Read MIT Indoor 67, whose ``TrainImages.txt`` and ``TestImages.txt`` list class/image."""
    folder = os.path.join(root, "indoor67")
    images = os.path.join(folder, "Images")
    names = sorted(_folders(images))
    records = []
    path = os.path.join(folder, f"{split.capitalize()}Images.txt")
    for number, words in _lines(path, None):
        line = " ".join(words)  # Some names have spaces.
        if line.partition("/")[0] not in names:
            raise UserError(
                f"'{path}', line {number}: '{line}' is in no folder of '{images}'",
                code="damaged-annotation",
            )
        label = names.index(line.partition("/")[0])
        records.append(_record(os.path.join(images, line), line, [label]))
    return Labelled(records, tuple(names))


def _read_torchvision(
    dataset: Callable, files: str, root: str, split: str, *, join: bool = False, **options: Any
) -> Labelled:
    """Read one of torchvision's datasets.

    ``files`` is its attribute of the images' paths: torchvision offers them in no public way, but
    the attributes have had their names since the classes came in 0.12. With ``join``, "trainval" is
    its train and val together.
    """
    splits = ("train", "val") if join and split == "trainval" else (split,)
    parts = [dataset(root, split=part, **options) for part in splits]
    records: list[dict] = []
    for part in parts:
        found = getattr(part, files)
        # The samples of Stanford Cars are pairs already.
        pairs = found if files == "_samples" else zip(found, part._labels, strict=True)
        for path, label in pairs:
            records.append(_record(str(path), len(records), [int(label)]))
    # Older versions of torchvision do not name the classes of Flowers102.
    names = getattr(parts[0], "classes", [f"flower {label}" for label in range(1, 103)])
    return Labelled(records, tuple(map(str, names)))


SHORTEST_SIDE = 8
"""Objects with a shorter box, in pixels, are no pictures of their own."""
CONTEXT = 1.25
"""Side of an object's picture, as a multiple of the longer side of its box."""


def read_object_crops(root: str, split: str) -> Labelled:
    """Read the objects of COCO's train2017 or val2017 as pictures of their own.

    Each is a square around the box of an object, moved into the image if it would reach beyond;
    crowds and boxes shorter than 8 pixels are left out. No file is written.
    """
    part = {"train": "train2017", "test": "val2017"}[split]
    content = read_coco(os.path.join(root, "coco", "annotations", f"instances_{part}.json"))
    categories = sorted(content.categories, key=lambda item: item.id)
    images = {image.id: image for image in content.images}
    order = {category.id: index for index, category in enumerate(categories)}
    records = [
        _record(
            os.path.join(root, "coco", part, images[item.image_id].file_name),
            item.id,
            [order[item.category_id]],
        )
        | {"box": _square(item.bbox, images[item.image_id])}
        for item in content.annotations
        if not item.iscrowd and min(item.bbox[2:]) >= SHORTEST_SIDE
    ]
    return Labelled(records, tuple(category.name for category in categories))


def _square(box: Sequence[float], image: CocoImage) -> list[int]:
    """Return left, top, right and bottom of the picture of an object."""
    x, y, width, height = box
    side = CONTEXT * max(width, height)
    corners = []
    for start, length, limit in ((x, width, image.width), (y, height, image.height)):
        low = min(max(start + (length - side) / 2, 0.0), max(limit - side, 0.0))
        corners.append((round(low), round(min(low + side, limit))))
    (left, right), (top, bottom) = corners
    return [left, top, right, bottom]


SPLITS = ("train", "trainval", "val", "test")


def folder_classes(path: str) -> tuple[str, ...]:
    """Return the sorted names of the class folders in ``path`` and in the splits beside it.

    Raises:
        UserError: no such folder, or no class in it.
    """
    parent, split = os.path.split(path)
    if not os.path.isdir(path):
        raise UserError(f"no folder '{path}' with a folder for each class", code="missing-data")
    paths = {path, *(os.path.join(parent, name) for name in SPLITS if split in SPLITS)}
    names = {name for item in paths if os.path.isdir(item) for name in _folders(item)}
    if not _folders(path):
        raise UserError(
            f"'{path}' has no folders; expected one folder of images for each class",
            code="missing-data",
        )
    return tuple(sorted(names))


def read_folder(path: str, names: Sequence[str]) -> Labelled:
    """Read images whose folders are their classes.

    Raises:
        UserError: a class whose folder has no images, a folder that links put into two classes, or
            subfolders that look like splits.
    """
    splits = [name for name in names if name in SPLITS]
    if any(_has_only_folders(os.path.join(path, name)) for name in splits) or splits == list(names):
        raise UserError(
            f"'{path}' is one level too high: it holds {', '.join(splits)}; take one of them",
            code="bad-value",
        )
    records = [
        _record(file, os.path.relpath(file, path), [label])
        for label, name in enumerate(names)
        if os.path.isdir(os.path.join(path, name))
        for file in list_images(os.path.join(path, name))
    ]
    owners: dict[str, int] = {}
    labels = {os.path.dirname(item["file_name"]): item["classes"][0] for item in records}
    for folder, label in labels.items():
        owner = owners.setdefault(os.path.realpath(folder), label)
        if owner != label:
            raise UserError(
                f"'{printable(folder)}' is a link to images of class '{names[owner]}', expected "
                "one class for each folder",
                code="bad-value",
            )
    return Labelled(records, tuple(names))


def unread_files(path: str, records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the files below ``path``, except hidden ones, that no record names."""
    read = {item["file_name"] for item in records}
    found = []
    for parent, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = (name for name in sorted(files) if not name.startswith("."))
        found += [item for name in names if (item := os.path.join(parent, name)) not in read]
    return found


def _has_only_folders(path: str) -> bool:
    """Whether a folder has folders and no images of its own, as a split has."""
    if not os.path.isdir(path):
        return False
    return bool(_folders(path)) and not any(
        name.lower().endswith(IMAGE_SUFFIXES) for name in os.listdir(path)
    )


def _folders(path: str) -> list[str]:
    found = (item.name for item in os.scandir(path) if item.is_dir())
    return [name for name in found if not name.startswith(".")]


READERS: dict[str, Reader] = {
    "voc2007": read_voc2007,
    "cub200": read_cub200,
    "flowers102": partial(_read_torchvision, tv.Flowers102, "_image_files", join=True),
    "cars": partial(_read_torchvision, tv.StanfordCars, "_samples"),
    "aircraft": partial(
        _read_torchvision, tv.FGVCAircraft, "_image_files", annotation_level="variant"
    ),
    "indoor67": read_indoor67,
    "pets": partial(_read_torchvision, tv.OxfordIIITPet, "_images"),
    "dtd": partial(_read_torchvision, tv.DTD, "_image_files", join=True, partition=1),
    "scenes_objects": read_object_crops,
}
"""By the key of datasets.yaml."""


def _record(path: str, image_id: Any, classes: list[int], difficult: Sequence[int] = ()) -> dict:
    labels = {"classes": classes, "difficult": list(difficult)}
    return {"file_name": path, "image_id": image_id} | labels


def _lines(path: str, num_words: int | None) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the words of each line that is not empty.

    Raises:
        UserError: a line has another number of words.
    """
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if num_words is not None and words and len(words) != num_words:
                raise UserError(
                    f"'{path}', line {number}: '{line.strip()}', expected {num_words} words",
                    code="damaged-annotation",
                )
            if words:
                yield number, words
