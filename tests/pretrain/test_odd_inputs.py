"""Whole pretraining runs on odd data and values: they end in the right run or in one line."""

import json
import os

import pytest
from detectron2.data.datasets.pascal_voc import register_pascal_voc

from mls_d2.checkpoint.backbone_file import read_backbone
from mls_d2.data.datasets import register_coco
from pretrain.data import image_source
from pretrain.run import pretrain
from tests.pretrain.conftest import write_images

NAMES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")


@pytest.fixture
def config(config):
    """Return a function that returns the config of a tiny run on some datasets."""
    short = {"PRETRAIN__EPOCHS": "1.0"}
    return lambda *names, **changes: config(DATASETS__TRAIN=str(names), **(short | changes))


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """A function that registers ``odd``, four images in COCO's or VOC's layout."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def coco(data):
        write_images(tmp_path, NAMES)
        (tmp_path / "odd.json").write_bytes(data)
        register_coco("odd", str(tmp_path / "odd.json"), str(tmp_path))

    def voc(xml):
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (tmp_path / part).mkdir(parents=True)
        write_images(tmp_path / "JPEGImages", NAMES)
        for name in NAMES:
            (tmp_path / "Annotations" / f"{name[0]}.xml").write_text(xml)
        (tmp_path / "ImageSets/Main/train.txt").write_text("a 1\nb -1\n\nc\nd")
        register_pascal_voc("odd", str(tmp_path), "train", 2007)

    return lambda layout, data: {"coco": coco, "voc": voc}[layout](data)


def annotations(**changes):
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 50, "height": 40} for i, name in enumerate(NAMES)
        ],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9]}] * 2,
        "categories": [{"id": 1, "name": "cat"}],
    }
    return json.dumps(content | changes).encode()


READ = {
    "byte order mark": ("coco", b"\xef\xbb\xbf" + annotations()),
    "unknown category": ("coco", annotations(categories=[{"id": 7, "name": "dog"}])),
    "no sizes": ("coco", annotations(images=[{"id": n, "file_name": n} for n in NAMES])),
    "doubled ids": ("coco", annotations()),
    "labels cut": ("voc", "<annotation><object>"),
}


@pytest.mark.parametrize(("layout", "data"), READ.values(), ids=READ)
def test_labels_that_pretraining_does_not_use_may_be_odd(registered, config, layout, data):
    registered(layout, data)
    assert read_backbone(pretrain(config("odd"))).info["iterations"] == 1


REFUSED = {
    "cut": (annotations()[:200], "damaged-file"),
    "no file names": (annotations(images=[{"id": 1}]), "damaged-annotation"),
    "no images": (annotations(images=[]), "damaged-annotation"),
    "files that are not there": (annotations(images=[{"file_name": "x.jpg"}]), "missing-data"),
    "a name of zero bytes": (annotations(images=[{"file_name": "a\0.jpg"}]), "missing-data"),
}


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED)
def test_lists_of_images_that_cannot_be_read_are_refused(registered, config, refuses, data, code):
    registered("coco", data)
    with refuses(code, "odd"):
        pretrain(config("odd"))
    assert not os.path.exists(config("odd").OUTPUT_DIR)


def test_names_that_are_no_utf8_and_overlapping_folders_are_counted(
    config, tmp_path, caplog, capfd
):
    folder = tmp_path / "caf\udce9"
    (folder / "deep").mkdir(parents=True)
    write_images(folder / "deep", [f"{n}\udcff.jpg" for n in range(3)])
    (folder / "deep" / "x\udcff.jpg").write_bytes(b"")
    (folder / "b.HEIC").write_bytes(b"")
    names = (str(folder), str(folder / "deep"))
    assert len(image_source(names).digest()) == 64
    printed = caplog.text + capfd.readouterr().out
    assert "4 of 8 images are listed more than once" in printed
    assert "left out 1 files that are no images, by suffix: .heic (1)" in printed
    # The broken image is met in every epoch, and counts once.
    changes = {"PRETRAIN__MAX_BROKEN_SHARE": "0.25", "PRETRAIN__EPOCHS": "3.0"}
    assert read_backbone(pretrain(config(names[1], **changes))).info["iterations"] == 3
    assert "of 4 images, 1 were broken" in caplog.text + capfd.readouterr().out


@pytest.mark.parametrize("crop", ["64", "32"])
def test_a_batch_of_one_is_trained_if_batchnorm_sees_two_values(config, tmp_path, refuses, crop):
    write_images(tmp_path, NAMES)
    cfg = config(str(tmp_path), SOLVER__IMS_PER_BATCH="1", PRETRAIN__AUGMENT__CROP_SIZE=crop)
    if crop == "64":  # The last features have 2 x 2 positions, and 1 x 1 of crops of 32 pixels.
        assert read_backbone(pretrain(cfg)).info["iterations"] == 4
        return
    with refuses("bad-value", "SOLVER.IMS_PER_BATCH"):
        pretrain(cfg)


@pytest.mark.parametrize("warmup", ["0.5", "1.0"])
def test_a_warmup_of_the_whole_run_is_warned_of(config, tmp_path, capfd, warmup):
    write_images(tmp_path, NAMES)
    pretrain(config(str(tmp_path), MLS__WARMUP=warmup))
    assert ("the multi-label loss never counts" in capfd.readouterr().out) == (warmup == "1.0")
