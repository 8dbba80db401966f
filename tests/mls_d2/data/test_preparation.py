"""Datasets are counted, sampled and prepared, and the table of sources is whole."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from mls_d2.core.errors import UserError
from mls_d2.data.preparation import SOURCES, Source, inspect, roots_problem, where_to_get
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
    listed = ", ".join(f'{{"file_name": "{name}"}}' for name in NAMES)
    (tmp_path / "list.json").write_text(f'{{"images": [{listed}]}}')
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_coco_instances("test_ten", {}, str(tmp_path / "list.json"), str(tmp_path / "images"))
    yield tmp_path
    DatasetCatalog.remove("test_ten")
    MetadataCatalog.remove("test_ten")


def source(count=10, **fields):
    return Source("Ten", {"test_ten": count}, "https://ten.org", "ten.zip", **fields)


def test_what_is_whole_is_in_order(root):
    finding = inspect(source(), sample=4)
    assert finding.facts == ("test_ten: 10 images; 4 of them read",)
    assert not finding.problems


def test_another_number_than_the_official_one_is_not_in_order(root):
    (problem,) = inspect(source(11), sample=0).problems
    assert "lists 10 images, the official one has 11" in problem


def test_scenes_have_their_own_counts(root):
    write_marker(root, SceneParams(), [], complete=True)
    finding = inspect(source(11), sample=1)
    assert finding.facts == ("test_ten: 10 images, generated scenes; 1 of them read",)


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_sample_finds_what_cannot_be_read(root, content):
    for name in ("0.jpg", "9.jpg"):  # the first and the last are in every sample
        (root / "images" / name).write_bytes(content)
    (problem,) = inspect(source(), sample=3).problems
    assert "2 of 3 sampled images cannot be read" in problem
    assert str(root / "images" / "9.jpg") in problem
    assert inspect(source(), sample=0).facts


def test_missing_images_are_named(root):
    (root / "images" / "3.jpg").unlink()
    (problem,) = inspect(source(), sample=0).problems
    assert str(root / "images" / "3.jpg") in problem


def test_derived_files_are_made_for_each_split_that_is_there(root):
    made = []
    assert inspect(source(prepare=made.append), sample=0).facts
    assert made == ["test_ten"]

    def fail(name):
        raise UserError(f"{name} cannot be prepared")

    assert inspect(source(prepare=fail), sample=0).problems == ("test_ten cannot be prepared",)


def test_where_to_get_it_names_page_archives_and_folder(root):
    text = where_to_get(source())
    assert all(part in text for part in ("https://ten.org", "ten.zip", str(root)))


def test_a_missing_root_is_said(root, monkeypatch):
    assert not roots_problem()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "none"))
    assert f"no folder '{root / 'none'}'" in roots_problem()


def test_every_split_of_the_table_is_registered_and_documented():
    register_all()
    text = (REPOSITORY / "docs" / "datasets.md").read_text()
    for key, item in SOURCES.items():
        assert set(item.splits) <= set(DatasetCatalog.list())
        assert f"`{key}`" in text
        for count in item.splits.values():
            assert f"{count:,}" in text, key
