"""Polygons must cover exactly the pixels of their mask, also in pycocotools' eyes."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mls_d2.scenes.outlines import mask_polygons


def decode(polygons: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, *shape))).astype(bool)


def shoelace(polygon: list[float]) -> float:
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs) / 2


def test_a_pixel_is_a_unit_square():
    mask = np.zeros((7, 9), bool)
    mask[5, 2] = True
    assert mask_polygons(mask) == [[2, 5, 3, 5, 3, 6, 2, 6]]


def test_straight_edges_have_no_corners_within():
    mask = np.zeros((10, 20), bool)
    mask[2:9, 3:18] = True
    assert mask_polygons(mask) == [[3, 2, 18, 2, 18, 9, 3, 9]]


def test_an_empty_mask_has_no_polygon():
    assert mask_polygons(np.zeros((4, 4), bool)) == []


def test_pixels_that_share_a_corner_only_are_apart():
    mask = np.array([[True, False], [False, True]])
    assert mask_polygons(mask) == [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]


def test_a_region_with_a_hole_is_cut_in_two():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    polygons = mask_polygons(mask)
    assert len(polygons) == 2
    assert sum(map(shoelace, polygons)) == 24
    np.testing.assert_array_equal(decode(polygons, mask.shape), mask)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_polygons_of_noise_decode_to_the_mask(density: float):
    # Noise has holes in holes, corners that touch, and pixels at all four borders.
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((13, 17)) < density
        mask[0, 0] = True
        polygons = mask_polygons(mask)
        np.testing.assert_array_equal(decode(polygons, mask.shape), mask)
        # Each is clockwise in the image, and together they cover each pixel once.
        assert all(shoelace(polygon) > 0 for polygon in polygons)
        assert sum(map(shoelace, polygons)) == mask.sum()
