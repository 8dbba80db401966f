"""Crops: where they come from and what they show."""

import math

import numpy as np
import pytest

from pretrain.views.crops import Crop, TwoCrops, cut


def ramp(height: int, width: int) -> np.ndarray:
    """Red is the column and green the row, so that a view tells where it was cut."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


def test_the_geometry_says_where_the_view_was_cut():
    image = ramp(60, 90)
    crops = TwoCrops(16, (0.2, 1.0), 0.5)
    for seed in range(50):
        views, geometry = crops(image, np.random.default_rng(seed))
        for view, (x, y, width, height, flipped) in zip(views, geometry, strict=True):
            columns = view[..., 0].mean(axis=0)
            left, right = columns[[0, -1]][:: -1 if flipped else 1]
            # A view's first column is the mean over the crop's first width/16 source columns.
            assert left == pytest.approx(x + (width / 16 - 1) / 2, abs=1.5)
            assert right == pytest.approx(x + width - 1 - (width / 16 - 1) / 2, abs=1.5)
            assert view[0, :, 1].mean() == pytest.approx(y + (height / 16 - 1) / 2, abs=1.5)


def test_areas_and_ratios_fill_their_ranges():
    crops = TwoCrops(8, (0.2, 1.0), 0.5)
    rng = np.random.default_rng(0)
    drawn = [crops.draw(400, 400, rng) for _ in range(4000)]
    areas = np.array([c.width * c.height for c in drawn]) / 160_000
    ratios = np.array([c.width / c.height for c in drawn])
    assert areas.min() == pytest.approx(0.2, abs=0.01)
    assert areas.max() > 0.97
    assert ratios.min() == pytest.approx(3 / 4, abs=0.02)
    assert ratios.max() == pytest.approx(4 / 3, abs=0.03)
    assert abs(np.log(ratios).mean()) < 0.02
    assert np.mean([c.flipped for c in drawn]) == pytest.approx(0.5, abs=0.03)


def test_crops_lie_inside_the_image():
    crops = TwoCrops(8, (0.2, 1.0), 0.5)
    rng = np.random.default_rng(1)
    for height, width in [(1, 1), (3, 200), (200, 3), (31, 17)]:
        for _ in range(50):
            crop = crops.draw(height, width, rng)
            assert crop.x >= 0
            assert crop.y >= 0
            assert 0 < crop.width <= width - crop.x
            assert 0 < crop.height <= height - crop.y


def test_an_image_too_long_for_any_ratio_gives_its_centre():
    crop = TwoCrops(8, (1.0, 1.0), 0.0).draw(30, 300, np.random.default_rng(0))
    assert (crop.width, crop.height) == (40, 30)
    assert crop.x == 130


def test_shrinking_averages_instead_of_aliasing():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    view = cut(stripes, Crop(0, 0, 64, 64, False), 16)
    assert np.abs(view.astype(int) - 127).max() <= 1


def test_a_flipped_view_is_the_mirror_image():
    image = ramp(40, 40)
    plain = cut(image, Crop(3, 4, 30, 20, False), 16)
    np.testing.assert_array_equal(cut(image, Crop(3, 4, 30, 20, True), 16), plain[:, ::-1])


def test_the_same_seed_gives_the_same_views():
    image = ramp(40, 50)
    crops = TwoCrops(16, (0.2, 1.0), 0.5)
    one = crops(image, np.random.default_rng(7))
    other = crops(image, np.random.default_rng(7))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert math.isfinite(one[1].sum())
