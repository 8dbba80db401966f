"""Images that cannot be used are left out of training, up to a number, and stop an evaluation."""

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from mls_d2.config.defaults import get_cfg
from mls_d2.data.detection_mapper import MAX_BROKEN, DetectionMapper, UnreadableImageError


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
