"""Photometric distortion for segmentation, on 8-bit RGB images with OpenCV."""

from __future__ import annotations

import cv2
import numpy as np

_PROB = 0.5
_BRIGHTNESS = 32
_FACTORS = (0.5, 1.5)
_HUE = 18  # of 180: OpenCV's hues of 8-bit images
_LEVELS = np.arange(256)


def photometric_distortion(image: np.ndarray) -> np.ndarray:
    """Change brightness, contrast, saturation and hue at random, each with probability 0.5.

    Brightness by up to 32 levels; contrast and saturation by a factor of 0.5 to 1.5; hue by up to
    18 of 180 steps. The contrast changes before or after the colours, on the toss of a coin. Draws
    from NumPy's global generator.

    Args:
        image: ``(H, W, 3)`` uint8, RGB; stays as it is.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Source: SSD (ECCV 2016), as mmsegmentation's recipes use it.
    """
    brightness = np.random.uniform(-_BRIGHTNESS, _BRIGHTNESS) if _coin() else 0.0
    contrast = _factor()
    contrast_last = _coin()
    saturation = _factor()
    hue = np.random.randint(-_HUE, _HUE + 1) if _coin() else 0
    table = _clipped(_LEVELS + brightness)
    if not contrast_last:
        table = _clipped(table * contrast)
    image = cv2.LUT(image, table)
    image = shift_colours(image, saturation, hue)
    return cv2.LUT(image, _clipped(_LEVELS * contrast)) if contrast_last else image


def shift_colours(image: np.ndarray, saturation: float, hue: int) -> np.ndarray:
    """Multiply the saturation and turn the hue.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        saturation: factor, >= 0.
        hue: steps of 2°.

    Returns:
        ``(H, W, 3)`` uint8, RGB; the very image where nothing changes.
    """
    if saturation == 1 and hue == 0:
        return image
    tables = np.empty((256, 1, 3), np.uint8)
    tables[:, 0, 0] = (_LEVELS + hue) % 180
    tables[:, 0, 1] = _clipped(_LEVELS * saturation)
    tables[:, 0, 2] = _LEVELS
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(colours, tables), cv2.COLOR_HSV2RGB)


def _coin() -> bool:
    return np.random.rand() < _PROB


def _factor() -> float:
    return np.random.uniform(*_FACTORS) if _coin() else 1.0


def _clipped(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)
