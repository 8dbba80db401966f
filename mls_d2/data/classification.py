"""Classification datasets: their files, classes and splits, and where to get them."""

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from mls_d2.core.errors import UserError
from mls_d2.data import classification_readers as readers
from mls_d2.data.dataset_files import (
    dataset_table,
    datasets_root,
    explain_missing,
    listed,
    missing_of,
)
from mls_d2.data.images import printable

logger = logging.getLogger(__name__)

FOLDER = "folder:"
"""Before the path of a split whose subfolders are the classes, as the name of a dataset."""


@dataclass(frozen=True)
class ClassificationDataset:
    """A labelled dataset."""

    title: str
    num_classes: int  # C
    # Number of images by split; None if it depends on what was generated.
    splits: Mapping[str, int | None]
    # Files and folders that must be there, below the datasets' root; ``{split}`` stands for the
    # split.
    files: tuple[str, ...]
    page: str  # official
    archives: str  # what to get from there, and where to unpack it
    reader: readers.Reader  # from the root and the name of a split to the labels
    multi_label: bool = False  # whether an image may show several classes
    names: tuple[str, ...] = ()  # of the classes, if they are known before the files are read


def _dataset(key: str, multi_label: bool = False, **fields: Any) -> ClassificationDataset:
    files = fields.pop("files")
    if key == "voc2007":
        files += [f"VOC2007/ImageSets/Main/{name}_{{split}}.txt" for name in readers.CLASS_NAMES]
    return ClassificationDataset(
        files=tuple(files), reader=readers.READERS[key], multi_label=multi_label, **fields
    )


DATASETS: dict[str, ClassificationDataset] = {
    key: _dataset(key, **fields) for key, fields in dataset_table("classification").items()
}
"""By key. A split is registered as ``<key>_<split>``."""


def register_classification() -> None:
    """Register all splits with Detectron2's catalog, once; call it from ``register_all`` alone."""
    for key, data in DATASETS.items():
        for split in data.splits:
            register(f"{key}_{split}")


def register(name: str) -> None:
    """Register a split, or ``folder:PATH``: images in one subfolder of PATH for each class.

    ``folder:birds/train`` and ``folder:birds/val`` are the splits of one dataset: the classes are
    the subfolders of all folders beside each other that are named train, val, trainval or test.
    """
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, lambda: load_classification(name).records)
        MetadataCatalog.get(name).set(
            evaluator_type="classification", check=functools.partial(check_classification, name)
        )


def find(name: str) -> tuple[str, str, ClassificationDataset]:
    """Return key, split and dataset of a name; for ``folder:PATH`` read the classes.

    Raises:
        UserError: no classification dataset.
    """
    if name.startswith(FOLDER):
        return _find_folder(name)
    key, _, split = name.rpartition("_")
    if key not in DATASETS or split not in DATASETS[key].splits:
        names = [f"{key}_{split}" for key, data in DATASETS.items() for split in data.splits]
        raise UserError(
            f"'{name}' is no classification dataset; those are {', '.join(names)}, and "
            "folder:PATH with a folder of images for each class",
            code="unknown-name",
        )
    return key, split, DATASETS[key]


def _find_folder(name: str) -> tuple[str, str, ClassificationDataset]:
    path = os.path.abspath(os.path.expanduser(name.removeprefix(FOLDER)))
    parent, split = os.path.split(path)
    names = readers.folder_classes(path)
    data = ClassificationDataset(
        title=name,
        num_classes=len(names),
        names=names,
        splits={split: None},
        files=(path,),
        page=path,
        archives="one folder of images for each class, such as train/dog/1.jpg",
        reader=lambda root, split: readers.read_folder(path, names),
    )
    return os.path.basename(parent) or split, split, data


def load_classification(name: str) -> readers.Labelled:
    """Read the labels of a classification dataset.

    Raises:
        UserError: files are missing (names them, and where to get them) or damaged.
    """
    _, split, data = find(name)
    root = datasets_root()
    paths = [os.path.join(root, part.format(split=split)) for part in data.files]
    absent = [path for path in paths if not os.path.exists(path)]
    if absent:
        raise _missing(name, absent, len(paths), "files and folders")
    try:
        labelled = data.reader(root, split)
    except UserError:
        raise
    except Exception as error:
        # scipy fails in many ways. torchvision does if a file has another checksum, too, and then
        # says to download by its own means.
        foreign = "corrupted" in str(error) or "download=True" in str(error)
        problem = "missing, or not the official one" if foreign else str(error)
        raise UserError(
            f"dataset '{name}': one of these files is damaged ({problem}); get them again from "
            f"{data.page}, {data.archives}:{listed(paths)}",
            code="damaged-file",
        ) from None
    if len(labelled.names) != data.num_classes or not labelled.records:
        raise UserError(
            f"dataset '{name}': {len(labelled.names)} classes and {len(labelled.records)} images "
            f"are listed, expected {data.num_classes} classes; a part of {data.title} is missing. "
            f"Get it again: {data.page}, {data.archives}",
            code="missing-data",
        )
    return labelled


def check_classification(name: str) -> None:
    """Make sure that a dataset's lists and all images that they name are there.

    Of ``folder:PATH`` it warns of files that are not read, and of classes without images.

    Raises:
        UserError: names some of what is missing, how much it is and where to get it.
    """
    labelled = load_classification(name)
    files = sorted({record["file_name"] for record in labelled.records})
    absent = missing_of(files)
    if absent:
        raise _missing(name, absent, len(files), "images")
    if name.startswith(FOLDER):
        _warn_of_gaps(name, labelled)


def _warn_of_gaps(name: str, labelled: readers.Labelled) -> None:
    (path,) = find(name)[2].files
    if unread := readers.unread_files(path, labelled.records):
        logger.warning(
            "'%s': %d files are no images in the folder of a class, and are left out:%s",
            name, len(unread), listed([printable(item) for item in unread]),
        )  # fmt: skip
    shown = {label for record in labelled.records for label in record["classes"]}
    if absent := [item for index, item in enumerate(labelled.names) if index not in shown]:
        logger.warning(
            "'%s' has no images of %d of %d classes, which are in another split:%s",
            name, len(absent), len(labelled.names), listed([printable(item) for item in absent]),
        )  # fmt: skip


def _missing(name: str, absent: Sequence[str], total: int, what: str) -> UserError:
    data = find(name)[2]
    error = explain_missing(name, absent, total, what)
    return UserError(
        f"{error}\nget {data.title} from {data.page}: {data.archives}", code=error.code
    )
