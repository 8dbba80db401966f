"""Scaling, cropping, mirroring and colour distortion of images and labels."""

import colorsys
import os

import cv2
import numpy as np
import pytest

from mls_d2.data import segmentation_mapper
from mls_d2.data.images import BrokenImageError
from mls_d2.data.segmentation_mapper import (
    SegmentationMapper,
    choose_crop,
    fitting_size,
    photometric_distortion,
    read_labels,
    shift_colours,
)

HEIGHT, WIDTH = 24, 48


@pytest.fixture
def record(tmp_path):
    """A picture whose red is 10 times the label of the pixel, in blocks of 8 x 8."""
    labels = np.arange(18, dtype=np.uint8).reshape(3, 6).repeat(8, 0).repeat(8, 1)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 2] = labels * 10
    names = [str(tmp_path / name) for name in ("image.png", "labels.png")]
    cv2.imwrite(names[0], image)
    cv2.imwrite(names[1], labels)
    size = {"height": HEIGHT, "width": WIDTH}
    return {"file_name": names[0], "sem_seg_file_name": names[1]} | size


def mapper(*, is_train=True, **changes):
    arguments = {
        "base_size": (HEIGHT, WIDTH),
        "scale_range": (1.0, 1.0),
        "crop_size": (16, 24),
        "max_class_share": 0.75,
        "flip": False,
        "num_classes": 19,
        "ignore_value": 255,
    }
    return SegmentationMapper(is_train=is_train, **(arguments | changes))


@pytest.fixture
def plain_colours(monkeypatch):
    monkeypatch.setattr(segmentation_mapper, "photometric_distortion", lambda image: image)


@pytest.mark.parametrize(
    ("size", "base", "ratio", "expected"),
    [
        ((1024, 2048), (1024, 2048), 1.0, (1024, 2048)),
        ((1024, 2048), (1024, 2048), 0.5, (512, 1024)),
        ((1024, 2048), (1025, 2049), 1.0, (1025, 2049)),  # the size of 769 x 769 recipes
        ((100, 400), (1024, 2048), 1.0, (512, 2048)),
        ((400, 100), (1024, 2048), 1.0, (2048, 512)),
    ],
)
def test_images_are_scaled_to_fit_and_keep_their_shape(size, base, ratio, expected):
    assert fitting_size(size, base, ratio) == expected


@pytest.mark.usefixtures("plain_colours")
def test_a_crop_shows_the_same_pixels_in_image_and_labels(record):
    for _ in range(10):
        item = mapper()(record)
        assert item["image"].shape == (3, 16, 24)
        assert item["sem_seg"].shape == (16, 24)
        assert np.array_equal(item["image"][0], item["sem_seg"] * 10)
        assert item["height"] == HEIGHT


@pytest.mark.usefixtures("plain_colours")
def test_mirroring_turns_both(record, monkeypatch):
    whole = mapper(crop_size=(HEIGHT, WIDTH), flip=True)
    for value, step in ((0.4, -1), (0.6, 1)):
        monkeypatch.setattr(np.random, "rand", lambda value=value: value)
        item = whole(record)
        assert np.array_equal(item["image"][0], item["sem_seg"] * 10)
        assert item["sem_seg"][0].tolist()[::step] == np.arange(6).repeat(8).tolist()


@pytest.mark.usefixtures("plain_colours")
def test_what_is_smaller_than_a_crop_is_padded_with_the_ignored_label(record):
    item = mapper(scale_range=(0.5, 0.5))(record)
    assert item["image"].shape == (3, 12, 24)
    assert (item["sem_seg"][12:] == 255).all()
    assert (item["sem_seg"][:12] != 255).all()


def test_a_crop_is_chosen_that_no_class_fills():
    # Only the rightmost of the crops has two classes of at most three quarters.
    labels = np.zeros((4, 40), np.uint8)
    labels[:, 36:] = 1
    # With ten tries out of 29 positions it is found more often than by chance.
    found = [choose_crop(labels, (4, 12), 0.75, 255)[1].start == 28 for _ in range(500)]
    assert np.mean(found) == pytest.approx(1 - (28 / 29) ** 10, abs=0.07)


def test_ignored_pixels_do_not_count_for_the_share():
    labels = np.full((4, 4), 255, np.uint8)
    labels[0, 0], labels[0, 1:3] = 1, 2
    tries = []
    original = np.random.randint

    def count(*args):
        tries.append(args)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "randint", count)
        choose_crop(labels, (4, 4), 0.75, 255)  # two thirds of what is labelled: taken at once
        assert len(tries) == 2
        labels[0, 0] = 2
        choose_crop(labels, (4, 4), 0.75, 255)  # a single class: ten tries
        assert len(tries) == 2 + 2 * 10
        choose_crop(labels, (4, 4), 1.0, 255)
        assert len(tries) == 2 + 2 * 10 + 2


def test_testing_takes_the_whole_image_at_its_base_size(record):
    item = mapper(is_train=False, base_size=(48, 96))(record)
    assert item["image"].shape == (3, 48, 96)
    assert "sem_seg" not in item


@pytest.mark.parametrize(
    "labels",
    [
        np.full((HEIGHT, WIDTH), 26, np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        np.zeros((HEIGHT, WIDTH), np.uint16),
        np.zeros((HEIGHT, 4), np.uint8),
    ],
)
def test_labels_that_do_not_fit_are_refused(record, refuses, labels):
    cv2.imwrite(record["sem_seg_file_name"], labels)
    with refuses("damaged-file"):
        mapper()(record)


@pytest.mark.timeout(30)
def test_labels_are_read_by_any_name_and_a_pipe_is_refused(record, tmp_path, refuses):
    name = str(tmp_path / "caf\udce9.png")  # no UTF-8
    os.rename(record["sem_seg_file_name"], name)
    assert read_labels(name, 19, 255).shape == (HEIGHT, WIDTH)
    os.mkfifo(tmp_path / "pipe.png")
    with refuses("damaged-file"):
        read_labels(str(tmp_path / "pipe.png"), 19, 255)


def test_files_that_cannot_be_read_are_named(record, tmp_path, refuses):
    with refuses("damaged-file"):
        read_labels(str(tmp_path / "none.png"), 19, 255)
    with open(record["file_name"], "r+b") as file:
        file.truncate(60)
    # A tolerant mapper takes this one for an image to be left out.
    with pytest.raises(BrokenImageError, match="image.png"):
        mapper()(record)


def picture():
    return np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def forced(monkeypatch, coins, uniform):
    """Let the coins (brightness, contrast, contrast last, saturation, hue) and draws be known."""
    tosses, draws = iter(coins), iter(uniform)
    monkeypatch.setattr(segmentation_mapper, "_coin", lambda: next(tosses))
    monkeypatch.setattr(np.random, "uniform", lambda low, high: low + next(draws) * (high - low))
    return photometric_distortion(picture())


def test_without_any_of_them_the_image_stays(monkeypatch):
    assert np.array_equal(forced(monkeypatch, [False] * 5, []), picture())


def test_brightness_adds_and_clips(monkeypatch):
    out = forced(monkeypatch, [True, False, False, False, False], [0.75])
    assert np.array_equal(out, np.clip(picture().astype(int) + 16, 0, 255))


@pytest.mark.parametrize("last", [False, True])
def test_contrast_multiplies_and_clips(monkeypatch, last):
    out = forced(monkeypatch, [False, True, last, False, False], [0.75])
    assert np.array_equal(out, np.clip(np.round(picture() * 1.25), 0, 255))


def test_contrast_comes_before_or_after_the_colours(monkeypatch):
    # Bright pixels clip before the colours change, or after it: not the same.
    first, last = (
        forced(monkeypatch, [False, True, side, True, False], [1.0, 0.0]) for side in (False, True)
    )
    middle = np.clip(np.round(picture() * 1.5), 0, 255).astype(np.uint8)
    assert np.array_equal(first, shift_colours(middle, 0.5, 0))
    faded = shift_colours(picture(), 0.5, 0)
    assert np.array_equal(last, np.clip(np.round(faded * 1.5), 0, 255))
    assert not np.array_equal(first, last)


@pytest.mark.parametrize(("saturation", "hue"), [(0.5, 0), (1.4, 0), (1.0, 18), (0.8, -18)])
def test_colours_are_those_of_the_hsv_model(saturation, hue):
    pixels = picture().reshape(-1, 3)
    expected = []
    for red, green, blue in pixels / 255:
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        expected.append(colorsys.hsv_to_rgb((h + hue / 180) % 1, min(1, s * saturation), v))
    out = shift_colours(picture(), saturation, hue).reshape(-1, 3)
    error = np.abs(out - 255 * np.array(expected))
    # Eight bits for hue and saturation in between: a few levels at most, half a level on average.
    assert error.max() < 5
    assert error.mean() < 1
    assert np.array_equal(out.max(1), pixels.max(1))


def test_half_of_all_draws_change_each_of_them_within_the_bounds():
    image = np.full((1, 1, 3), (200, 100, 100), np.uint8)
    outs = np.array([photometric_distortion(image)[0, 0] for _ in range(2000)], float)
    same = (outs == image[0, 0]).all(1).mean()
    # None of four with 1/16, and a little for draws that change nothing after rounding.
    assert 0.04 < same < 0.11
    assert outs.max() <= 255
    top = outs.max(1)  # the value: brightness and contrast only
    assert top.min() >= np.floor((200 - 32) * 0.5)
    assert (top < 200).mean() == pytest.approx((top > 200).mean(), abs=0.06)
