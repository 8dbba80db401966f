"""Cityscapes: the check of its files, the train ids made from label ids, and its colours."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import labels as LABELS
from cityscapesscripts.helpers.labels import trainId2label
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from mls_d2.core.errors import UserError
from mls_d2.core.files import write_bytes
from mls_d2.data.dataset_files import evenly_spaced, listed
from mls_d2.data.segmentation_mapper import read_labels, stored_pixels

logger = logging.getLogger(__name__)

NUM_CLASSES = 19
IGNORED = 255
COLORS = np.array([trainId2label[index].color for index in range(NUM_CLASSES)], np.uint8)
"""``(19, 3)`` RGB by train id."""

_IMAGE_SUFFIX = "_leftImg8bit.png"
_SAMPLE = 8
_UNKNOWN = 254


class _Truth(NamedTuple):
    """The files of one image's labels."""

    train_ids: str
    label_ids: str


def prepare_cityscapes(name: str) -> None:
    """Check a split file by file, and make the train ids that are missing.

    Args:
        name: a dataset with ``image_dir`` and ``gt_dir`` in its metadata, which exist, such as
            ``cityscapes_fine_sem_seg_train``.

    Raises:
        UserError: files that are missing or do not belong there, label ids instead of train ids (in
            a sample of files), or a folder that cannot be written to.
    """
    truths = _list_truths(name)
    _make_train_ids([truth for truth in truths if not os.path.isfile(truth.train_ids)])
    for truth in evenly_spaced(truths, _SAMPLE):
        _check_train_ids(truth)


def train_id_table() -> np.ndarray:
    """Return ``(256,)`` uint8: the train id of each label id; 254 if there is no such label.

    Source: cityscapesscripts, whose own tool draws the polygons again for the same result.
    """
    table = np.full(256, _UNKNOWN, np.uint8)
    for label in LABELS:
        if label.id >= 0:
            table[label.id] = label.trainId
    return table


def _make_train_ids(truths: list[_Truth]) -> None:
    """Write ``…_labelTrainIds.png`` next to ``…_labelIds.png``."""
    if not truths:
        return
    table = train_id_table()

    def convert(truth: _Truth) -> bytes:
        train_ids = cv2.LUT(_read_label_ids(truth.label_ids), table)
        if (train_ids == _UNKNOWN).any():
            raise UserError(
                f"{truth.label_ids} has labels that Cityscapes does not have", code="damaged-file"
            )
        return cv2.imencode(".png", train_ids)[1].tobytes()

    logger.info("making the train ids of %d images from their label ids", len(truths))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        pairs = zip(truths, pool.map(convert, truths), strict=True)
        for truth, content in tqdm(pairs, total=len(truths), desc="train ids", unit="img"):
            write_bytes(truth.train_ids, content)


def _list_truths(name: str) -> list[_Truth]:
    """Return the labels of each image of a split.

    Of the two kinds of labels either suffices: train ids are made from label ids; nothing reads
    polygons and instance ids.
    """
    metadata = MetadataCatalog.get(name)
    truths, strange, missing = [], [], []
    for city in _entries(metadata.image_dir):
        images = os.path.join(metadata.image_dir, city)
        if not os.path.isdir(images):
            strange.append(f"{images} is not the folder of a city")
        present = set(_entries(os.path.join(metadata.gt_dir, city)))
        for entry in _entries(images):
            if not entry.endswith(_IMAGE_SUFFIX):
                path = os.path.join(images, entry)
                strange.append(f"{path} is no image of Cityscapes (…{_IMAGE_SUFFIX})")
                continue
            stem = os.path.join(metadata.gt_dir, city, entry.removesuffix(_IMAGE_SUFFIX))
            truth = _Truth(f"{stem}_gtFine_labelTrainIds.png", f"{stem}_gtFine_labelIds.png")
            truths.append(truth)
            if not any(os.path.basename(path) in present for path in truth):
                missing.append(truth.label_ids)
    if strange:
        raise UserError(f"dataset '{name}': {strange[0]}; remove it", code="damaged-data")
    if not truths:
        raise UserError(
            f"dataset '{name}': no images in the folders of '{metadata.image_dir}'",
            code="missing-data",
        )
    if missing:
        raise UserError(
            f"dataset '{name}' is incomplete: {len(missing)} of {len(truths)} images have no "
            f"labels; unpack gtFine_trainvaltest.zip again:{listed(missing)}",
            code="missing-data",
        )
    return truths


def _entries(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _check_train_ids(truth: _Truth) -> None:
    train_ids = read_labels(truth.train_ids, NUM_CLASSES, IGNORED)
    if not os.path.isfile(truth.label_ids):
        return
    label_ids = _read_label_ids(truth.label_ids)
    if np.array_equal(train_ids, label_ids) and (train_ids != IGNORED).any():
        raise UserError(
            f"{truth.train_ids} is the same as {os.path.basename(truth.label_ids)}: label ids "
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
