"""A dataset's files are checked before anything is built, and its content is identified."""

import json
import os
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from mls_d2.data.datasets import (
    check_dataset,
    combined_fingerprint,
    dataset_fingerprint,
    image_files,
)
from mls_d2.scenes.marker import SceneParams, write_marker

NAMES = ("a.jpg", "sub/b.jpg", "c.jpg")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A datasets folder with three pictures, registered as test_set and as test_set_other."""
    folder = tmp_path / "datasets"
    (folder / "images" / "sub").mkdir(parents=True)
    for index, name in enumerate(NAMES):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(folder / "images" / name)
    images = [
        {"id": index, "file_name": name, "width": 8, "height": 8}
        for index, name in enumerate(NAMES)
    ]
    content = {
        "images": images,
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "x"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    paths = str(folder / "instances.json"), str(folder / "images")
    register_coco_instances("test_set", {}, *paths)
    register_coco_instances("test_set_other", {}, *paths)
    yield folder
    for name in ("test_set", "test_set_other"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_complete_dataset_passes_and_its_images_are_listed(root):
    check_dataset("test_set", test=True)
    assert image_files("test_set") == [str(root / "images" / name) for name in NAMES]


def test_whole_paths_need_no_image_root(root, refuses):
    content = json.loads((root / "instances.json").read_text())
    for image in content["images"]:
        image["file_name"] = str(root / "images" / image["file_name"])
    (root / "instances.json").write_text(json.dumps(content))
    MetadataCatalog.get("test_set").__dict__["image_root"] = ""
    check_dataset("test_set", test=True)
    assert image_files("test_set") == [str(root / "images" / name) for name in NAMES]
    (root / "instances.json").write_text(json.dumps(content | {"categories": [{"id": 1}]}))
    with refuses("damaged-annotation"):
        check_dataset("test_set")


def test_an_unknown_name_gets_the_nearest(refuses):
    with refuses("unknown-name", "did you mean 'coco_2017_train'"):
        check_dataset("coco_2017_trian")


def test_missing_images_are_named_and_counted(root, refuses):
    os.unlink(root / "images" / "a.jpg")
    shutil.rmtree(root / "images" / "sub")
    with refuses("missing-data") as caught:
        check_dataset("test_set")
    assert "2 of 3 images are missing" in str(caught.value)
    assert str(root / "images" / "a.jpg") in str(caught.value)
    assert str(root / "images" / "sub" / "b.jpg") in str(caught.value)
    assert "c.jpg" not in str(caught.value)


@pytest.mark.parametrize("lost", ["instances.json", "images", "."])
def test_missing_parts_are_named(root, refuses, lost):
    path = root / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with refuses("missing-data", str(path), f"DETECTRON2_DATASETS={root}"):
        check_dataset("test_set")


def test_a_test_set_without_objects_is_refused(root, refuses):
    path = root / "instances.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": []}))
    check_dataset("test_set")
    with refuses("missing-data") as caught:
        check_dataset("test_set", test=True)
    assert "no objects in 3 images" in str(caught.value)


@pytest.mark.parametrize("test", [False, True])
def test_another_size_than_the_annotated_one_is_refused(root, refuses, test):
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(root / "images" / "c.jpg")
    with refuses("damaged-annotation", "c.jpg", "image id 2"):
        check_dataset("test_set", test=test)


@pytest.mark.parametrize("kind", ["empty", "no image", "cut"])
def test_a_bad_test_image_is_named_before_training(root, refuses, kind):
    whole = (root / "images" / "c.jpg").read_bytes()
    content = {"empty": b"", "no image": b"<html>", "cut": whole[: len(whole) - 20]}[kind]
    (root / "images" / "c.jpg").write_bytes(content)
    check_dataset("test_set")  # left out of training
    with refuses("damaged-image", str(root / "images" / "c.jpg")):
        check_dataset("test_set", test=True)


def test_the_fingerprint_depends_on_content_alone(root):
    before = dataset_fingerprint("test_set")
    assert before.num_images == 3
    assert before.root == str(root)
    assert not before.synthetic
    assert dataset_fingerprint("test_set") == before
    assert dataset_fingerprint("test_set_other").fingerprint == before.fingerprint
    with open(root / "images" / "a.jpg", "ab") as file:
        file.write(b"more")
    changed_image = dataset_fingerprint("test_set").fingerprint
    text = (root / "instances.json").read_text()
    (root / "instances.json").write_text(text + " ")
    changed_annotations = dataset_fingerprint("test_set").fingerprint
    assert len({before.fingerprint, changed_image, changed_annotations}) == 3


def test_the_fingerprint_does_not_depend_on_where_the_root_is(root, tmp_path, monkeypatch):
    before = dataset_fingerprint("test_set").fingerprint
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(moved))
    metadata = MetadataCatalog.get("test_set_other")
    MetadataCatalog.remove("test_set_other")
    MetadataCatalog.get("test_set_other").set(
        **{**metadata.as_dict(), "name": "test_set_other"}
        | {"json_file": str(moved / "instances.json"), "image_root": str(moved / "images")}
    )
    assert dataset_fingerprint("test_set_other").fingerprint == before


def test_scenes_are_marked_as_synthetic(root):
    write_marker(root, SceneParams(), ["coco/train2017"], complete=True)
    assert dataset_fingerprint("test_set").synthetic


def test_training_and_test_sets_are_identified_together(root):
    both = combined_fingerprint(["test_set"], ["test_set_other"])
    assert both.name == "test_set, test_set_other"
    assert both.num_images == 3
    alone = combined_fingerprint([], ["test_set"])
    assert alone.num_images == 3
    assert len({both.fingerprint, alone.fingerprint}) == 2
