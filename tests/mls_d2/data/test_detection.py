"""Detection: objects to learn from, the mapper, and images that cannot be read."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.structures import BoxMode
from PIL import Image
from torch.utils.data import DataLoader

from mls_d2.config.defaults import get_cfg
from mls_d2.core.errors import UserError
from mls_d2.data import detection
from mls_d2.data.detection import (
    MAX_BROKEN,
    DetectionMapper,
    UnreadableImageError,
    training_records,
    usable_records,
)


def with_boxes(*boxes, mode=BoxMode.XYWH_ABS, crowd=0, **fields):
    annotations = [
        {"bbox": list(box), "bbox_mode": mode, "iscrowd": crowd, **fields} for box in boxes
    ]
    return {"file_name": "a.jpg", "width": 60, "height": 40, "annotations": annotations}


GOOD = (10, 10, 5, 5)
MASK = {"segmentation": [[10, 10, 15, 10, 15, 15]]}
RLE = {"segmentation": mask_util.encode(np.ones((40, 60), np.uint8, order="F"))}


@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 0, 5), (10, 10, 5, 0), (10, 10, -5, 5), (10, -99, 5, 5),
        (60, 10, 5, 5), (10, 40, 5, 5),  # begin where the image ends
        (-5, 10, 5, 5),  # ends where the image begins
    ],
)  # fmt: skip
def test_boxes_without_area_are_left_out_and_counted(box, caplog):
    records = [with_boxes(box), with_boxes(box, GOOD), with_boxes(box, box), with_boxes(GOOD)]
    assert usable_records(records, masks=False) == [with_boxes(GOOD)] * 2
    assert "4 boxes without area in their image, 2 images without an object" in caplog.text
    assert len(usable_records(records, masks=False, filter_empty=False)) == 4


@pytest.mark.parametrize(
    "box", [(-5, -5, 6, 6), (59, 39, 50, 50), (0, 0, 60, 40), (1, 1, 0.1, 0.1)]
)
def test_boxes_over_the_edge_and_small_ones_are_good(box, caplog):
    records = [with_boxes(box)]
    assert usable_records(records, masks=False) == records
    assert not caplog.text


def test_corners_are_read_as_corners():
    corners = with_boxes((10, 10, 12, 12), mode=BoxMode.XYXY_ABS)
    empty = with_boxes((10, 10, 10, 12), mode=BoxMode.XYXY_ABS)
    assert usable_records([corners, empty], masks=False) == [corners]


@pytest.mark.parametrize("record", [with_boxes(), with_boxes(GOOD, crowd=1)])
def test_crowds_are_no_objects_to_learn_from(monkeypatch, refuses, record):
    monkeypatch.setattr(DatasetCatalog, "get", lambda _: [record])
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("scenes",)
    with refuses("missing-data") as caught:
        training_records(cfg)
    assert "a.jpg" in str(caught.value)
    assert "1 images without an object to learn from" in str(caught.value)


def empty_rle():
    return mask_util.encode(np.zeros((40, 60), np.uint8, order="F"))


@pytest.mark.parametrize(
    "mask",
    [
        [[61, 5, 70, 5, 70, 9]], [[5, -9, 9, -9, 9, -1]],  # outside of the image
        [[5, 5, 9, 5, 20, 5]],  # a line
        empty_rle(),
    ],
    ids=str,
)  # fmt: skip
def test_masks_without_area_are_left_out_of_mask_training_alone(mask, caplog):
    records = [with_boxes(GOOD, segmentation=mask), with_boxes(GOOD, **MASK)]
    assert usable_records(records, masks=False) == records
    assert usable_records(records, masks=True) == records[1:]
    assert "1 masks without area in their image" in caplog.text


def test_objects_without_masks_are_left_out_of_mask_training_alone(monkeypatch, caplog, refuses):
    mixed = with_boxes(GOOD, **MASK)
    mixed["annotations"] += with_boxes(GOOD, GOOD)["annotations"]
    records = [with_boxes(GOOD), mixed]
    monkeypatch.setattr(detection, "get_detection_dataset_dicts", lambda *_, **__: records)
    cfg = get_cfg()
    assert training_records(cfg) == records
    cfg.MODEL.MASK_ON = True
    assert training_records(cfg) == [with_boxes(GOOD, **MASK)]
    assert "3 objects without a mask, 1 images without" in caplog.text
    records.append(with_boxes(GOOD, **RLE))
    with refuses("bad-value", "INPUT.MASK_FORMAT bitmask"):
        training_records(cfg)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    assert len(training_records(cfg)) == 2


@pytest.fixture
def record(tmp_path):
    """A function that writes an image, damaged if asked for, and returns its record."""

    def write(name="a", damage=None, **fields):
        path = tmp_path / f"{name}.jpg"
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if damage is not None:
            path.write_bytes(damage(path.read_bytes()))
        return with_boxes(GOOD, category_id=1, **MASK) | {"file_name": str(path)} | fields

    return write


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("colours", ["RGB", "BGR"])
def test_a_whole_image_is_mapped_as_detectron2_does(record, is_train, colours):
    cfg = get_cfg()
    cfg.INPUT.FORMAT, cfg.MODEL.MASK_ON = colours, True
    item = record()
    results = []
    for mapper in (DetectionMapper, DatasetMapper):
        np.random.seed(0)
        results.append(mapper(cfg, is_train=is_train)(item))
    ours, theirs = results
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    if is_train:
        for name, value in theirs["instances"].get_fields().items():
            assert str(ours["instances"].get(name)) == str(value)


def test_16_bit_grey_is_scaled(record):
    item = record()
    item["file_name"] = item["file_name"].replace(".jpg", ".png")
    Image.fromarray(np.full((40, 60), 32768, np.uint16)).save(item["file_name"])
    mapped = DetectionMapper(get_cfg(), is_train=False)(item)
    assert mapped["image"].unique().tolist() == [round(32768 / 257)]


@pytest.mark.parametrize(("size", "expected"), [((1, 3000), (1, 1333)), ((3000, 1), (1333, 1))])
def test_very_thin_images_keep_a_pixel(record, size, expected):
    item = record(height=size[0], width=size[1])
    Image.fromarray(np.full((*size, 3), 9, np.uint8)).save(item["file_name"])
    mapped = DetectionMapper(get_cfg(), is_train=False)(item)
    assert mapped["image"].shape == (3, *expected)
    assert DetectionMapper(get_cfg(), is_train=True)(item) is None  # Its objects have no area.


DAMAGES = {
    "empty": lambda data: b"",
    "no image": lambda data: b"<html>",
    "truncated": lambda data: data[: len(data) // 2],
}


@pytest.mark.parametrize(
    "changes",
    [*({"damage": damage} for damage in DAMAGES.values()), {"height": 60, "width": 40}],
    ids=[*DAMAGES, "sides exchanged"],
)
def test_a_bad_image_is_left_out_of_training_and_stops_an_evaluation(record, changes, caplog):
    broken = record("broken", **changes)
    mapper = DetectionMapper(get_cfg(), is_train=True)
    assert mapper(broken) is None
    assert mapper(broken) is None
    assert caplog.text.count("left out of training") == 1
    with pytest.raises(UnreadableImageError, match=broken["file_name"]) as caught:
        DetectionMapper(get_cfg(), is_train=False)(broken)
    assert caught.value.code == "damaged-image"


def test_many_damaged_images_stop_the_training(record, refuses):
    mapper = DetectionMapper(get_cfg(), is_train=True)
    for index in range(MAX_BROKEN):
        assert mapper(record(str(index), DAMAGES["empty"])) is None
    with refuses("damaged-image"):
        mapper(record("last", DAMAGES["empty"]))
    few = DetectionMapper(get_cfg(), is_train=True, total=2)
    assert few(record("0", DAMAGES["empty"])) is None
    with refuses("damaged-image"):
        few(record("1", DAMAGES["empty"]))


def test_an_image_without_objects_left_after_scaling_is_left_out(record, caplog, refuses):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    good, line = record(), record("line")
    line["annotations"][0]["segmentation"] = [[5, 5, 10, 10, 20, 20]]
    crowd = record("crowd")
    crowd["annotations"][0]["iscrowd"] = 1
    mapper = DetectionMapper(cfg, is_train=True)
    assert mapper(line) is None
    assert f"'{line['file_name']}' has no object left after scaling" in caplog.text
    assert len(mapper(good)["instances"]) == 1
    assert len(mapper(crowd)["instances"]) == 0
    assert DetectionMapper(cfg, is_train=False)(line) is not None
    two = DetectionMapper(cfg, is_train=True, total=2)
    assert two(line) is None
    with refuses("missing-data"):
        two(record("other", DAMAGES["empty"]))


class Mapped:
    """A dataset of one record for a loader's worker."""

    def __init__(self, record):
        self.record = record

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return DetectionMapper(get_cfg(), is_train=False)(self.record)


def test_from_a_loaders_worker_comes_the_message_alone(record):
    broken = record("broken", DAMAGES["empty"])
    with pytest.raises(UserError) as caught:
        next(iter(DataLoader(Mapped(broken), num_workers=1)))
    assert str(caught.value).startswith(f"image '{broken['file_name']}' cannot be used: ")
    assert "Traceback" not in str(caught.value)
