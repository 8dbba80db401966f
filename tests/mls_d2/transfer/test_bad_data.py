"""A run on annotations that are not as they should be: it goes on, or says what to mend."""

import json
import math
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mls_d2.core.errors import UserError
from mls_d2.results.schema import read_result
from mls_d2.transfer import detection
from mls_d2.transfer import run as transfer
from mls_d2.transfer.run import run_transfer


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(detection, "write_detections", lambda *_: None)


@pytest.fixture
def own_data(drawn_boxes, tmp_path):
    """A function that changes a copy of the drawn training set and registers it."""
    metadata = MetadataCatalog.get(drawn_boxes[0])
    source = Path(metadata.json_file).parent
    names = []

    def make(change):
        content = json.loads((source / "instances.json").read_text())
        folder = tmp_path / f"data{len(names)}"
        (folder / "images").mkdir(parents=True)
        for path in (source / "images").iterdir():
            (folder / "images" / path.name).write_bytes(path.read_bytes())
        change(content, folder)
        (folder / "instances.json").write_text(json.dumps(content))
        names.append(f"own_{len(names)}")
        paths = str(folder / "instances.json"), str(folder / "images")
        register_coco_instances(names[-1], {}, *paths)
        return names[-1]

    yield make
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def bad_boxes(content, folder):
    """Give each image a box that is no box, or lies outside, beside its good ones."""
    for image in content["images"]:
        for x, width in ((10, 0), (500, 20), (-40, 20), (50, 40)):
            corners = [x, 5, x + width, 5, x + width, 25, x, 25]
            box = {"bbox": [x, 5, width, 20], "segmentation": [corners], "area": 20 * width}
            new = {"id": 1000 + len(content["annotations"]), "image_id": image["id"]}
            content["annotations"].append({**box, **new, "category_id": 1, "iscrowd": 0})


def only_bad_boxes_in_most(content, folder):
    bad_boxes(content, folder)
    bad = (10, 500, -40)
    content["annotations"] = [
        item
        for item in content["annotations"]
        if item["image_id"] == 0 or (item["id"] >= 1000 and item["bbox"][0] in bad)
    ]


def half_without_objects(content, folder):
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] % 2]


def damage_one(content, folder):
    (folder / "images" / content["images"][0]["file_name"]).write_bytes(b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [bad_boxes, only_bad_boxes_in_most, half_without_objects, damage_one]
)
def test_training_goes_on_with_what_is_usable(own_data, make_cfg, change):
    cfg = make_cfg("DATASETS.TRAIN", f"('{own_data(change)}',)", "SOLVER.MAX_ITER", 4)
    run_transfer(cfg)
    result = read_result(Path(cfg.OUTPUT_DIR) / "results.json")
    assert math.isfinite(result.metrics["bbox"]["AP"])


@pytest.mark.parametrize("change", [bad_boxes, half_without_objects])
def test_evaluation_takes_such_annotations_too(own_data, make_cfg, change):
    cfg = make_cfg("DATASETS.TEST", f"('{own_data(change)}',)")
    run_transfer(cfg)
    assert (Path(cfg.OUTPUT_DIR) / "results.json").exists()


def without_masks(content, folder):
    content["annotations"][1]["segmentation"] = []


@pytest.mark.parametrize("change", [damage_one, without_masks])
def test_a_bad_test_set_is_named_before_training(own_data, make_cfg, change):
    cfg = make_cfg("DATASETS.TEST", f"('{own_data(change)}',)")
    with pytest.raises(UserError) as caught:
        run_transfer(cfg)
    assert caught.value.code in ("damaged-image", "damaged-annotation")
    assert not Path(cfg.OUTPUT_DIR).exists() or not list(Path(cfg.OUTPUT_DIR).glob("*.pth"))


def test_an_interrupted_evaluation_is_repeated_without_training(make_cfg, monkeypatch):
    cfg = make_cfg()
    evaluate = transfer.task_of(cfg).evaluate
    trained = []
    monkeypatch.setattr(
        transfer,
        "train",
        lambda *args, _train=transfer.train, **more: (
            trained.append(_train(*args, **more)) or trained[-1]
        ),
    )

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(transfer.task_of(cfg)), "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        run_transfer(cfg)
    monkeypatch.setattr(
        type(transfer.task_of(cfg)), "evaluate", lambda self, *args: evaluate(*args)
    )
    run_transfer(cfg, resume=True)
    first, second = trained
    assert (second.seconds, second.images_per_s) == (first.seconds, first.images_per_s)
    assert math.isfinite(read_result(Path(cfg.OUTPUT_DIR) / "results.json").metrics["bbox"]["AP"])


def test_a_component_that_nobody_registered_is_named(make_cfg):
    with pytest.raises(UserError, match=r"no component 'MyHeads'.*ROI_HEADS.*register_all\(\)"):
        run_transfer(make_cfg("MODEL.ROI_HEADS.NAME", "MyHeads"))
