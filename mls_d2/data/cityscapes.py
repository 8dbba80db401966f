"""Cityscapes on disk: whether it is whole, its train ids, and its classes' colours."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import labels as LABELS
from cityscapesscripts.helpers.labels import trainId2label
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write
from mls_d2.data.segmentation import read_labels

logger = logging.getLogger(__name__)

NUM_CLASSES = 19
IGNORED = 255
COLORS = np.array([trainId2label[index].color for index in range(NUM_CLASSES)], np.uint8)
"""``(19, 3)`` RGB by train id."""

_IMAGE_SUFFIX = "_leftImg8bit.png"
_SHOWN = 5
_SAMPLE = 8
_UNKNOWN = 254


@dataclass(frozen=True)
class _Truth:
    """The files that belong to one image; all but the train ids are part of the download."""

    stem: str

    def path(self, kind: str) -> str:
        return f"{self.stem}_gtFine_{kind}"

    @property
    def train_ids(self) -> str:
        return self.path("labelTrainIds.png")

    @property
    def label_ids(self) -> str:
        return self.path("labelIds.png")


def prepare_cityscapes(name: str) -> None:
    """Check a split file by file, and make the train ids that are missing.

    Args:
        name: a dataset with ``image_dir`` and ``gt_dir`` in its metadata, which exist, such as
            ``cityscapes_fine_sem_seg_train``.

    Raises:
        UserError: files that are missing or do not belong there, label ids in the place of train
            ids (of a sample of files), or a folder that cannot be written to.
    """
    truths = _list_truths(name)
    _make_train_ids([truth for truth in truths if not os.path.isfile(truth.train_ids)])
    for index in np.unique(np.linspace(0, len(truths) - 1, _SAMPLE).round().astype(int)):
        _check_train_ids(truths[index])


def train_id_table() -> np.ndarray:
    """Return ``(256,)`` uint8: the train id of a label id; 254 where there is no such label.

    Source: cityscapesscripts, whose own tool draws all polygons anew to the same end.
    """
    table = np.full(256, _UNKNOWN, np.uint8)
    for label in LABELS:
        if label.id >= 0:
            table[label.id] = label.trainId
    return table


def _make_train_ids(truths: list[_Truth]) -> None:
    """Write ``…_labelTrainIds.png`` beside ``…_labelIds.png``."""
    if not truths:
        return
    table = train_id_table()

    def convert(truth: _Truth) -> bytes:
        train_ids = cv2.LUT(_read_label_ids(truth.label_ids), table)
        if (train_ids == _UNKNOWN).any():
            raise UserError(f"{truth.label_ids} holds labels that Cityscapes does not have")
        return cv2.imencode(".png", train_ids)[1].tobytes()

    logger.info("making the train ids of %d images from their label ids", len(truths))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        pairs = zip(truths, pool.map(convert, truths), strict=True)
        for truth, content in tqdm(pairs, total=len(truths), desc="train ids", unit="img"):
            with atomic_write(truth.train_ids) as file:
                file.write(content)


def _list_truths(name: str) -> list[_Truth]:
    """Return what belongs to each image of a split, or refuse a split that is not whole."""
    metadata = MetadataCatalog.get(name)
    truths, strange, missing = [], [], []
    for city in _folders(metadata.image_dir):
        images = os.path.join(metadata.image_dir, city)
        present = set(_entries(os.path.join(metadata.gt_dir, city)))
        for entry in _entries(images):
            path = os.path.join(images, entry)
            if not entry.endswith(_IMAGE_SUFFIX):
                strange.append(path)
                continue
            stem = os.path.join(metadata.gt_dir, city, entry.removesuffix(_IMAGE_SUFFIX))
            truths.append(_Truth(stem))
            needed = [truths[-1].path(k) for k in ("labelIds.png", "polygons.json")]
            missing += [path for path in needed if os.path.basename(path) not in present]
    if strange:
        raise UserError(
            f"dataset '{name}': {strange[0]} is no image of Cityscapes (…{_IMAGE_SUFFIX}); "
            "remove it"
        )
    if not truths:
        raise UserError(f"dataset '{name}': no images in '{metadata.image_dir}'")
    if missing:
        shown = "\n  ".join(missing[:_SHOWN]) + ("\n  …" if len(missing) > _SHOWN else "")
        raise UserError(
            f"dataset '{name}' is incomplete: {len(missing)} files of gtFine for {len(truths)} "
            f"images are missing; unpack gtFine_trainvaltest.zip again:\n  {shown}"
        )
    return truths


def _folders(path: str) -> Iterator[str]:
    for entry in _entries(path):
        if not os.path.isdir(os.path.join(path, entry)):
            raise UserError(f"'{os.path.join(path, entry)}' is not the folder of a city; remove it")
        yield entry


def _entries(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _check_train_ids(truth: _Truth) -> None:
    train_ids = read_labels(truth.train_ids, NUM_CLASSES, IGNORED)
    label_ids = _read_label_ids(truth.label_ids)
    if np.array_equal(train_ids, label_ids) and (train_ids != IGNORED).any():
        raise UserError(
            f"{truth.train_ids} is the same as {os.path.basename(truth.label_ids)}: label ids "
            "instead of train ids. Remove the labelTrainIds files, and they are made anew"
        )


def _read_label_ids(path: str) -> np.ndarray:
    label_ids = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if label_ids is None or label_ids.dtype != np.uint8 or label_ids.ndim != 2:
        raise UserError(f"{path} is no 8-bit image of one channel, or truncated; unpack it again")
    return label_ids
