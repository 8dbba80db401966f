"""Cityscapes' files are checked, and missing train ids are made."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
from cityscapesscripts.preparation.json2labelImg import json2labelImg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic

from mls_d2.data.cityscapes import COLORS, cityscapes_records, prepare_cityscapes, train_id_table
from mls_d2.run.registration import register_all
from mls_d2.scenes.layouts import KINDS

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


def test_records_are_detectron2s_in_one_order_and_need_no_other_files(folder):
    paths = [str(folder / part / "train") for part in ("leftImg8bit", "gtFine")]
    expected = sorted(
        (record["file_name"], record["sem_seg_file_name"])
        for record in load_cityscapes_semantic(*paths)
    )
    shutil.rmtree(folder / "gtFine")
    records = cityscapes_records(NAME)
    assert [(item["file_name"], item["sem_seg_file_name"]) for item in records] == expected
    register_all()
    for split in ("train", "val"):
        reader = DatasetCatalog[f"cityscapes_fine_sem_seg_{split}"]
        assert reader.func is cityscapes_records


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
    names = sorted({"unlabeled", *(name for _, _, name in KINDS.values())})
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


def test_label_ids_instead_of_train_ids_are_refused(folder, refuses):
    for path in files(folder, "labelTrainIds.png"):
        shutil.copy(str(path).replace("labelTrainIds", "labelIds"), path)
    with refuses("damaged-file"):
        prepare_cityscapes(NAME)
    # Such as could be train ids, too, are recognised by their twins.
    for path in (*files(folder, "labelTrainIds.png"), *files(folder, "labelIds.png")):
        cv2.imwrite(str(path), np.full((96, 192), 7, np.uint8))  # nothing but road
    with refuses("damaged-file", "is the same as"):
        prepare_cityscapes(NAME)


def test_polygons_instances_and_label_ids_beside_train_ids_are_not_needed(folder, refuses):
    for kind in ("polygons.json", "instanceIds.png", "labelIds.png"):
        for path in files(folder, kind):
            path.unlink()
    prepare_cityscapes(NAME)
    for path in files(folder, "labelTrainIds.png")[:2]:
        path.unlink()
    with refuses("missing-data") as caught:
        prepare_cityscapes(NAME)
    assert "2 of 4 images have no labels" in str(caught.value)
    assert str(caught.value).count("_gtFine_labelIds.png") == 2


DAMAGES = {  # of the train ids of one image
    "colours": lambda ids: np.dstack([ids] * 3),
    "16 bits": lambda ids: ids.astype(np.uint16),
    "another size": lambda ids: ids[:-1],
    "label ids": lambda ids: np.maximum(ids, 19),
    "truncated": lambda ids: cv2.imencode(".png", ids)[1].ravel()[:99],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_train_ids_of_every_image_are_checked(folder, refuses, damage):
    for kind in ("leftImg8bit.png", "gtFine_labelTrainIds.png"):
        first = sorted(folder.glob(f"*/train/*/*{kind}"))[0]
        for number in range(10, 40):
            shutil.copy(first, first.with_name(f"{first.parent.name}_{number:06d}_000019_{kind}"))
    prepare_cityscapes(NAME)
    for path in files(folder, "labelTrainIds.png")[5:7]:
        content = DAMAGES[damage](read(path))
        if damage == "truncated":
            path.write_bytes(content.tobytes())
        else:
            cv2.imwrite(str(path), content)
    with refuses("damaged-file") as caught:
        prepare_cityscapes(NAME)
    assert files(folder, "labelTrainIds.png")[5].name in str(caught.value)
    assert str(caught.value).endswith("; 1 more like it")


def test_labels_without_an_image_are_counted_in_a_warning(folder, caplog):
    sorted((folder / "leftImg8bit").glob("*/*/*.png"))[0].unlink()
    prepare_cityscapes(NAME)
    assert "2 label files" in caplog.text


@pytest.mark.parametrize("name", ["town/notes.txt", "list.txt"])
def test_other_files_are_named(folder, refuses, name):
    images = folder / "leftImg8bit" / "train"
    (images / "town").mkdir()
    (images / ".DS_Store").write_text("x")
    prepare_cityscapes(NAME)
    (images / name).write_text("x")
    with refuses("damaged-data", str(images / name)):
        prepare_cityscapes(NAME)


def test_damaged_label_ids_are_named(folder, refuses):
    files(folder, "labelTrainIds.png")[1].unlink()
    path = files(folder, "labelIds.png")[1]
    good = path.read_bytes()
    strange = cv2.imencode(".png", np.full((96, 192), 77, np.uint8))[1].tobytes()
    for content in (b"", strange):
        path.write_bytes(content)
        with refuses("damaged-file", path.name):
            prepare_cityscapes(NAME)
    path.write_bytes(good)
    prepare_cityscapes(NAME)


def test_a_split_without_images_is_refused(folder, refuses):
    shutil.rmtree(folder / "leftImg8bit" / "train")
    os.makedirs(folder / "leftImg8bit" / "train" / "town")
    with refuses("missing-data"):
        prepare_cityscapes(NAME)
