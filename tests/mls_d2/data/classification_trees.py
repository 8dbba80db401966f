"""Tiny datasets in the layouts of the official archives: one image a class and split."""

import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZES = {  # classes, images of training and test
    "cub200": (200, 200, 200),
    "flowers102": (102, 204, 102),  # train and val
    "cars": (196, 196, 196),
    "aircraft": (100, 100, 100),
    "indoor67": (67, 67, 67),
    "pets": (37, 37, 37),
    "dtd": (47, 94, 47),  # train and val
}
_SIZE = (44, 40)


@functools.cache
def _image(label: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.full((*_SIZE[::-1], 3), (label * 37 % 256, label * 91 % 256, label % 256), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def write_cub200(root: Path) -> None:
    folder = root / "CUB_200_2011"
    names = [f"{label + 1:03d}.Bird_{label}" for label in range(200)]
    images = [(label, f"{name}/{part}.jpg") for label, name in enumerate(names) for part in "ab"]
    for label, path in images:
        _write(folder / "images" / path, _image(label))
    number = range(1, len(images) + 1)
    tables = {
        "classes.txt": [f"{label + 1} {name}" for label, name in enumerate(names)],
        "images.txt": [f"{n} {path}" for n, (_, path) in zip(number, images, strict=True)],
        "image_class_labels.txt": [
            f"{n} {label + 1}" for n, (label, _) in zip(number, images, strict=True)
        ],
        "train_test_split.txt": [f"{n} {n % 2}" for n in number],
    }
    for name, lines in tables.items():
        _write(folder / name, _lines(lines))


def write_flowers102(root: Path) -> None:
    folder = root / "flowers-102"
    labels = np.tile(np.arange(102), 4)
    for number, label in enumerate(labels, 1):
        _write(folder / "jpg" / f"image_{number:05d}.jpg", _image(label))
    savemat(folder / "imagelabels.mat", {"labels": labels[None] + 1})
    # As in the archive, most images belong to the test.
    ids = {"trnid": range(1, 103), "valid": range(103, 205), "tstid": range(307, 409)}
    savemat(folder / "setid.mat", {name: np.array([value]) for name, value in ids.items()})


def write_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    kinds = np.dtype([("fname", object), ("class", object)])
    annotations = np.array([(f"{n:05d}.jpg", n) for n in range(1, 197)], dtype=kinds)
    for split in ("train", "test"):
        for number in range(1, 197):
            _write(folder / f"cars_{split}" / f"{number:05d}.jpg", _image(number - 1))
    (folder / "devkit").mkdir()
    names = np.array([f"Car {label}" for label in range(196)], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": annotations})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": annotations})


def write_aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    names = [f"Boeing {label}-{label}" for label in range(100)]
    _write(folder / "variants.txt", _lines(names))
    for offset, split in enumerate(("trainval", "test")):
        stems = [f"{1000 * offset + label:07d}" for label in range(100)]
        for label, stem in enumerate(stems):
            _write(folder / "images" / f"{stem}.jpg", _image(label))
        lines = [f"{stem} {name}" for stem, name in zip(stems, names, strict=True)]
        _write(folder / f"images_variant_{split}.txt", _lines(lines))


def write_indoor67(root: Path) -> None:
    folder = root / "indoor67"
    names = sorted(f"room{label}" for label in range(67))
    for split in ("Train", "Test"):
        # Some names of the real one have a space.
        paths = [f"{name}/{split} 1.jpg" for name in names]
        for label, path in enumerate(paths):
            _write(folder / "Images" / path, _image(label))
        _write(folder / f"{split}Images.txt", "\n".join(paths))


def write_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    names = [f"{'Cat' if label % 2 else 'dog'}_of_kind_{label}" for label in range(37)]
    for number, split in enumerate(("trainval", "test")):
        for label, name in enumerate(names):
            _write(folder / "images" / f"{name}_{number}.jpg", _image(label))
        lines = [f"{name}_{number} {label + 1} 1 1" for label, name in enumerate(names)]
        _write(folder / "annotations" / f"{split}.txt", _lines(lines))


def write_dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    names = sorted(f"texture{label}" for label in range(47))
    for split in ("train", "val", "test"):
        paths = [f"{name}/{name}_{split}.jpg" for name in names]
        for label, path in enumerate(paths):
            _write(folder / "images" / path, _image(label))
        _write(folder / "labels" / f"{split}1.txt", _lines(paths))


WRITERS = {
    "cub200": write_cub200,
    "flowers102": write_flowers102,
    "cars": write_cars,
    "aircraft": write_aircraft,
    "indoor67": write_indoor67,
    "pets": write_pets,
    "dtd": write_dtd,
}
