"""Classification datasets: their files, classes and splits, and where to get them."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, MetadataCatalog

from mls_d2.core.errors import UserError
from mls_d2.data import classification_readers as readers
from mls_d2.data.dataset_files import datasets_root, explain_missing, listed, missing_of

FOLDER = "folder:"
"""Before the path of a split whose subfolders are the classes, as the name of a dataset."""


@dataclass(frozen=True)
class ClassificationDataset:
    """A labelled dataset.

    Attributes:
        title: its usual name.
        num_classes: C.
        splits: number of images by split; None if it depends on what was generated.
        files: files and folders that must be there, below the datasets' root; ``{split}`` stands
            for the split.
        page: the official page.
        archives: what to get from there, and where to unpack it.
        reader: from the root and the name of a split to the labels.
        multi_label: whether an image may show several classes.
    """

    title: str
    num_classes: int
    splits: Mapping[str, int | None]
    files: tuple[str, ...]
    page: str
    archives: str
    reader: readers.Reader
    multi_label: bool = False


DATASETS: dict[str, ClassificationDataset] = {
    "voc2007": ClassificationDataset(
        title="PASCAL VOC 2007",
        num_classes=20,
        splits={"trainval": 5011, "test": 4952},
        files=(
            "VOC2007/JPEGImages",
            "VOC2007/ImageSets/Main/{split}.txt",
            *(f"VOC2007/ImageSets/Main/{name}_{{split}}.txt" for name in readers.CLASS_NAMES),
        ),
        page="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
        archives="VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar, whose VOCdevkit/VOC2007 "
        "becomes VOC2007",
        reader=readers.read_voc2007,
        multi_label=True,
    ),
    "cub200": ClassificationDataset(
        title="Caltech-UCSD Birds-200-2011",
        num_classes=200,
        splits={"train": 5994, "test": 5794},
        files=tuple(
            f"CUB_200_2011/{name}"
            for name in (
                "images", "images.txt", "image_class_labels.txt", "train_test_split.txt",
                "classes.txt",
            )
        ),
        page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        archives="CUB_200_2011.tgz, which unpacks to CUB_200_2011",
        reader=readers.read_cub200,
    ),
    "flowers102": ClassificationDataset(
        title="Oxford 102 Flowers",
        num_classes=102,
        splits={"trainval": 2040, "test": 6149},
        files=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        page="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        archives="102flowers.tgz (unpack it), imagelabels.mat and setid.mat, all into flowers-102",
        reader=readers.read_flowers102,
    ),
    "cars": ClassificationDataset(
        title="Stanford Cars",
        num_classes=196,
        splits={"train": 8144, "test": 8041},
        files=("stanford_cars/devkit/cars_meta.mat", "stanford_cars/devkit/cars_train_annos.mat",
               "stanford_cars/cars_test_annos_withlabels.mat", "stanford_cars/cars_{split}"),
        page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        archives="cars_train.tgz, cars_test.tgz and car_devkit.tgz (unpack them) and "
        "cars_test_annos_withlabels.mat, all into stanford_cars; that page is no longer online, so "
        "take a copy of these files",
        reader=readers.read_cars,
    ),
    "aircraft": ClassificationDataset(
        title="FGVC Aircraft, variants",
        num_classes=100,
        splits={"trainval": 6667, "test": 3333},
        files=("fgvc-aircraft-2013b/data/images", "fgvc-aircraft-2013b/data/variants.txt",
               "fgvc-aircraft-2013b/data/images_variant_{split}.txt"),
        page="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        archives="fgvc-aircraft-2013b.tar.gz, which unpacks to fgvc-aircraft-2013b",
        reader=readers.read_aircraft,
    ),
    "indoor67": ClassificationDataset(
        title="MIT Indoor Scenes (67)",
        num_classes=67,
        splits={"train": 5360, "test": 1340},
        files=("indoor67/Images", "indoor67/TrainImages.txt", "indoor67/TestImages.txt"),
        page="https://web.mit.edu/torralba/www/indoor.html",
        archives="indoorCVPR_09.tar (unpack it), TrainImages.txt and TestImages.txt, all into "
        "indoor67",
        reader=readers.read_indoor67,
    ),
    "pets": ClassificationDataset(
        title="Oxford-IIIT Pets",
        num_classes=37,
        splits={"trainval": 3680, "test": 3669},
        files=("oxford-iiit-pet/images", "oxford-iiit-pet/annotations/{split}.txt"),
        page="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        archives="images.tar.gz and annotations.tar.gz, both unpacked into oxford-iiit-pet",
        reader=readers.read_pets,
    ),
    "dtd": ClassificationDataset(
        title="Describable Textures (partition 1)",
        num_classes=47,
        splits={"trainval": 3760, "test": 1880},
        files=("dtd/dtd/images", *(f"dtd/dtd/labels/{name}1.txt" for name in ("train", "val",
                                                                             "test"))),
        page="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        archives="dtd-r1.0.1.tar.gz, unpacked into dtd (its own folder is dtd, too)",
        reader=readers.read_dtd,
    ),
    "scenes_objects": ClassificationDataset(
        title="objects of the scenes' COCO part",
        num_classes=80,
        splits={"train": None, "test": None},
        files=("coco/annotations/instances_train2017.json",
               "coco/annotations/instances_val2017.json", "coco/train2017", "coco/val2017"),
        page="tools/make_scenes.py",
        archives="nothing: it generates them",
        reader=readers.read_object_crops,
    ),
}  # fmt: skip
"""By key. A split is registered as ``<key>_<split>``."""


def register_classification() -> None:
    """Register all splits with Detectron2's catalog, once; call it from ``register_all`` alone."""
    for key, data in DATASETS.items():
        for split in data.splits:
            _register(f"{key}_{split}")


def register_folder(name: str) -> None:
    """Register ``folder:PATH``: images in one subfolder of PATH for each class.

    ``folder:birds/train`` and ``folder:birds/val`` are the splits of one dataset: the classes are
    the subfolders of all folders beside each other that are named train, val, trainval or test.
    """
    _register(name)


def _register(name: str) -> None:
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, lambda: load_classification(name).records)
        MetadataCatalog.get(name).set(
            evaluator_type="classification",
            check=functools.partial(check_classification, name),
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
        # torchvision says "not found or corrupted" of a whole dataset, and "run with
        # download=True" for another checksum; scipy fails in many ways.
        problem = str(error).partition(" or it's corrupted")[0]
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

    Raises:
        UserError: names some of what is missing, how much it is and where to get it.
    """
    files = sorted({record["file_name"] for record in load_classification(name).records})
    absent = missing_of(files)
    if absent:
        raise _missing(name, absent, len(files), "images")


def _missing(name: str, absent: Sequence[str], total: int, what: str) -> UserError:
    data = find(name)[2]
    error = explain_missing(name, absent, total, what)
    return UserError(
        f"{error}\nget {data.title} from {data.page}: {data.archives}", code=error.code
    )
