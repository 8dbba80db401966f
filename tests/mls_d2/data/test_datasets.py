"""A dataset's files are looked for before anything is built, and its content is identified."""

import json
import os
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from mls_d2.core.errors import UserError
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
    """A datasets folder with three pictures, registered as test_set, and a VOC without files."""
    folder = tmp_path / "datasets"
    (folder / "images" / "sub").mkdir(parents=True)
    for index, name in enumerate(NAMES):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(folder / "images" / name)
    images = [
        {"id": index, "file_name": name, "width": 8, "height": 8}
        for index, name in enumerate(NAMES)
    ]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    paths = str(folder / "instances.json"), str(folder / "images")
    register_coco_instances("test_set", {}, *paths)
    register_coco_instances("test_set_other", {}, *paths)
    DatasetCatalog.register("test_voc", lambda: [])
    MetadataCatalog.get("test_voc").set(dirname=str(folder / "VOC2007"), split="trainval")
    yield folder
    for name in ("test_set", "test_set_other", "test_voc"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_complete_dataset_passes(root):
    check_dataset("test_set")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match="did you mean 'coco_2017_train'"):
        check_dataset("coco_2017_trian")


def test_missing_images_are_named_and_counted(root):
    os.unlink(root / "images" / "a.jpg")
    shutil.rmtree(root / "images" / "sub")
    with pytest.raises(UserError, match="2 of 3 images are missing") as caught:
        check_dataset("test_set")
    assert str(root / "images" / "a.jpg") in str(caught.value)
    assert str(root / "images" / "sub" / "b.jpg") in str(caught.value)
    assert "c.jpg" not in str(caught.value)
    assert f"DETECTRON2_DATASETS={root}" in str(caught.value)


def test_a_missing_annotation_file_is_named(root):
    os.unlink(root / "instances.json")
    with pytest.raises(
        UserError, match=r"1 of 2 files and folders are missing.*\n.*instances.json"
    ):
        check_dataset("test_set")


def test_a_missing_root_is_named(root, monkeypatch):
    shutil.rmtree(root)
    with pytest.raises(UserError, match=f"no folder '{root}'.*DETECTRON2_DATASETS={root}"):
        check_dataset("test_set")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(root.parent)
    with pytest.raises(UserError, match="no folder 'datasets'.*DETECTRON2_DATASETS is not set"):
        check_dataset("test_set")


@pytest.mark.parametrize(
    ("text", "problem"),
    [('{"images": [', "truncated"), ("[]", "no COCO"), ('{"images": []}', "lists no images")],
)
def test_a_damaged_annotation_file_is_a_user_error(root, text, problem):
    (root / "instances.json").write_text(text)
    with pytest.raises(UserError, match=problem):
        check_dataset("test_set")


def test_an_empty_image_folder_is_named(root):
    shutil.rmtree(root / "images")
    (root / "images").mkdir()
    with pytest.raises(UserError, match="images' is empty"):
        check_dataset("test_set")


def test_an_incomplete_voc_names_its_split_file(root):
    (root / "VOC2007" / "Annotations").mkdir(parents=True)
    with pytest.raises(UserError, match="2 of 3 files and folders") as caught:
        check_dataset("test_voc")
    assert os.path.join("ImageSets", "Main", "trainval.txt") in str(caught.value)


@pytest.fixture
def voc(root):
    """A VOC of three pictures, as test_voc."""
    folder = root / "VOC2007"
    for part, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (folder / part).mkdir(parents=True)
        for name in "abc":
            (folder / part / f"{name}.{suffix}").write_bytes(b"x")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("a\nb\nc\n")
    return folder


@pytest.mark.parametrize(("part", "lost"), [("JPEGImages", "b.jpg"), ("Annotations", "c.xml")])
def test_half_a_voc_names_the_files(voc, part, lost):
    check_dataset("test_voc")
    (voc / part / lost).unlink()
    with pytest.raises(UserError, match=f"1 of 3 files of {part} are missing") as caught:
        check_dataset("test_voc")
    assert str(voc / part / lost) in str(caught.value)


def test_an_empty_list_of_a_voc_is_refused(voc):
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    with pytest.raises(UserError, match=r"trainval.txt' lists no images"):
        check_dataset("test_voc")


def test_images_are_listed_in_order(voc, root):
    assert image_files("test_voc") == [str(voc / "JPEGImages" / f"{name}.jpg") for name in "abc"]
    assert image_files("test_set") == [str(root / "images" / name) for name in NAMES]


def test_the_fingerprint_tells_content_apart_and_nothing_else(root):
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
