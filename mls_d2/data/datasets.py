"""Checks of a dataset's files before anything is built, and fingerprints of what was used."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import sha256_of
from mls_d2.results.schema import Dataset
from mls_d2.scenes import read_marker

_SHOWN = 5


def datasets_root() -> str:
    """Return the folder under which Detectron2 looks for its builtin datasets."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def check_dataset(name: str) -> None:
    """Make sure that a registered dataset's files are there.

    For COCO that is the annotation file and every image that it lists; for VOC the list of the
    split, and the image and annotation of every line; for Cityscapes the folders of images and of
    labels. A dataset whose metadata has a ``check`` is checked by that.

    Raises:
        UserError: no such dataset (names the nearest), the root is missing, or files are missing
            (names some of them and how many there are).
    """
    if name not in DatasetCatalog.list():
        raise UserError(
            f"no dataset '{name}' is registered; {nearest(name, DatasetCatalog.list())}"
        )
    own_check = MetadataCatalog.get(name).get("check")
    if own_check:
        own_check()
        return
    parts = _parts(name)
    absent = [path for path in parts if not os.path.exists(path)]
    if absent:
        raise UserError(explain_missing(name, absent, len(parts), "files and folders"))
    empty = [path for path in parts if os.path.isdir(path) and not os.listdir(path)]
    if empty:
        raise UserError(f"dataset '{name}': the folder '{empty[0]}' is empty")
    metadata = MetadataCatalog.get(name)
    if metadata.get("json_file") and metadata.get("image_root"):
        _check_files(name, metadata.image_root, _coco_images(metadata.json_file), "images")
    elif _is_voc(name):
        stems = _voc_images(metadata.dirname, metadata.split)
        for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
            files = [f"{folder}/{stem}{suffix}" for stem in stems]
            _check_files(name, metadata.dirname, files, f"files of {folder}")


def image_files(name: str) -> list[str]:
    """Return the paths of a dataset's images, in the order of its list.

    Args:
        name: a registered dataset whose lists are there.

    Raises:
        UserError: the annotation file is none.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("json_file") and metadata.get("image_root"):
        images = _coco_images(metadata.json_file)
        return [os.path.join(metadata.image_root, item) for item in images]
    if _is_voc(name):
        folder = os.path.join(metadata.dirname, "JPEGImages")
        stems = _voc_images(metadata.dirname, metadata.split)
        return [os.path.join(folder, f"{stem}.jpg") for stem in stems]
    return [record["file_name"] for record in DatasetCatalog.get(name)]


def dataset_fingerprint(name: str) -> Dataset:
    """Return what identifies a dataset's content, for the results of a run.

    Args:
        name: a registered dataset whose files are there.

    Returns:
        ``name``; ``root``, the datasets folder; ``num_images``; ``synthetic``, whether the root
        holds generated scenes; ``fingerprint``, a hex digest of the image names and sizes and of
        the annotation file, where there is one.
    """
    metadata = MetadataCatalog.get(name)
    digest = hashlib.sha256()
    paths = image_files(name)
    if metadata.get("json_file") and metadata.get("image_root"):
        digest.update(sha256_of(metadata.json_file).encode())
    root = datasets_root()
    for path in sorted(paths):
        digest.update(f"{os.path.relpath(path, root)}\0{os.path.getsize(path)}\n".encode())
    marker = read_marker(root)
    return Dataset(
        name=name,
        root=root,
        num_images=len(paths),
        synthetic=bool(marker and marker.get("synthetic")),
        fingerprint=digest.hexdigest(),
    )


def combined_fingerprint(train: Sequence[str], test: Sequence[str]) -> Dataset:
    """Return one :func:`dataset_fingerprint` for a run's training and test sets together.

    ``num_images`` counts the training images, or the test images where there is no training set.
    """
    trained = [dataset_fingerprint(name) for name in train]
    tested = [dataset_fingerprint(name) for name in test]
    digest = hashlib.sha256("".join(item.fingerprint for item in trained + tested).encode())
    return Dataset(
        name=", ".join([*train, *test]),
        root=datasets_root(),
        num_images=sum(item.num_images for item in trained or tested),
        synthetic=any(item.synthetic for item in trained + tested),
        fingerprint=digest.hexdigest(),
    )


def _parts(name: str) -> list[str]:
    """Return the files and folders that a dataset cannot do without."""
    metadata = MetadataCatalog.get(name)
    if _is_voc(name):
        folder = metadata.dirname
        split = os.path.join("ImageSets", "Main", f"{metadata.split}.txt")
        return [os.path.join(folder, part) for part in (split, "Annotations", "JPEGImages")]
    keys = ("json_file", "image_root", "image_dir", "gt_dir")
    return [metadata.get(key) for key in keys if metadata.get(key)]


def _is_voc(name: str) -> bool:
    metadata = MetadataCatalog.get(name)
    return bool(metadata.get("dirname") and metadata.get("split"))


def _voc_images(folder: str, split: str) -> list[str]:
    path = os.path.join(folder, "ImageSets", "Main", f"{split}.txt")
    with open(path, encoding="utf-8") as file:
        stems = [line.split()[0] for line in file if line.strip()]
    if not stems:
        raise UserError(f"'{path}' lists no images; unpack VOC again")
    return stems


def _coco_images(json_file: str) -> tuple[str, ...]:
    stat = os.stat(json_file)
    return _read_coco_images(json_file, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _read_coco_images(json_file: str, mtime_ns: int, size: int) -> tuple[str, ...]:
    """Return the image names of an annotation file; time and size only tell versions apart."""
    try:
        with open(json_file, encoding="utf-8") as file:
            names = tuple(image["file_name"] for image in json.load(file)["images"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"'{json_file}' is no COCO annotation file, or truncated ({error}); download it again"
        ) from None
    if not names:
        raise UserError(f"'{json_file}' lists no images")
    return names


def _check_files(name: str, root: str, files: Sequence[str], what: str) -> None:
    there = _files_below(root, files)
    lacking = [os.path.join(root, item) for item in files if item not in there]
    if lacking:
        raise UserError(explain_missing(name, lacking, len(files), what))


def _files_below(root: str, names: Iterable[str]) -> set[str]:
    # One listing a folder instead of a look at each of 118,000 files.
    folders = {os.path.dirname(name) for name in names}
    present: set[str] = set()
    for folder in folders:
        path = os.path.join(root, folder)
        if os.path.isdir(path):
            present |= {os.path.join(folder, item) for item in os.listdir(path)}
    return present


def explain_missing(name: str, absent: Sequence[str], total: int, what: str) -> str:
    """Return a message that says which of ``total`` files of a dataset are missing, and where."""
    root = datasets_root()
    value = os.getenv("DETECTRON2_DATASETS")
    told = f"DETECTRON2_DATASETS={value}" if value else "DETECTRON2_DATASETS is not set"
    if not os.path.isdir(root):
        return f"dataset '{name}': no folder '{root}' ({told}); set it to the datasets' folder"
    shown = "\n  ".join(absent[:_SHOWN]) + ("\n  …" if len(absent) > _SHOWN else "")
    return (
        f"dataset '{name}' is incomplete: {len(absent)} of {total} {what} are missing "
        f"({told}):\n  {shown}"
    )
