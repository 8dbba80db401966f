"""Cityscapes: the check of its files, the train ids made from label ids, and its colours."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import labels as LABELS
from cityscapesscripts.helpers.labels import trainId2label
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from mls_d2.core.errors import UserError
from mls_d2.core.files import write_bytes
from mls_d2.data.dataset_files import evenly_spaced, listed
from mls_d2.data.images import BrokenImageError, image_size
from mls_d2.data.segmentation_mapper import check_same_size, read_labels, stored_pixels

logger = logging.getLogger(__name__)

NUM_CLASSES = 19
IGNORED = 255
COLORS = np.array([trainId2label[index].color for index in range(NUM_CLASSES)], np.uint8)
"""``(19, 3)`` RGB by train id."""

_IMAGE_SUFFIX = "_leftImg8bit.png"
_LABEL_SUFFIXES = ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png")
_SAMPLE = 8
_UNKNOWN = 254
_T = TypeVar("_T")


class _Files(NamedTuple):
    """An image and its labels."""

    image: str
    train_ids: str
    label_ids: str


def cityscapes_records(name: str) -> list[dict[str, Any]]:
    """Return a registered dataset as Detectron2's ``load_cityscapes_semantic`` does, in one order.

    Of the labels it needs no file yet, and never polygons and instances. Sizes are left to whoever
    reads the images.

    Raises:
        UserError: no images, or files that do not belong there.
    """
    return [
        {"file_name": item.image, "sem_seg_file_name": item.train_ids} for item in _list_files(name)
    ]


def prepare_cityscapes(name: str) -> None:
    """Check a split file by file, and make the train ids that are missing.

    Args:
        name: a dataset with ``image_dir`` and ``gt_dir`` in its metadata, which exist, such as
            ``cityscapes_fine_sem_seg_train``.

    Raises:
        UserError: files that are missing or do not belong there, labels that cannot be read, are
            out of range or not of their image's size, label ids instead of train ids, or a folder
            that cannot be written to.
    """
    items = _list_files(name)
    _check_labels_exist(name, items)
    _make_train_ids([item for item in items if not os.path.isfile(item.train_ids)])
    problems = [problem for problem in _in_threads(_problem, items) if problem]
    if problems:
        more = f"; {len(problems) - 1} more like it" if problems[1:] else ""
        raise UserError(f"{problems[0]}{more}", code="damaged-file")
    for item in evenly_spaced(items, _SAMPLE):
        _check_twins(item)


def train_id_table() -> np.ndarray:
    """Return ``(256,)`` uint8: the train id of each label id; 254 if there is no such label.

    Source: cityscapesscripts, whose own tool draws the polygons again for the same result.
    """
    table = np.full(256, _UNKNOWN, np.uint8)
    for label in LABELS:
        if label.id >= 0:
            table[label.id] = label.trainId
    return table


def _make_train_ids(items: Sequence[_Files]) -> None:
    """Write ``…_labelTrainIds.png`` next to ``…_labelIds.png``."""
    if not items:
        return
    table = train_id_table()

    def convert(item: _Files) -> bytes:
        train_ids = cv2.LUT(_read_label_ids(item.label_ids), table)
        if (train_ids == _UNKNOWN).any():
            raise UserError(
                f"{item.label_ids} has labels that Cityscapes does not have", code="damaged-file"
            )
        return cv2.imencode(".png", train_ids)[1].tobytes()

    logger.info("making the train ids of %d images from their label ids", len(items))
    pairs = zip(items, _in_threads(convert, items), strict=True)
    for item, content in tqdm(pairs, total=len(items), desc="train ids", unit="img"):
        write_bytes(item.train_ids, content)


def _in_threads(function: Callable[[_Files], _T], items: Iterable[_Files]) -> Iterator[_T]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(function, items)


def _list_files(name: str) -> list[_Files]:
    metadata = MetadataCatalog.get(name)
    items, strange = [], []
    for city in _entries(metadata.image_dir):
        images = os.path.join(metadata.image_dir, city)
        if not os.path.isdir(images):
            strange.append(f"{images} is not the folder of a city")
        for entry in _entries(images):
            path = os.path.join(images, entry)
            if not entry.endswith(_IMAGE_SUFFIX):
                strange.append(f"{path} is no image of Cityscapes (…{_IMAGE_SUFFIX})")
                continue
            stem = os.path.join(metadata.gt_dir, city, entry.removesuffix(_IMAGE_SUFFIX))
            items.append(_Files(path, *(f"{stem}{suffix}" for suffix in _LABEL_SUFFIXES)))
    if strange:
        raise UserError(f"dataset '{name}': {strange[0]}; remove it", code="damaged-data")
    if not items:
        raise UserError(
            f"dataset '{name}': no images in the folders of '{metadata.image_dir}'",
            code="missing-data",
        )
    return items


def _check_labels_exist(name: str, items: Sequence[_Files]) -> None:
    """Refuse images without labels, and warn of labels without an image.

    Of the two kinds of labels either suffices: train ids are made from label ids.
    """
    folder = MetadataCatalog.get(name).gt_dir
    present = {
        os.path.join(folder, city, entry)
        for city in _entries(folder)
        for entry in _entries(os.path.join(folder, city))
        if entry.endswith(_LABEL_SUFFIXES)
    }
    missing = [item.label_ids for item in items if present.isdisjoint(item[1:])]
    if missing:
        raise UserError(
            f"dataset '{name}' is incomplete: {len(missing)} of {len(items)} images have no "
            f"labels; unpack gtFine_trainvaltest.zip again:{listed(missing)}",
            code="missing-data",
        )
    used = {path for item in items for path in item[1:]}
    if present - used:
        logger.warning(
            "dataset '%s': %d label files, the first '%s', have no image in leftImg8bit",
            name, len(present - used), min(present - used),
        )  # fmt: skip


def _entries(folder: str) -> list[str]:
    found = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name for name in found if not name.startswith("."))


def _problem(item: _Files) -> str:
    """Return what is wrong with the train ids of an image, or ""."""
    try:
        train_ids = read_labels(item.train_ids, NUM_CLASSES, IGNORED)
        check_same_size(item.train_ids, train_ids.shape, image_size(item.image))
    except UserError as error:
        return str(error)
    except BrokenImageError:
        return ""  # Left out of training, or named when it is evaluated.
    return ""


def _check_twins(item: _Files) -> None:
    """Refuse label ids under the name of train ids, also where all of them could be train ids."""
    if not os.path.isfile(item.label_ids):
        return
    train_ids = read_labels(item.train_ids, NUM_CLASSES, IGNORED)
    label_ids = _read_label_ids(item.label_ids)
    if np.array_equal(train_ids, label_ids) and (train_ids != IGNORED).any():
        raise UserError(
            f"{item.train_ids} is the same as {os.path.basename(item.label_ids)}: label ids "
            "instead of train ids. Remove the labelTrainIds files, and they are made again",
            code="damaged-file",
        )


def _read_label_ids(path: str) -> np.ndarray:
    label_ids = stored_pixels(path)
    if label_ids is None or label_ids.dtype != np.uint8 or label_ids.ndim != 2:
        raise UserError(
            f"{path} is no 8-bit image of one channel, or truncated; unpack it again",
            code="damaged-file",
        )
    return label_ids
