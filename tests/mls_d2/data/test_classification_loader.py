"""Images are cropped as the recipe says, every test image comes once, and broken ones are named."""

from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.utils.env import seed_all_rng
from PIL import Image

from mls_d2.config.defaults import get_cfg
from mls_d2.core.errors import UserError
from mls_d2.data import classification_loader
from mls_d2.data.classification_loader import (
    ClassificationMapper,
    build_test_loader,
    build_train_loader,
    train_transform,
)
from mls_d2.data.classification_readers import Labelled


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.CLASSIFICATION.CROP_SIZE = 32
    cfg.CLASSIFICATION.RESIZE = 40
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.FORMAT = "RGB"
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATASETS.TRAIN = ("some",)
    return cfg


def centre_by_hand(image, resize, crop):
    _, height, width = image.shape
    scale = resize / min(height, width)
    size = (int(height * scale), int(width * scale))
    small = F.interpolate(
        image[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )[0]
    top, left = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    return small[:, top : top + crop, left : left + crop]


def test_the_test_crop_is_the_centre_of_the_resized_image(cfg):
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
    found = classification_loader.test_transform(cfg)(image)
    assert found.dtype == torch.uint8
    difference = (found.float() - centre_by_hand(image, 40, 32)).abs()
    assert difference.max() <= 1.0  # rounding
    assert found.float().std() > 5


def test_very_thin_images_do_not_fill_the_memory(cfg):
    image = torch.full((1, 1, 1), 7, dtype=torch.uint8).expand(3, 4_000_000, 1)
    cfg.CLASSIFICATION.TRAIN_CROP = "random"
    for transform in (train_transform(cfg), classification_loader.test_transform(cfg)):
        # Forty pixels wide, it would have 19 GB.
        found = transform(image)
        assert found.shape == (3, 32, 32)
        assert found.unique().tolist() == [7]


def test_squashing_keeps_the_whole_image(cfg):
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    image[:, :, :8] = 255  # at the border, which a central crop cuts off
    assert classification_loader.test_transform(cfg)(image).max() == 0
    cfg.CLASSIFICATION.TEST_CROP = "squash"
    found = classification_loader.test_transform(cfg)(image)
    assert found.shape == (3, 32, 32)
    assert found[:, :, :3].min() > 200
    assert found.float().mean().item() == pytest.approx(25.5, abs=1.5)


def positions(cfg, number=60):
    """The horizontal and vertical position, as shares, of the corners of random crops."""
    height, width = 48, 80
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0] = torch.arange(width).expand(height, width) * 3
    image[1] = torch.arange(height)[:, None].expand(height, width) * 5
    transform = train_transform(cfg)
    return torch.stack([transform(image).float() for _ in range(number)])


def test_random_crops_are_squares_of_one_scale_or_areas_of_many(cfg):
    cfg.CLASSIFICATION.TRAIN_CROP = "random"
    crops = positions(cfg)
    # At 40 of 48 pixels a step of one pixel is 1.2 * 3 across: every crop has the same scale.
    spans = (crops[:, 0].amax(dim=(1, 2)) - crops[:, 0].amin(dim=(1, 2))) / 3
    assert spans.min() > 35
    assert spans.max() < 39
    cfg.CLASSIFICATION.TRAIN_CROP = "random_resized"
    cfg.CLASSIFICATION.CROP_SCALE = (0.08, 1.0)
    crops = positions(cfg)
    across = (crops[:, 0].amax(dim=(1, 2)) - crops[:, 0].amin(dim=(1, 2))) / 3
    down = (crops[:, 1].amax(dim=(1, 2)) - crops[:, 1].amin(dim=(1, 2))) / 5
    share = (across + 1) * (down + 1) / (48 * 80)
    assert share.min() < 0.25
    assert share.max() > 0.6
    assert share.min() > 0.05


def test_half_of_the_training_crops_are_mirrored(cfg):
    cfg.CLASSIFICATION.TRAIN_CROP = "random"
    crops = positions(cfg, 200)
    mirrored = (crops[:, 0, :, 0] > crops[:, 0, :, -1]).all(dim=1)
    assert 70 < mirrored.sum() < 130


def test_a_part_of_an_image_is_cut_and_colours_are_ordered(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[5:15, 10:20] = (250, 10, 90)
    path = str(tmp_path / "a.png")
    Image.fromarray(pixels).save(path)
    record = {"file_name": path, "classes": [3], "difficult": [], "box": [10, 5, 20, 15]}
    for colours, expected in (("RGB", [250, 10, 90]), ("BGR", [90, 10, 250])):
        item = ClassificationMapper(lambda image: image, colours=colours)(record)
        assert item["image"].shape == (3, 10, 10)
        assert item["image"][:, 4, 4].tolist() == expected
        assert item["classes"] == [3]


@pytest.fixture
def some(tmp_path, monkeypatch):
    """Ten pictures, whose brightness is their number; returns their folder."""
    records = []
    for index in range(10):
        path = tmp_path / f"{index}.png"
        Image.fromarray(np.full((40, 40, 3), 20 * index, np.uint8)).save(path)
        records.append(
            {"file_name": str(path), "image_id": index, "classes": [index % 2], "difficult": []}
        )
    data = {"some": Labelled(records, ("a", "b"))}
    monkeypatch.setattr(classification_loader, "load_classification", data.get)
    return tmp_path


def test_every_test_image_comes_once_in_order(cfg, some, monkeypatch):
    monkeypatch.setattr(classification_loader, "_TEST_BATCH", 4)
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        loader = build_test_loader(cfg, ["some"])
        batches = list(loader)
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert len(loader) == 3
        items = [item for batch in batches for item in batch]
        assert [item["image_id"] for item in items] == list(range(10))
        assert all(item["image"].unique().tolist() == [20 * i] for i, item in enumerate(items))


def test_training_goes_through_all_images_in_random_order(cfg, some):
    orders = []
    for seed in (1, 1, 2):
        seed_all_rng(seed)
        batches = islice(iter(build_train_loader(cfg)), 5)
        orders.append([item["image_id"] for batch in batches for item in batch])
    assert sorted(orders[0][:10]) == sorted(orders[0][10:]) == list(range(10))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_ends_an_evaluation_and_is_left_out_of_training(cfg, some, workers):
    (some / "7.png").write_bytes(b"no image")
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(UserError, match=r"image '.*7\.png' cannot be used") as caught:
        list(build_test_loader(cfg, ["some"]))
    assert "Traceback" not in str(caught.value)
    batches = list(islice(iter(build_train_loader(cfg)), 6))
    assert [len(batch) for batch in batches] == [4] * 6
    assert {item["image_id"] for batch in batches for item in batch} == {*range(10)} - {7}
