"""VOC's odd annotations and lists are read right, or named before training."""

import random

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import (
    CLASS_NAMES,
    load_voc_instances,
    register_pascal_voc,
)
from PIL import Image

from mls_d2.core.errors import UserError
from mls_d2.data.annotations_voc import read_voc, voc_records
from mls_d2.data.datasets import check_dataset, image_files
from tests.mls_d2.data.mutations import FIRST_SEED, damaged

XML = """<annotation><filename>a.jpg</filename>
<size><width>30</width><height>20</height><depth>3</depth></size>
<object><name>dog</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>15</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>5</xmin><ymin>4</ymin><xmax>9</xmax><ymax>15</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def voc(tmp_path, monkeypatch):
    """The folder of a dataset ``odd`` of two images in VOC's layout."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    for stem in ("a", "b"):
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(XML)
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f"JPEGImages/{stem}.jpg")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\n")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_pascal_voc("odd", str(tmp_path), "train", 2007)
    yield tmp_path
    DatasetCatalog.remove("odd")
    MetadataCatalog.remove("odd")


def test_whole_files_are_read_as_detectron2_does(voc):
    check_dataset("odd")
    assert voc_records("odd") == load_voc_instances(str(voc), "train", CLASS_NAMES)
    assert [item.difficult for item in read_voc("odd")["a"]] == [True, False]


def test_own_classes_are_read(voc):
    DatasetCatalog.remove("odd")
    MetadataCatalog.remove("odd")
    register_pascal_voc("odd", str(voc), "train", 2012, class_names=("cat", "fox", "dog"))
    check_dataset("odd", test=True)
    found = [item["category_id"] for item in voc_records("odd")[0]["annotations"]]
    assert found == [2, 0]


READ = {
    "float": ("<xmin>3</xmin>", "<xmin>3.70000076293945</xmin>", (3.70000076293945, 4, 20, 15)),
    "no difficult": ("<difficult>1</difficult>", "", (3, 4, 20, 15)),
    "no pose": ("<pose>Left</pose><truncated>0</truncated>", "", (3, 4, 20, 15)),
    "spaces": ("<name>dog</name>", "<name> dog\n</name>", (3, 4, 20, 15)),
    "no size": ("<size><width>30</width>", "<size>", (3, 4, 20, 15)),
    "size of zero": ("<width>30</width>", "<width>0</width>", (3, 4, 20, 15)),
    "entities": (
        "<annotation>", "<!DOCTYPE a [<!ENTITY e 'x'>]><annotation>&e;", (3, 4, 20, 15)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "box"), READ.values(), ids=READ)
def test_what_lacks_or_differs_is_read(voc, old, new, box):
    assert old in XML
    (voc / "Annotations/a.xml").write_text(XML.replace(old, new, 1))
    check_dataset("odd")
    assert read_voc("odd")["a"][0].box == box
    assert read_voc("odd")["a"][0].difficult == ("difficult" not in old)
    record = voc_records("odd")[0]
    assert (record["height"], record["width"]) == (20, 30)
    assert record["annotations"][0]["bbox"] == [box[0] - 1, box[1] - 1, *box[2:]]


REFUSED = {
    "foreign class": ("dog", "wolf"),
    "no class": ("<name>dog</name>", ""),
    "no box": ("<xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>15</ymax>", ""),
    "no corner": ("<ymax>15</ymax>", ""),
    "text": ("<xmin>3</xmin>", "<xmin>left</xmin>"),
    "NaN": ("<xmin>3</xmin>", "<xmin>nan</xmin>"),
    "infinite": ("<xmax>20</xmax>", "<xmax>inf</xmax>"),
    "exchanged corners": ("<xmin>3</xmin>", "<xmin>23</xmin>"),
    "difficult text": ("<difficult>1</difficult>", "<difficult>yes</difficult>"),
    "cut": ("</annotation>", ""),
    "no XML": (XML, "a,dog,3,4"),
    "empty": (XML, ""),
    "another size": ("<width>30</width>", "<width>20</width>"),
    "two names": ("<name>dog</name>", "<name>dog</name><name>cat</name>"),
    "two corners": ("<xmin>3</xmin>", "<xmin>3</xmin><xmin>5</xmin>"),
    "two boxes": ("<bndbox>", "<bndbox/><bndbox>"),
    "another root": (XML, XML.replace("annotation", "html")),
    "a namespace": ("<annotation>", "<annotation xmlns='x'>"),
    "objects in capitals": (XML, XML.replace("object>", "Object>")),
    "objects further in": (XML, XML.replace("<part>", "<object>").replace("</part>", "</object>")),
    "multi-byte encoding": ("<annotation>", "<?xml version='1.0' encoding='gb2312'?><annotation>"),
    "a billion laughs": (
        "<annotation>",
        "<!DOCTYPE a [<!ENTITY e0 'xxxxxxxxxx'>"
        + "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 9))
        + "]><annotation>&e8;",
    ),
}


@pytest.mark.parametrize(("old", "new"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_named_before_training(voc, refuses, old, new):
    (voc / "Annotations/b.xml").write_text(XML.replace(old, new, 1))
    with refuses("damaged-annotation") as caught:
        check_dataset("odd")
    assert f"{voc}/" in str(caught.value)
    assert "b.xml" in str(caught.value) or "b.jpg" in str(caught.value)


@pytest.mark.parametrize("text", ["a\nb", "\na 1\n\nb -1\n", "\ufeffa\r\nb\r\n"])
def test_lists_have_blank_lines_and_second_columns(voc, text):
    (voc / "ImageSets/Main/train.txt").write_text(text)
    assert [record["image_id"] for record in voc_records("odd")] == ["a", "b"]
    (voc / "ImageSets/Main/train.txt").write_text("b")
    check_dataset("odd")
    assert image_files("odd") == [str(voc / "JPEGImages/b.jpg")]


@pytest.mark.parametrize("text", ["", "\n \n", "a\nb\na\n", "a b\n", "b 3,4,20,15\n"])
def test_lists_of_other_kinds_are_refused(voc, refuses, text):
    (voc / "ImageSets/Main/train.txt").write_text(text)
    with refuses("damaged-annotation"):
        check_dataset("odd")


def check_mutations(voc, seeds):
    refused = 0
    for seed in seeds:
        rng = random.Random(seed)
        data = XML.encode()
        if rng.random() < 0.5:  # a number or a tag in place of another
            words = data.replace(b"<", b" <").replace(b">", b"> ").split()
            words[rng.randrange(len(words))] = rng.choice([b"", b"-1", b"1e999", b"x", *words])
            data = b" ".join(words)
        else:
            data = damaged(data, rng)
        (voc / "Annotations/a.xml").write_bytes(data)
        try:
            check_dataset("odd")
            read_voc("odd")
        except UserError as error:
            refused += bool(error.code)
    return refused


def test_mutated_files_are_read_or_refused(voc):
    assert 20 < check_mutations(voc, range(80)) < 80


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_thousands_of_mutated_files_are_read_or_refused(voc):
    assert check_mutations(voc, range(FIRST_SEED, FIRST_SEED + 5000)) > 1000
