"""Detection: usable objects, and images that cannot be read."""

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image
from torch.utils.data import DataLoader

from mls_d2.config.defaults import get_cfg
from mls_d2.core.errors import UserError
from mls_d2.data.detection import MAX_BROKEN, DetectionMapper, UnreadableImageError, usable_records


def record(*boxes, mode=BoxMode.XYWH_ABS, crowd=0):
    annotations = [{"bbox": list(box), "bbox_mode": mode, "iscrowd": crowd} for box in boxes]
    return {"width": 60, "height": 40, "annotations": annotations}


GOOD = (10, 10, 5, 5)
BAD = [
    (10, 10, 0, 5),
    (10, 10, 5, 0),
    (10, 10, -5, 5),
    (60, 10, 5, 5),  # begins where the image ends
    (10, 40, 5, 5),
    (-5, 10, 5, 5),  # ends where the image begins
    (10, -99, 5, 5),
]


@pytest.mark.parametrize("box", BAD)
def test_an_image_with_bad_boxes_alone_is_left_out(box, caplog):
    mixed, whole = record(box, GOOD), record(GOOD)
    assert usable_records([record(box), mixed, record(box, box), whole], masks=False) == [
        mixed,
        whole,
    ]
    assert "4 boxes without area" in caplog.text
    assert "and 2 images without others" in caplog.text


@pytest.mark.parametrize(
    "box", [(-5, -5, 6, 6), (59, 39, 50, 50), (0, 0, 60, 40), (1, 1, 0.1, 0.1)]
)
def test_boxes_over_the_edge_and_small_ones_are_good(box, caplog):
    assert len(usable_records([record(box)], masks=False)) == 1
    assert not caplog.text


def test_corners_are_read_as_corners():
    corners = record((10, 10, 12, 12), mode=BoxMode.XYXY_ABS)
    empty = record((10, 10, 10, 12), mode=BoxMode.XYXY_ABS)
    assert usable_records([corners, empty], masks=False) == [corners]


def test_crowds_are_no_objects_to_learn_from():
    with pytest.raises(UserError, match="none of the 1 training images"):
        usable_records([record(GOOD, crowd=1)], masks=False)


@pytest.fixture
def record(tmp_path):
    """A function that writes an image, damaged by request, and returns its record."""

    def write(name="a", damage=None):
        path = tmp_path / f"{name}.jpg"
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if damage is not None:
            path.write_bytes(damage(path.read_bytes()))
        size = {"height": 40, "width": 60}
        return {"file_name": str(path), "annotations": []} | size

    return write


DAMAGES = {
    "empty": lambda data: b"",
    "no image": lambda data: b"<html>",
    "truncated": lambda data: data[: len(data) // 2],
}


def test_a_whole_image_is_mapped_as_detectron2_does(record):
    mapped = DetectionMapper(get_cfg(), is_train=False)(record())
    assert mapped["image"].shape[0] == 3
    assert (mapped["height"], mapped["width"]) == (40, 60)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_image_is_left_out_of_training_and_stops_an_evaluation(record, damage, caplog):
    broken = record("broken", damage)
    mapper = DetectionMapper(get_cfg(), is_train=True)
    assert mapper(broken) is None
    assert mapper(broken) is None
    assert caplog.text.count("left out of training") == 1
    assert broken["file_name"] in caplog.text
    with pytest.raises(UnreadableImageError, match=broken["file_name"]):
        DetectionMapper(get_cfg(), is_train=False)(broken)


def test_an_image_of_another_size_than_annotated_cannot_be_used(record):
    other = record() | {"height": 50}
    assert DetectionMapper(get_cfg(), is_train=True)(other) is None
    with pytest.raises(UnreadableImageError, match="Mismatched image shape"):
        DetectionMapper(get_cfg(), is_train=False)(other)


def test_many_damaged_images_stop_the_training(record):
    mapper = DetectionMapper(get_cfg(), is_train=True)
    for index in range(MAX_BROKEN):
        assert mapper(record(str(index), DAMAGES["empty"])) is None
    with pytest.raises(UnreadableImageError, match="more than 10 training images"):
        mapper(record("last", DAMAGES["empty"]))


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
    with pytest.raises(UnreadableImageError) as caught:
        next(iter(DataLoader(Mapped(broken), num_workers=1)))
    assert str(caught.value).startswith(f"image '{broken['file_name']}' cannot be used: ")
    assert "Traceback" not in str(caught.value)
