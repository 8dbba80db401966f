"""Crops: where they come from and what they show."""

import io

import numpy as np
import pytest
from PIL import Image

from mls_d2.data.images import EncodedImage, open_image
from pretrain.views.crops import Crop, Crops, ViewGroup, cut, random_crop, reduction


def encoded(image: np.ndarray, kind: str = "PNG", **options) -> EncodedImage:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return open_image(file.getvalue())


def photo(height: int, width: int) -> np.ndarray:
    """Blobs of all sizes, as in photographs."""
    rng, total = np.random.default_rng(0), np.zeros((height, width, 3))
    for octave in range(1, 8):
        noise = rng.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer, dtype=float) / octave
    total -= total.min()
    return (total / total.max() * 255).round().astype(np.uint8)


def two(size: int, scale=(0.2, 1.0), flip: float = 0.5, **options) -> Crops:
    return Crops([ViewGroup(2, size, scale)], flip, **options)


def ramp(height: int, width: int) -> np.ndarray:
    """Red is the column and green the row, so that a view shows where it was cut."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


def test_the_geometry_says_where_the_view_was_cut():
    image = encoded(ramp(60, 90))
    crops = two(16)
    for seed in range(50):
        (views,), drawn = crops(image, np.random.default_rng(seed))
        for view, crop in zip(views, drawn, strict=True):
            x, y, width, height, flipped = crop.as_array()
            columns = view[..., 0].mean(axis=0)
            left, right = columns[[0, -1]][:: -1 if flipped else 1]
            # A view's first column is the mean over the crop's first width/16 source columns.
            assert left == pytest.approx(x + (width / 16 - 1) / 2, abs=1.5)
            assert right == pytest.approx(x + width - 1 - (width / 16 - 1) / 2, abs=1.5)
            assert view[0, :, 1].mean() == pytest.approx(y + (height / 16 - 1) / 2, abs=1.5)


def test_areas_and_ratios_fill_their_ranges():
    rng = np.random.default_rng(0)
    drawn = [random_crop(400, 400, (0.2, 1.0), 0.5, rng) for _ in range(4000)]
    areas = np.array([c.width * c.height for c in drawn]) / 160_000
    ratios = np.array([c.width / c.height for c in drawn])
    assert areas.min() == pytest.approx(0.2, abs=0.01)
    assert areas.max() > 0.97
    assert ratios.min() == pytest.approx(3 / 4, abs=0.02)
    assert ratios.max() == pytest.approx(4 / 3, abs=0.03)
    assert abs(np.log(ratios).mean()) < 0.02
    assert np.mean([c.flipped for c in drawn]) == pytest.approx(0.5, abs=0.03)


def test_crops_lie_inside_the_image():
    rng = np.random.default_rng(1)
    for height, width in [(1, 1), (3, 200), (200, 3), (31, 17)]:
        for _ in range(50):
            crop = random_crop(height, width, (0.2, 1.0), 0.5, rng)
            assert crop.x >= 0
            assert crop.y >= 0
            assert 0 < crop.width <= width - crop.x
            assert 0 < crop.height <= height - crop.y


def test_an_image_too_long_for_any_ratio_gives_its_centre():
    crop = random_crop(30, 300, (1.0, 1.0), 0.0, np.random.default_rng(0))
    assert (crop.width, crop.height) == (40, 30)
    assert crop.x == 130


@pytest.mark.parametrize(("width", "height"), [(60, 80), (47, 31), (16, 16), (9, 5)])
def test_a_view_is_what_pillow_makes_of_the_crop(width, height):
    image = np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    patch = Image.fromarray(image[3 : 3 + height, 4 : 4 + width])
    expected = np.asarray(patch.resize((16, 16), Image.Resampling.BILINEAR))
    view = cut(image, Crop(4, 3, width, height, False), 16)
    assert np.abs(view.astype(int) - expected.astype(int)).max() <= 1


def test_images_shrink_only_as_far_as_no_view_is_enlarged():
    def box(width, height):
        return Crop(0, 0, width, height, False)

    assert reduction([box(64, 64), box(90, 64)], 32) == 2
    assert reduction([box(64, 64), box(90, 63)], 32) == 1
    assert reduction([box(20, 20)], 32) == 1
    assert reduction([box(1000, 256)], 32) == 8
    assert reduction([box(10_000, 10_000)], 32) == 8


@pytest.mark.parametrize(("size", "factors"), [(56, {2, 4}), (120, {1, 2})])
def test_views_of_reduced_decoding_show_the_same(size, factors):
    image = encoded(photo(480, 641), "JPEG", quality=92)
    whole, reduced = (two(size, reduced=flag) for flag in (False, True))
    used = set()
    for seed in range(40):
        ((views,), drawn), ((small,), same) = (
            crops(image, np.random.default_rng(seed)) for crops in (whole, reduced)
        )
        assert drawn == same
        shrink = min(min(crop.width, crop.height) for crop in drawn) / size
        used.add(max(factor for factor in (1, 2, 4) if factor <= max(1, shrink)))
        error = np.mean((views.astype(float) - small) ** 2, axis=(1, 2, 3))
        assert (10 * np.log10(255**2 / error.clip(1e-3)) > 33).all(), seed  # decibels
        assert (error.max() > 0) == (shrink >= 2), seed
    assert used == factors


def test_files_that_cannot_be_decoded_smaller_are_cut_the_same():
    image = encoded(photo(300, 200))
    one, other = (two(32, reduced=flag)(image, np.random.default_rng(0)) for flag in (False, True))
    np.testing.assert_array_equal(one[0], other[0])


def test_shrinking_averages_instead_of_aliasing():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    view = cut(stripes, Crop(0, 0, 64, 64, False), 16)
    assert np.abs(view[:, 1:-1].astype(int) - 127).max() <= 1
    assert np.abs(view.astype(int) - 127).max() <= 11  # less of the picture lies below the border


def test_a_flipped_view_is_the_mirror_image():
    image = ramp(40, 40)
    plain = cut(image, Crop(3, 4, 30, 20, False), 16)
    np.testing.assert_array_equal(cut(image, Crop(3, 4, 30, 20, True), 16), plain[:, ::-1])


def test_further_groups_leave_the_first_as_it_is_and_have_their_own_size_and_scale():
    image = encoded(ramp(120, 200))
    groups = ViewGroup(2, 16, (0.2, 1.0)), ViewGroup(3, 8, (0.05, 0.14))
    areas = []
    for seed in range(100):
        (views,), drawn = Crops(groups[:1], 0.5)(image, np.random.default_rng(seed))
        (same, small), every = Crops(groups, 0.5)(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(views, same)
        assert every[:2] == drawn
        assert len(small) == 3
        for view in small:  # The ramp shows the columns and rows of source pixels.
            columns, rows = view[..., 0].mean(axis=0), view[..., 1].mean(axis=1)
            areas.append(abs(columns[0] - columns[-1]) * abs(rows[0] - rows[-1]) * (8 / 7) ** 2)
    shares = np.array(areas) / (120 * 200)
    assert shares.min() == pytest.approx(0.05, abs=0.01)
    assert shares.max() == pytest.approx(0.14, abs=0.01)


def test_every_group_keeps_the_image_from_being_decoded_too_small():
    image = encoded(photo(480, 640), "JPEG", quality=92)
    decoded = []

    class Watched:
        height, width = image.height, image.width

        def decode(self, factor):
            decoded.append(factor)
            return image.decode(factor)

    large = ViewGroup(2, 56, (0.9, 1.0))
    for groups in (
        [large],
        [large, ViewGroup(2, 56, (0.02, 0.02))],
        [large, ViewGroup(2, 16, (0.02, 0.02))],
    ):
        Crops(groups, 0.5, reduced=True)(Watched(), np.random.default_rng(0))
    # A crop of 2 % is about 78 pixels wide and high.
    assert decoded == [8, 1, 4]
