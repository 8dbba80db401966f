"""Where every dataset comes from, and whether what is there is whole, counted and readable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mls_d2.core.errors import UserError
from mls_d2.data.cityscapes import prepare_cityscapes
from mls_d2.data.classification import DATASETS
from mls_d2.data.datasets import check_dataset, datasets_root, image_files
from mls_d2.data.images import BrokenImageError, read_image
from mls_d2.scenes import read_marker

_SHOWN = 5


@dataclass(frozen=True)
class Source:
    """A dataset, as its authors publish it.

    Attributes:
        title: its usual name.
        splits: the official number of images by the name that Detectron2 has for the split.
        page: the official page.
        archives: what to get there, and where it goes below the datasets' folder.
        prepare: makes the files of a split that the archives lack; None where they lack none.
    """

    title: str
    splits: Mapping[str, int]
    page: str
    archives: str
    prepare: Callable[[str], None] | None = None


SOURCES: dict[str, Source] = {
    "coco": Source(
        title="COCO 2017",
        splits={"coco_2017_train": 118_287, "coco_2017_val": 5_000},
        page="https://cocodataset.org/#download",
        archives="train2017.zip, val2017.zip and annotations_trainval2017.zip, all unpacked into "
        "coco/",
    ),
    "coco-unlabeled": Source(
        title="COCO 2017, unlabelled images (to pretrain on more than train2017)",
        splits={"coco_2017_unlabeled": 123_403},
        page="https://cocodataset.org/#download",
        archives="unlabeled2017.zip, unpacked into coco/",
    ),
    "voc": Source(
        title="PASCAL VOC 2007 and 2012",
        splits={
            "voc_2007_trainval": 5_011,
            "voc_2007_test": 4_952,
            "voc_2012_trainval": 11_540,
        },
        page="http://host.robots.ox.ac.uk/pascal/VOC/",
        archives="VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar and "
        "VOCtrainval_11-May-2012.tar, whose folders VOCdevkit/VOC2007 and VOCdevkit/VOC2012 become "
        "VOC2007/ and VOC2012/",
    ),
    "cityscapes": Source(
        title="Cityscapes",
        splits={
            "cityscapes_fine_sem_seg_train": 2_975,
            "cityscapes_fine_sem_seg_val": 500,
        },
        page="https://www.cityscapes-dataset.com/downloads/ (needs an account)",
        archives="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, both unpacked into "
        "cityscapes/",
        prepare=prepare_cityscapes,
    ),
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
    """What was found of one dataset.

    Attributes:
        facts: one line for each split that is in order.
        problems: one message for each that is not; they name the files.
    """

    facts: tuple[str, ...]
    problems: tuple[str, ...]


def inspect(source: Source, *, sample: int) -> Finding:
    """Check the layout and counts of all splits, read a sample, and make derived files.

    Generated scenes have other counts than the dataset that they stand for.

    Args:
        source: what to look at, below ``DETECTRON2_DATASETS``.
        sample: number of images to decode in each split, evenly spaced.
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
            _check_count(name, len(files), count, synthetic=synthetic)
            _read_sample(name, files, sample)
        except UserError as error:
            problems.append(str(error))
            continue
        read = min(sample, len(files))
        scenes = ", generated scenes" if synthetic else ""
        facts.append(f"{name}: {len(files)} images{scenes}; {read} of them read")
    return Finding(tuple(facts), tuple(problems))


def where_to_get(source: Source) -> str:
    """Return the official page and archives, and the folder in which they belong."""
    return f"{source.title}: {source.page}\n  {source.archives} (in {datasets_root()})"


def _check_count(name: str, found: int, expected: int, *, synthetic: bool) -> None:
    if found != expected and not synthetic:
        raise UserError(
            f"dataset '{name}' lists {found} images, the official one has {expected}: results "
            "would not be comparable with published ones"
        )


def _read_sample(name: str, files: list[str], number: int) -> None:
    picked = np.unique(np.linspace(0, len(files) - 1, min(number, len(files))).round().astype(int))
    broken = list(_broken(tqdm([files[index] for index in picked], desc=name, leave=False)))
    if broken:
        shown = "\n  ".join(broken[:_SHOWN]) + ("\n  …" if len(broken) > _SHOWN else "")
        raise UserError(
            f"dataset '{name}': {len(broken)} of {len(picked)} sampled images cannot be read; "
            f"unpack the archive again:\n  {shown}"
        )


def _broken(paths: Iterable[str]) -> Iterable[str]:
    for path in paths:
        try:
            read_image(path)
        except BrokenImageError as error:
            yield str(error)


def roots_problem() -> str:
    """Say what is wrong with the datasets' folder itself; empty where nothing is."""
    root = datasets_root()
    if os.path.isdir(root):
        return ""
    told = "DETECTRON2_DATASETS" if os.getenv("DETECTRON2_DATASETS") else "the default"
    return (
        f"no folder '{root}' ({told}); make it, unpack the datasets into it as docs/datasets.md "
        "says, and set DETECTRON2_DATASETS to it"
    )
