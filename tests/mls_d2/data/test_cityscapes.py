"""A split of Cityscapes is checked file by file, and its train ids are made."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
from cityscapesscripts.preparation.json2labelImg import json2labelImg
from detectron2.data import DatasetCatalog, MetadataCatalog

from mls_d2.core.errors import UserError
from mls_d2.data.cityscapes import COLORS, prepare_cityscapes, train_id_table
from mls_d2.scenes import CITYSCAPES_IDS

NAME = "some_cityscapes_sem_seg_train"


@pytest.fixture
def folder(tmp_path, scenes_root):
    """A copy of generated Cityscapes, registered under NAME."""
    root = tmp_path / "cityscapes"
    for part in ("leftImg8bit", "gtFine"):
        shutil.copytree(scenes_root / "cityscapes" / part / "train", root / part / "train")
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(
        image_dir=str(root / "leftImg8bit" / "train"), gt_dir=str(root / "gtFine" / "train")
    )
    yield root
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def files(folder, kind):
    return sorted((folder / "gtFine" / "train").glob(f"*/*{kind}"))


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_a_whole_split_stays_as_it_is(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    prepare_cityscapes(NAME)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_missing_train_ids_are_made_and_others_are_kept(folder):
    paths = files(folder, "labelTrainIds.png")
    expected = [read(path) for path in paths]
    kept = paths[0].stat().st_mtime_ns
    for path in paths[1:]:
        path.unlink()
    prepare_cityscapes(NAME)
    for path, truth in zip(paths, expected, strict=True):
        assert np.array_equal(read(path), truth)
    assert paths[0].stat().st_mtime_ns == kept
    assert len(set(np.concatenate([truth.ravel() for truth in expected]))) > 5


def test_train_ids_are_those_of_cityscapesscripts(tmp_path):
    # Every label of the scenes in a stripe of its own, drawn by the dataset's own tool.
    names = list(CITYSCAPES_IDS)
    objects = [
        {"label": name, "polygon": [[0, 2 * i], [9, 2 * i], [9, 2 * i + 1], [0, 2 * i + 1]]}
        for i, name in enumerate(names)
    ]
    content = {"imgHeight": 2 * len(names) + 4, "imgWidth": 10, "objects": objects}
    (tmp_path / "a.json").write_text(json.dumps(content))
    for encoding in ("ids", "trainIds"):
        json2labelImg(str(tmp_path / "a.json"), str(tmp_path / f"{encoding}.png"), encoding)
    ids, train_ids = (read(tmp_path / f"{encoding}.png") for encoding in ("ids", "trainIds"))
    assert len(np.unique(ids)) == len(names)
    assert np.array_equal(train_id_table()[ids], train_ids)


def test_every_class_has_the_colour_of_the_dataset():
    assert COLORS.shape == (19, 3)
    assert COLORS[0].tolist() == [128, 64, 128]  # road
    assert COLORS[13].tolist() == [0, 0, 142]  # car


def test_label_ids_in_the_place_of_train_ids_are_detected(folder):
    for path in files(folder, "labelTrainIds.png"):
        shutil.copy(str(path).replace("labelTrainIds", "labelIds"), path)
    with pytest.raises(UserError, match="holds the labels .*looks like label ids: remove"):
        prepare_cityscapes(NAME)


def test_label_ids_that_could_be_train_ids_are_detected_by_their_twins(folder):
    for path in (*files(folder, "labelTrainIds.png"), *files(folder, "labelIds.png")):
        cv2.imwrite(str(path), np.full((96, 192), 7, np.uint8))  # nothing but road
    with pytest.raises(UserError, match="is the same as .*_labelIds.png: label ids instead of"):
        prepare_cityscapes(NAME)


def test_missing_files_are_named_and_counted(folder):
    for path in files(folder, "labelIds.png")[:2]:
        path.unlink()
    files(folder, "polygons.json")[0].unlink()
    with pytest.raises(UserError, match="3 files of gtFine for 4 images are missing") as caught:
        prepare_cityscapes(NAME)
    assert "gtFine_trainvaltest.zip" in str(caught.value)
    assert str(caught.value).count("_gtFine_labelIds.png") == 2
    assert str(caught.value).count("_gtFine_polygons.json") == 1


def test_what_does_not_belong_there_is_named(folder):
    city = next((folder / "leftImg8bit" / "train").iterdir())
    (city / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="notes.txt is no image of Cityscapes"):
        prepare_cityscapes(NAME)
    (city / "notes.txt").unlink()
    (city.parent / "list.txt").write_text("x")
    with pytest.raises(UserError, match="list.txt' is not the folder of a city"):
        prepare_cityscapes(NAME)


def test_damaged_or_strange_label_ids_are_named(folder):
    files(folder, "labelTrainIds.png")[1].unlink()
    path = files(folder, "labelIds.png")[1]
    good = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(UserError, match=f"{path.name} is no 8-bit image"):
        prepare_cityscapes(NAME)
    cv2.imwrite(str(path), np.full((96, 192), 77, np.uint8))
    with pytest.raises(UserError, match=f"{path.name} holds labels that Cityscapes does not have"):
        prepare_cityscapes(NAME)
    path.write_bytes(good)
    prepare_cityscapes(NAME)


def test_a_folder_that_cannot_be_written_to_is_named(folder, monkeypatch):
    files(folder, "labelTrainIds.png")[0].unlink()

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("mls_d2.core.files.tempfile.mkstemp", refuse)
    with pytest.raises(UserError, match="cannot write to .*labelTrainIds.png': Read-only"):
        prepare_cityscapes(NAME)


def test_a_split_without_images_is_refused(folder):
    shutil.rmtree(folder / "leftImg8bit" / "train")
    os.makedirs(folder / "leftImg8bit" / "train" / "town")
    with pytest.raises(UserError, match="no images in"):
        prepare_cityscapes(NAME)
