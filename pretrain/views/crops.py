"""Random resized crops on the CPU that keep their geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


@dataclass(frozen=True)
class Crop:
    """Where a view comes from: a box in source pixels, and whether the view was mirrored."""

    x: int
    y: int
    width: int
    height: int
    flipped: bool

    def as_array(self) -> np.ndarray:
        """Return ``(5,)`` float32: x, y, width, height in source pixels, flipped as 0 or 1."""
        return np.array([self.x, self.y, self.width, self.height, self.flipped], np.float32)


class TwoCrops:
    """Cut two random resized crops out of an image.

    Args:
        size: side of the crops in pixels.
        scale: bounds of the crop's area as a share of the image's, in (0, 1].
        flip_prob: probability of a horizontal flip, in [0, 1].

    Source: Inception-style crops as in MoCo-v2 (torchvision's RandomResizedCrop rule: area uniform,
    aspect ratio log-uniform in [3/4, 4/3], ten tries, then a centre crop).
    """

    def __init__(self, size: int, scale: tuple[float, float], flip_prob: float) -> None:
        self.size = size
        self.scale = scale
        self.flip_prob = flip_prob

    def __call__(
        self, image: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut two views.

        Args:
            image: ``(H, W, 3)`` uint8.
            rng: source of the randomness.

        Returns:
            Views ``(2, size, size, 3)`` uint8 and their geometry ``(2, 5)``, see
            :meth:`Crop.as_array`.
        """
        crops = [self.draw(image.shape[0], image.shape[1], rng) for _ in range(2)]
        views = np.stack([cut(image, crop, self.size) for crop in crops])
        return views, np.stack([crop.as_array() for crop in crops])

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Crop:
        """Draw one crop of an image of ``height`` × ``width`` pixels."""
        flipped = bool(rng.random() < self.flip_prob)
        low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
        for _ in range(_TRIES):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                x, y = rng.integers(width - w + 1), rng.integers(height - h + 1)
                return Crop(int(x), int(y), w, h, flipped)
        return _centre_crop(height, width, flipped)


def cut(image: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """Return the view ``(size, size, 3)`` of an image ``(H, W, 3)`` that ``crop`` describes.

    A crop larger than the view is averaged (no aliasing), a smaller one interpolated linearly.
    """
    patch = image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    shrinks = crop.width > size and crop.height > size
    view = cv2.resize(
        patch, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return view[:, ::-1] if crop.flipped else view


def _centre_crop(height: int, width: int, flipped: bool) -> Crop:
    w = min(width, max(1, round(height * _RATIO[1])))
    h = min(height, max(1, round(width / _RATIO[0])))
    return Crop((width - w) // 2, (height - h) // 2, w, h, flipped)
