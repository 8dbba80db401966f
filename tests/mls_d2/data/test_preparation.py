"""Datasets are counted, sampled and prepared, and the table of sources is complete."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mls_d2.core.errors import UserError
from mls_d2.data.datasets import register_coco
from mls_d2.data.preparation import SOURCES, Source, check_root, inspect, where_to_get
from mls_d2.run.registration import register_all
from mls_d2.scenes.marker import SceneParams, write_marker

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = [f"{index}.jpg" for index in range(10)]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A datasets folder with ten pictures, registered as test_ten."""
    (tmp_path / "images").mkdir()
    for name in NAMES:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / name)
    size = {"width": 8, "height": 8}
    images = [{"id": n, "file_name": name} | size for n, name in enumerate(NAMES)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_coco("test_ten", tmp_path / "list.json", tmp_path / "images")
    yield tmp_path
    DatasetCatalog.remove("test_ten")
    MetadataCatalog.remove("test_ten")


def source(count=10, **fields):
    return Source("Ten", {"test_ten": count}, "https://ten.org", "ten.zip", **fields)


def test_a_complete_dataset_is_ready(root):
    finding = inspect(source(), sample=4)
    assert finding.facts == ("test_ten: 10 images; 4 of them read",)
    assert not finding.problems
    text = where_to_get(source())
    assert all(part in text for part in ("https://ten.org", "ten.zip", str(root)))


def test_another_number_than_the_official_one_is_a_problem_unless_it_is_a_subset(root):
    (problem,) = inspect(source(11), sample=0).problems
    assert "lists 10 images, the official one has 11" in problem
    assert inspect(source(11), sample=1, subset=True).facts == (
        "test_ten: 10 images of 11; 1 of them read",
    )
    assert inspect(source(9), sample=0, subset=True).problems
    write_marker(root, SceneParams(), [], complete=True)
    facts = inspect(source(11), sample=1).facts
    assert facts == ("test_ten: 10 images, generated scenes; 1 of them read",)


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_sample_finds_what_cannot_be_read_also_in_a_partial_dataset(root, content):
    for name in ("0.jpg", "9.jpg"):  # the first and the last are in every sample
        (root / "images" / name).write_bytes(content)
    count, problem = inspect(source(11), sample=3).problems
    assert "the official one has 11" in count
    assert "2 of 3 sampled images cannot be read" in problem
    assert str(root / "images" / "9.jpg") in problem
    assert bool(inspect(source(), sample=0).facts) == bool(content)  # empty files always count


def test_files_are_checked_and_made_for_each_split(root):
    made = []
    assert inspect(source(prepare=made.append), sample=0).facts
    assert made == ["test_ten"]

    def fail(name):
        raise UserError(f"{name} cannot be prepared")

    assert inspect(source(prepare=fail), sample=0).problems == ("test_ten cannot be prepared",)
    (root / "images" / "3.jpg").unlink()
    (problem,) = inspect(source(), sample=0).problems
    assert str(root / "images" / "3.jpg") in problem


def test_a_root_that_is_missing_or_on_another_level_is_named(tmp_path, monkeypatch, refuses):
    for name in ("data/coco/val2017", "other/dtd/dtd/images"):
        (tmp_path / name).mkdir(parents=True)
    for root, text in (
        ("none", f"no folder '{tmp_path}/none'"),
        (".", f"one level too high; set DETECTRON2_DATASETS={tmp_path}/data"),
        ("data/coco", f"one level too low; set DETECTRON2_DATASETS={tmp_path}/data"),
        ("other/dtd/dtd", f"2 levels too low; set DETECTRON2_DATASETS={tmp_path}/other"),
    ):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / root))
        with refuses("missing-data" if root == "none" else "bad-value") as caught:
            check_root()
        assert text in str(caught.value)
    for root in ("data", "other", "data/coco/val2017"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / root))
        check_root()


@pytest.mark.parametrize(
    ("place", "off"), [("images/deep", "low"), (".", "high"), ("more/images", "low")]
)
def test_a_folder_of_a_dataset_on_another_level_is_named(root, place, off):
    os.rename(root / "images", root / "moved")
    (root / "images").mkdir()
    (root / "images" / "README").touch()
    (root / place).mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        os.rename(root / "moved" / name, root / place / name)
    (problem,) = inspect(source(), sample=0).problems
    assert "10 of 10 images are missing" in problem
    there = os.path.normpath(root / place / NAMES[0])
    assert problem.endswith(f"There is '{there}' instead: one level too {off}")


def test_every_split_of_the_table_is_registered_and_documented():
    register_all()
    text = (REPOSITORY / "docs" / "datasets.md").read_text()
    for key, item in SOURCES.items():
        assert set(item.splits) <= set(DatasetCatalog.list())
        assert f"`{key}`" in text
        for count in item.splits.values():
            assert f"{count:,}" in text, key
