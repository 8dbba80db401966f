"""Preparing datasets: their official sources and counts, and checks of what is there."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tqdm import tqdm

from mls_d2.core.errors import UserError
from mls_d2.data.cityscapes import prepare_cityscapes
from mls_d2.data.classification import DATASETS
from mls_d2.data.dataset_files import (
    dataset_table,
    datasets_root,
    evenly_spaced,
    folders_in,
    listed,
)
from mls_d2.data.datasets import check_dataset, image_files
from mls_d2.data.images import BrokenImageError, read_image
from mls_d2.scenes import read_marker


@dataclass(frozen=True)
class Source:
    """A dataset, as its authors publish it."""

    title: str
    # The official number of images by the name that Detectron2 has for the split.
    splits: Mapping[str, int]
    page: str  # official
    archives: str  # what to get there, and where it goes below the datasets' folder
    # Makes the files of a split that the archives lack; None if they lack none.
    prepare: Callable[[str], None] | None = None


_PREPARE = {"cityscapes": prepare_cityscapes}
SOURCES: dict[str, Source] = {
    key: Source(**fields, prepare=_PREPARE.get(key))
    for key, fields in dataset_table("detection").items()
} | {
    key: Source(
        title=data.title,
        splits={f"{key}_{split}": count for split, count in data.splits.items() if count},
        page=data.page,
        archives=data.archives,
    )
    for key, data in DATASETS.items()
    if all(data.splits.values())
}
"""By the name that tools/prepare_data.py takes."""


@dataclass(frozen=True)
class Finding:
    """The state of one dataset."""

    facts: tuple[str, ...]  # one line for each split that is ready
    problems: tuple[str, ...]  # messages about the others; they name the files


def inspect(source: Source, *, sample: int, subset: bool = False) -> Finding:
    """Check files, annotations and counts of all splits, decode images, and make derived files.

    ``sample`` images are decoded in each split, evenly spaced; with ``subset``, a split may have
    fewer images than the official one.
    """
    marker = read_marker(datasets_root())
    synthetic = bool(marker and marker.get("synthetic"))
    facts, problems = [], []
    for name, count in source.splits.items():
        try:
            check_dataset(name)
            if source.prepare:
                source.prepare(name)
            files = image_files(name)
        except UserError as error:
            problems.append(str(error))
            continue
        # Generated scenes have other counts than the dataset that they stand for.
        counted = synthetic or len(files) == count or (subset and len(files) < count)
        broken, number = _decode(name, files, sample)
        if not counted:
            problems.append(
                f"dataset '{name}' lists {len(files)} images, the official one has {count}: "
                "results would not be comparable with published ones; if it is a subset on "
                "purpose, use --subset"
            )
        if broken:
            problems.append(
                f"dataset '{name}': {len(broken)} of {number} sampled images cannot be read; "
                f"unpack the archive again:{listed(broken)}"
            )
        if counted and not broken:
            kind = ", generated scenes" if synthetic else f" of {count}" * (len(files) != count)
            facts.append(f"{name}: {len(files)} images{kind}; {number} of them read")
    # Splits that share files share their faults.
    return Finding(tuple(facts), tuple(dict.fromkeys(problems)))


def _decode(name: str, files: list[str], sample: int) -> tuple[list[str], int]:
    """Return the faults of a sample of the images and of all empty files, and their number."""
    empty = [path for path in files if os.path.isfile(path) and not os.path.getsize(path)]
    broken, picked = [], list(dict.fromkeys([*evenly_spaced(files, sample), *empty]))
    for path in tqdm(picked, desc=name, leave=False):
        try:
            read_image(path)
        except BrokenImageError as error:
            broken.append(str(error))
    return broken, len(picked)


def where_to_get(source: Source) -> str:
    """Return the official page and archives, and the folder in which they belong."""
    return f"{source.title}: {source.page}\n  {source.archives} (in {datasets_root()})"


def check_root() -> None:
    """Make sure that the datasets' folder exists, and is not a level too high or too low.

    Raises:
        UserError: names the folder, and what to set instead.
    """
    root = os.path.abspath(datasets_root())
    origin = "DETECTRON2_DATASETS" if os.getenv("DETECTRON2_DATASETS") else "the default"
    if not os.path.isdir(root):
        raise UserError(
            f"no folder '{root}' ({origin}); make it, unpack the datasets into it as in "
            "docs/datasets.md, and set DETECTRON2_DATASETS to it",
            code="missing-data",
        )
    known = _dataset_folders()
    if known & {os.path.basename(path) for path in folders_in(root)}:
        return
    above = root
    while os.path.basename(above) in known:  # more than once in dtd/dtd
        above = os.path.dirname(above)
    if above != root:
        raise _wrong_root(root, origin, "low", above)
    for folder in folders_in(root):
        if known & {os.path.basename(path) for path in folders_in(folder)}:
            raise _wrong_root(root, origin, "high", folder)


def _dataset_folders() -> set[str]:
    """Return the names of the folders of datasets."""
    tables = dataset_table("classification").values()
    names = {path.partition("/")[0] for table in tables for path in table["files"]}
    return names | {"coco", "VOC2007", "VOC2012", "cityscapes"}


def _wrong_root(root: str, origin: str, off: str, better: str) -> UserError:
    levels = abs(root.count(os.sep) - better.count(os.sep))
    number = "one level" if levels == 1 else f"{levels} levels"
    return UserError(
        f"'{root}' ({origin}) is {number} too {off}; set DETECTRON2_DATASETS={better}",
        code="bad-value",
    )
