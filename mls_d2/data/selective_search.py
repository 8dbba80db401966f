"""Selective search: boxes around groups of segments that look alike, by OpenCV (unsupervised)."""

from typing import Any

import cv2
import numpy as np

from mls_d2.core.errors import UserError

NAME = "opencv-fast"


def opencv_search() -> Any:
    """Return OpenCV's module of the search, which is in its contrib package.

    Raises:
        UserError: the installed OpenCV lacks it.
    """
    module = getattr(cv2, "ximgproc", None)
    if module is None:
        raise UserError(
            f"OpenCV {cv2.__version__} in this environment lacks the module ximgproc, which has "
            "selective search: pip uninstall every opencv-python package, then pip install "
            "opencv-contrib-python-headless",
            code="missing-package",
        )
    return module.segmentation


def selective_search(pixels: np.ndarray, *, short_side: int = 0) -> np.ndarray:
    """Return the boxes that OpenCV's fast mode proposes, sorted, without duplicates.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        short_side: pixels to which the shorter side is reduced before the search, which takes time
            in proportion to the area; 0, or more than it has, searches the image as it is.

    Returns:
        ``(R, 4)`` int64, R >= 1: x0, y0, x1, y1 in pixels of ``pixels``, edges.

    Source: Uijlings et al., Selective Search for Object Recognition (IJCV 2013), "fast".
    """
    segmentation = opencv_search()
    height, width = pixels.shape[:2]
    shrink = min(1.0, short_side / min(height, width)) if short_side else 1.0
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    if shrink < 1:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    search = segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    search.switchToSelectiveSearchFast()
    found = search.process().astype(np.float64).reshape(-1, 4)
    edges = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    scaled = np.rint(edges * np.tile([width / size[0], height / size[1]], 2)).astype(np.int64)
    # OpenCV returns the same set in another order in each call.
    return np.unique(scaled, axis=0)
