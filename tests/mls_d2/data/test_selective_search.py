"""Selective search: where boxes come to lie, and that they do not depend on the call."""

import cv2
import numpy as np
import pytest

from mls_d2.data.selective_search import selective_search

needs_contrib = pytest.mark.skipif(
    not hasattr(cv2, "ximgproc"), reason="needs opencv-contrib-python-headless"
)


def square(height: int, width: int) -> np.ndarray:
    """Return a dark picture with one bright rectangle: x 20 to 70, y 10 to 40 of 120 x 60."""
    pixels = np.full((height, width, 3), 30, np.uint8)
    y, x = height / 60, width / 120
    pixels[round(10 * y) : round(40 * y), round(20 * x) : round(70 * x)] = (230, 200, 20)
    return pixels


@needs_contrib
@pytest.mark.parametrize(("scale", "short_side"), [(1, 0), (1, 500), (4, 60), (3, 90)])
def test_the_box_of_a_rectangle_is_found_in_pixels_of_the_image(scale, short_side):
    boxes = selective_search(square(60 * scale, 120 * scale), short_side=short_side)
    # Within the blur of the search, which is 0.8 pixels of the reduced image.
    error = np.abs(boxes / scale - [20, 10, 70, 40]).max(axis=1)
    assert error.min() <= 2
    assert [0, 0, 120 * scale, 60 * scale] in boxes.tolist()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes >= 0).all()
    assert (boxes <= np.tile([120 * scale, 60 * scale], 2)).all()


@needs_contrib
def test_boxes_are_sorted_distinct_and_the_same_in_every_call():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    pixels = cv2.resize(pixels, (120, 80), interpolation=cv2.INTER_CUBIC)
    first, second = selective_search(pixels), selective_search(pixels)
    np.testing.assert_array_equal(first, second)
    assert len(first) > 10
    assert first.tolist() == sorted(map(list, set(map(tuple, first.tolist()))))


@needs_contrib
@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (7, 3)])
def test_tiny_images_have_one_box(shape):
    assert selective_search(np.zeros((*shape, 3), np.uint8)).tolist() == [
        [0, 0, shape[1], shape[0]]
    ]


def test_an_opencv_without_the_search_is_named(monkeypatch, refuses):
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    with refuses("missing-package", "opencv-contrib-python-headless"):
        selective_search(np.zeros((9, 9, 3), np.uint8))
