"""Registered datasets: reading them, checking their files, and fingerprints of their content."""

import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import sha256_of
from mls_d2.data.annotations_coco import coco_records, image_names
from mls_d2.data.annotations_voc import voc_records, voc_stems
from mls_d2.data.cityscapes import cityscapes_records
from mls_d2.data.classification import FOLDER, register
from mls_d2.data.dataset_files import (
    datasets_root,
    evenly_spaced,
    explain_missing,
    listed,
    missing_of,
)
from mls_d2.data.detection import check_image_size
from mls_d2.data.images import BrokenImageError, image_size, read_image
from mls_d2.results.schema import Dataset
from mls_d2.scenes import read_marker

logger = logging.getLogger(__name__)

_SIZES_CHECKED = 5000


def register_coco(name: str, json_file: str, image_root: str) -> None:
    """Register a dataset in COCO's format, with categories of its own.

    ``json_file`` is read when the dataset is first used; ``image_root`` is the folder of the images
    that it lists.
    """
    DatasetCatalog.register(name, functools.partial(coco_records, name))
    MetadataCatalog.get(name).set(
        json_file=os.fspath(json_file), image_root=os.fspath(image_root), evaluator_type="coco"
    )


def read_through_validators() -> None:
    """Replace Detectron2's readers of COCO, VOC and Cityscapes in its catalog by ours."""
    kinds = ((_is_coco, coco_records), (_is_voc, voc_records), (_is_cityscapes, cityscapes_records))
    for name in DatasetCatalog.list():
        reader = next((reader for is_kind, reader in kinds if is_kind(name)), None)
        if reader and getattr(DatasetCatalog[name], "__module__", "").startswith("detectron2."):
            DatasetCatalog[name] = functools.partial(reader, name)


def check_dataset(name: str, *, test: bool = False) -> None:
    """Make sure that the files of a registered dataset are there, and validate its annotations.

    For COCO these are the annotation file and every image that it lists; for VOC the list of the
    split, and the image and annotation of every line; for Cityscapes the folders of images and of
    labels. A dataset whose metadata has a ``check`` is checked by that.

    Args:
        name: of the dataset.
        test: whether there must be objects and every image is decoded, because it is evaluated: a
            damaged one would end the run after its training.

    Raises:
        UserError: no such dataset, the root is missing, files are missing (names some and counts
            them), or annotations are damaged.
    """
    if name.startswith(FOLDER):
        register(name)
    if name not in DatasetCatalog.list():
        raise UserError(
            f"no dataset '{name}' is registered; {nearest(name, DatasetCatalog.list())}",
            code="unknown-name",
        )
    metadata = MetadataCatalog.get(name)
    if metadata.get("check"):
        metadata.check()
    else:
        _check_parts(name)
    records = []
    if _is_coco(name):
        records = coco_records(name)
        files = [record["file_name"] for record in records]
        _check_files(name, files, "images")
        again = len(files) - len(set(files))
        if again:
            text = "dataset '%s': %d of %d images are listed more than once, and count as often"
            logger.warning(text, name, again, len(files))
    elif _is_voc(name):
        stems = voc_stems(metadata.dirname, metadata.split)
        for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
            files = [os.path.join(metadata.dirname, folder, f"{stem}{suffix}") for stem in stems]
            _check_files(name, files, f"files of {folder}")
        records = voc_records(name)
    if not test:
        _check_sizes(evenly_spaced(records, _SIZES_CHECKED))
        return
    if records and not any(record["annotations"] for record in records):
        raise UserError(
            f"dataset '{name}' has no objects in {len(records)} images, so it has no AP",
            code="missing-data",
        )
    _check_pixels(name, records or [{"file_name": path} for path in image_files(name)])


def image_files(name: str) -> list[str]:
    """Return the paths of a dataset's images, in the order of Detectron2's records.

    Annotations are not read, so a dataset with damaged ones can be pretrained on.

    Raises:
        UserError: no such dataset, or a list that is missing or damaged.
    """
    metadata = MetadataCatalog.get(name)
    if _is_coco(name):
        names = image_names(metadata.json_file)
        return [os.path.join(metadata.image_root, item) for item in names]
    if _is_voc(name):
        folder = os.path.join(metadata.dirname, "JPEGImages")
        stems = voc_stems(metadata.dirname, metadata.split)
        return [os.path.join(folder, f"{stem}.jpg") for stem in stems]
    return [record["file_name"] for record in DatasetCatalog.get(name)]


def dataset_fingerprint(name: str) -> Dataset:
    """Return what identifies the content of a dataset whose files are there.

    Its fingerprint is a hex digest of the image names and sizes, and of COCO's annotation file.
    """
    digest = hashlib.sha256()
    paths = image_files(name)
    if _is_coco(name):
        digest.update(sha256_of(MetadataCatalog.get(name).json_file).encode())
    root = datasets_root()
    for path in sorted(paths):
        digest.update(os.fsencode(f"{os.path.relpath(path, root)}\0{os.path.getsize(path)}\n"))
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

    ``num_images`` counts the training images, or the test images if there is no training set.
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


def _is_coco(name: str) -> bool:
    metadata = MetadataCatalog.get(name)
    return bool(
        metadata.get("json_file")
        and metadata.get("image_root") is not None  # "" if the file has whole paths
        and metadata.get("evaluator_type", "coco") == "coco"
        and not metadata.get("keypoint_names")
    )


def _is_voc(name: str) -> bool:
    metadata = MetadataCatalog.get(name)
    return bool(metadata.get("dirname") and metadata.get("split"))


def _is_cityscapes(name: str) -> bool:
    return MetadataCatalog.get(name).get("evaluator_type") == "cityscapes_sem_seg"


def _check_parts(name: str) -> None:
    """Check the files and folders without which a dataset cannot be read."""
    metadata = MetadataCatalog.get(name)
    if _is_voc(name):
        split = os.path.join("ImageSets", "Main", f"{metadata.split}.txt")
        parts = [os.path.join(metadata.dirname, p) for p in (split, "Annotations", "JPEGImages")]
    else:
        keys = ("json_file", "image_root", "image_dir", "gt_dir")
        parts = [metadata.get(key) for key in keys if metadata.get(key)]
    absent = [path for path in parts if not os.path.exists(path)]
    if absent:
        raise explain_missing(name, absent, len(parts), "files and folders")
    empty = [path for path in parts if os.path.isdir(path) and not os.listdir(path)]
    if empty:
        raise UserError(f"dataset '{name}': the folder '{empty[0]}' is empty", code="missing-data")


def _check_files(name: str, files: Sequence[str], what: str) -> None:
    absent = missing_of(files)
    if absent:
        raise explain_missing(name, absent, len(files), what)


def _check_sizes(records: Sequence[dict[str, Any]]) -> None:
    """Compare annotated sizes with the headers of images."""
    for record in records:
        try:
            size = image_size(record["file_name"])
        except BrokenImageError:
            continue  # Left out of training.
        _check_size(record, size)


def _check_size(record: dict[str, Any], size: Sequence[int]) -> None:
    try:
        check_image_size(record, size)
    except BrokenImageError as error:
        image = f"'{record['file_name']}' (image id {record['image_id']})"
        raise UserError(f"{image}: {error}", code="damaged-annotation") from None


def _check_pixels(name: str, records: Sequence[dict[str, Any]]) -> None:
    """Decode all images, and compare annotated sizes with theirs.

    5,000 images of COCO take some seconds on eight cores.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        faults = tqdm(
            pool.map(_fault_of, records), name, len(records), unit="img", leave=False, disable=None
        )
        broken = list(dict.fromkeys(fault for fault in faults if fault))
    if broken:
        raise UserError(
            f"dataset '{name}': {len(broken)} of {len(records)} test images cannot be read; get "
            f"them again:{listed(broken)}",
            code="damaged-image",
        )


def _fault_of(record: dict[str, Any]) -> str:
    """Return why an image cannot be read, or ""."""
    try:
        image = read_image(record["file_name"])
    except BrokenImageError as error:
        return str(error)
    _check_size(record, image.shape[:2])
    return ""
