"""Labels are read from the layouts of the official archives, and from folders of classes."""

import json
import os
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image
from torchvision.datasets import Flowers102

from mls_d2.core.errors import UserError
from mls_d2.data.classification import (
    DATASETS,
    check_classification,
    find,
    load_classification,
)
from mls_d2.data.classification_readers import CLASS_NAMES, read_object_crops, read_voc2007
from mls_d2.data.datasets import check_dataset, combined_fingerprint
from mls_d2.run.registration import register_all
from tests.mls_d2.data.classification_trees import SIZES, WRITERS


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    register_all()
    files = {name: (file, None) for name, (file, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", files)  # Ours have other checksums.


@pytest.fixture(scope="module", params=sorted(WRITERS))
def written(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](root)
    return request.param, root


@pytest.fixture
def tree(written, monkeypatch):
    """The key of a dataset whose files are below the returned root; to be left as it is."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(written[1]))
    return written


def names_of(key):
    return [f"{key}_{split}" for split in DATASETS[key].splits]


def test_each_split_has_its_images_and_labels_and_shares_none(tree):
    key, root = tree
    num_classes, *sizes = SIZES[key]
    train, test = (load_classification(name) for name in names_of(key))
    for data, size in zip((train, test), sizes, strict=True):
        labels = [record["classes"] for record in data.records]
        assert len(labels) == size
        assert all(len(label) == 1 for label in labels)
        assert set(Counter(label[0] for label in labels)) == set(range(num_classes))
        assert len(data.names) == num_classes
        assert len({record["image_id"] for record in data.records}) == size
    assert train.names == test.names
    files = [{record["file_name"] for record in data.records} for data in (train, test)]
    assert not files[0] & files[1]


# Class and split as the path of a training image shows them: folder, stem, class, its name.
FILE_SHOWS = {
    "cub200": lambda folder, stem, label, name: (folder, stem) == (f"{label + 1:03d}.{name}", "a"),
    "flowers102": lambda folder, stem, label, name: int(stem[-5:]) - 1 in (label, label + 102),
    "cars": lambda folder, stem, label, name: (
        (folder, name, int(stem) - 1) == ("cars_train", f"Car {label}", label)
    ),
    "aircraft": lambda folder, stem, label, name: int(stem) == label,
    "indoor67": lambda folder, stem, label, name: (folder, stem) == (name, "Train 1"),
    "pets": lambda folder, stem, label, name: stem.lower() == name.lower().replace(" ", "_") + "_0",
    "dtd": lambda folder, stem, label, name: (folder, stem[-4:] != "test") == (name, True),
}


def test_class_and_split_are_those_of_the_file(tree):
    key, root = tree
    data = load_classification(names_of(key)[0])
    for record in data.records[::7]:
        label, path = record["classes"][0], record["file_name"]
        stem = os.path.splitext(os.path.basename(path))[0]
        folder = os.path.basename(os.path.dirname(path))
        assert FILE_SHOWS[key](folder, stem, label, data.names[label]), record


def test_a_complete_dataset_passes_and_is_identified(tree):
    key, root = tree
    for name in names_of(key):
        check_dataset(name)
    found = combined_fingerprint(names_of(key)[:1], names_of(key)[1:])
    assert found.num_images == SIZES[key][1]
    assert not found.synthetic
    assert len(DatasetCatalog.get(names_of(key)[0])) == SIZES[key][1]


def test_each_missing_file_and_its_origin_are_named(tree, refuses):
    key, root = tree
    name = names_of(key)[1]
    split = find(name)[1]
    for part in DATASETS[key].files:
        path = root / part.format(split=split)
        path.rename(root / "hidden")
        with refuses("missing-data") as caught:
            check_dataset(name)
        (root / "hidden").rename(path)
        assert str(path) in str(caught.value)
        assert DATASETS[key].page in str(caught.value)
    records = load_classification(name).records
    for record in records[3:5]:
        os.rename(record["file_name"], record["file_name"] + ".hidden")
    with refuses("missing-data") as caught:
        check_dataset(name)
    assert f"2 of {len(records)} images are missing" in str(caught.value)
    assert records[3]["file_name"] in str(caught.value)
    for record in records[3:5]:
        os.rename(record["file_name"] + ".hidden", record["file_name"])


DAMAGES = {
    "a .mat that is cut": ("cars_train", "stanford_cars/devkit/cars_train_annos.mat", "MATLAB 5"),
    "an empty .mat": ("flowers102_test", "flowers-102/imagelabels.mat", ""),
    "a short line": ("cub200_train", "CUB_200_2011/image_class_labels.txt", "1 1\n2\n"),
    "an image without a label": ("cub200_train", "CUB_200_2011/image_class_labels.txt", "1 1\n"),
    "an image of no class": ("indoor67_test", "indoor67/TestImages.txt", "attic/1.jpg\n"),
    "a class too few": ("dtd_trainval", "dtd/dtd/labels/train1.txt", "texture0/texture0_train.jpg"),
}


@pytest.mark.parametrize(("name", "path", "text"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_a_user_error(tmp_path, monkeypatch, name, path, text):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    WRITERS[name.partition("_")[0]](tmp_path)
    (tmp_path / path).write_text(text)
    with pytest.raises(UserError) as caught:
        check_dataset(name)
    assert caught.value.code in ("damaged-file", "damaged-annotation", "missing-data")
    assert (
        os.path.basename(path) in str(caught.value)
        or "a part of" in str(caught.value)
        or (os.path.dirname(path) in str(caught.value))
    )
    assert "download=True" not in str(caught.value)


def test_another_checksum_is_told_without_the_advice_of_torchvision(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    WRITERS["flowers102"](tmp_path)
    files = {name: (file, "0" * 32) for name, (file, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", files)
    with pytest.raises(UserError, match=r"not the official one.*setid\.mat") as caught:
        check_dataset("flowers102_test")
    assert "download" not in str(caught.value).replace("downloads", "")


def test_other_names_are_unknown(refuses):
    with refuses("unknown-name"):
        find("coco_2017_train")
    with refuses("unknown-name", "did you mean 'cub200_train'"):
        check_dataset("cub200_trian")


@pytest.fixture
def birds(tmp_path):
    """Folders of images by class: finch and owl to train on, owl and wren to evaluate."""
    for name in ("train/finch/1.png", "train/owl/2.png", "train/owl/sub/3.png", "val/owl/4.png",
                 "val/wren/5.png"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def test_folders_by_class_share_the_classes_of_their_splits(birds):
    train, val = (f"folder:{birds}/{split}" for split in ("train", "val"))
    for name in (train, val):
        check_dataset(name, test=True)
        assert load_classification(name).names == ("finch", "owl", "wren")
    key, split, data = find(val)
    assert (key, split, data.num_classes, data.multi_label) == (birds.name, "val", 3, False)
    shown = [record["classes"] for record in DatasetCatalog.get(train)]
    assert shown == [[0], [1], [1]]
    assert [record["classes"] for record in load_classification(val).records] == [[1], [2]]
    found = combined_fingerprint([train], [val])
    assert found.num_images == 3


def test_classes_and_files_that_are_left_out_are_named(birds, caplog):
    for name in ("train/6.png", "train/owl/7.heic", "train/.hidden.png", "train/owl/._2.png"):
        (birds / name).write_bytes(b"x")
    check_dataset(f"folder:{birds}/train")
    assert "2 files are no images in the folder of a class" in caplog.text
    assert f"{birds}/train/6.png" in caplog.text
    assert "no images of 1 of 3 classes" in caplog.text
    assert caplog.text.rstrip().endswith("wren")


@pytest.mark.parametrize("name", ["Ünïcödé 猫", "a,b'(c)[d]%s$x", "train", b"caf\xe9"])
def test_classes_have_any_name(birds, name):
    for split in ("train", "val"):
        (birds / split / "owl").rename(birds / split / os.fsdecode(name))
        check_dataset(f"folder:{birds}/{split}", test=True)
    names = load_classification(f"folder:{birds}/val").names
    assert names == tuple(sorted(["finch", "wren", os.fsdecode(name)]))


def test_links_into_another_class_and_to_nowhere_are_refused(birds, refuses):
    (birds / "train" / "owl" / "lost.png").symlink_to(birds / "nowhere.png")
    with refuses("missing-data") as caught:
        check_dataset(f"folder:{birds}/train")
    assert "lost.png" in str(caught.value)
    (birds / "train" / "owl" / "lost.png").unlink()
    (birds / "train" / "owl" / "up").symlink_to("../finch")
    with refuses("bad-value") as caught:
        check_dataset(f"folder:{birds}/train")
    assert "owl/up' is a link to images of class 'finch'" in str(caught.value)


def test_other_folders_are_refused(birds, refuses):
    for path, code in (
        ("none", "missing-data"),
        ("train/owl/sub", "missing-data"),
        (".", "bad-value"),
    ):
        with refuses(code):
            check_dataset(f"folder:{birds}/{path}")
    (birds / "train" / "empty").mkdir()
    with refuses("missing-data"):
        check_dataset(f"folder:{birds}/train")


@pytest.fixture
def voc(tmp_path, monkeypatch):
    """Three images: a dog and difficult cats; nothing but a difficult dog; nothing."""
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("000001\n000002\n000009\n")
    for name in CLASS_NAMES:
        flags = {"dog": ("1", "0", "-1"), "cat": ("0", "-1", "-1")}.get(name, ("-1",) * 3)
        stems = ("000001", "000002", "000009")
        lines = [f"{stem} {flag:>2}" for stem, flag in zip(stems, flags, strict=True)]
        (lists / f"{name}_test.txt").write_text("\n".join(lines))
    (tmp_path / "VOC2007" / "JPEGImages").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return lists


def test_voc_separates_clear_from_difficult_objects(voc, refuses):
    records = load_classification("voc2007_test").records
    dog, cat = CLASS_NAMES.index("dog"), CLASS_NAMES.index("cat")
    assert [record["classes"] for record in records] == [[dog], [], []]
    assert [record["difficult"] for record in records] == [[cat], [dog], []]
    assert records[2]["file_name"].endswith("VOC2007/JPEGImages/000009.jpg")
    with refuses("missing-data"):
        check_classification("voc2007_test")
    whole = (voc / "cow_test.txt").read_text()
    for line in ("000001 2", "000077 1"):
        (voc / "cow_test.txt").write_text(line + "\n")
        with refuses("damaged-annotation", "cow_test.txt', line 1"):
            load_classification("voc2007_test")
    (voc / "cow_test.txt").write_text("\ufeff" + whole)
    assert load_classification("voc2007_test").records == records
    for text in (whole.partition("\n")[2], whole + "\n" + whole):
        (voc / "cow_test.txt").write_text(text)
        with refuses("damaged-annotation", "cow_test.txt'"):
            load_classification("voc2007_test")


def test_the_scenes_lists_agree_with_their_annotations(scenes_root):
    for record in read_voc2007(str(scenes_root), "test").records:
        tree = ET.parse(scenes_root / "VOC2007" / "Annotations" / f"{record['image_id']}.xml")
        flags = {}
        for item in tree.findall("object"):
            flags.setdefault(item.findtext("name"), []).append(item.findtext("difficult") == "1")
        clear = {CLASS_NAMES.index(name) for name, values in flags.items() if not all(values)}
        hard = {CLASS_NAMES.index(name) for name, values in flags.items() if all(values)}
        assert set(record["classes"]) == clear
        assert set(record["difficult"]) == hard


def test_objects_are_squares_around_their_boxes_inside_the_image(tmp_path):
    annotations = [
        {"bbox": [40, 30, 20, 16], "category_id": 7},
        {"bbox": [0, 0, 16, 8], "category_id": 3},  # in a corner
        {"bbox": [2, 10, 90, 10], "category_id": 7},  # longer than the image is high
        {"bbox": [2, 10, 90, 7.9], "category_id": 7},  # too thin
        {"bbox": [2, 10, 90, 50], "category_id": 7, "iscrowd": 1},
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 100, "height": 60}],
        "annotations": [
            {"id": n, "image_id": 5, "iscrowd": 0} | item for n, item in enumerate(annotations)
        ],
        "categories": [{"id": 7, "name": "late"}, {"id": 3, "name": "early"}],
    }
    folder = tmp_path / "coco" / "annotations"
    folder.mkdir(parents=True)
    (folder / "instances_train2017.json").write_text(json.dumps(content))
    data = read_object_crops(str(tmp_path), "train")
    assert data.names == ("early", "late")
    assert [record["classes"] for record in data.records] == [[1], [0], [1]]
    # Side 1.25 * 20 = 25 around (50, 38); 20 from the corner; 100 by all of the height.
    assert data.records[0]["box"] == [38, 26, 62, 50]
    assert data.records[1]["box"] == [0, 0, 20, 20]
    assert data.records[2]["box"] == [0, 0, 100, 60]


def test_objects_of_the_scenes_are_found(scenes_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes_root))
    for name in names_of("scenes_objects"):
        check_dataset(name)
        assert len(load_classification(name).records) > 10
    found = combined_fingerprint(["scenes_objects_train"], ["scenes_objects_test"])
    assert found.synthetic
