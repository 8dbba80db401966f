"""Random resized crops on the CPU that keep their geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate

from mls_d2.data.images import EncodedImage

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_REDUCTIONS = (8, 4, 2)


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

    def scaled(self, horizontal: float, vertical: float) -> Crop:
        """Return the same box in an image resized by these factors, on whole pixels."""
        left, top = round(self.x * horizontal), round(self.y * vertical)
        right = max(left + 1, round((self.x + self.width) * horizontal))
        lower = max(top + 1, round((self.y + self.height) * vertical))
        return Crop(left, top, right - left, lower - top, self.flipped)


@dataclass(frozen=True)
class LocalCrops:
    """Small views beside the two: multi-crop (SwAV, arXiv 2006.09882, section 3.2).

    Attributes:
        count: L of an image, >= 0.
        size: their side in pixels.
        scale: bounds of their area as a share of the image's, in (0, 1].
    """

    count: int = 0
    size: int = 96
    scale: tuple[float, float] = (0.05, 0.14)


class TwoCrops:
    """Cut two random resized crops out of an image, and local ones where they are asked for.

    Args:
        size: side of the crops in pixels.
        scale: bounds of the crop's area as a share of the image's, in (0, 1].
        flip_prob: probability of a horizontal flip, in [0, 1].
        reduced: decode JPEGs at a half, a quarter or an eighth where :func:`reduction` allows it.
        local: how many local crops, and which.

    Source: Inception-style crops as in MoCo-v2 (torchvision's RandomResizedCrop rule: area uniform,
    aspect ratio log-uniform in [3/4, 4/3], ten tries, then a centre crop).
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float],
        flip_prob: float,
        *,
        reduced: bool = False,
        local: LocalCrops | None = None,
    ) -> None:
        self.size = size
        self.scale = scale
        self.flip_prob = flip_prob
        self.reduced = reduced
        self.local = local or LocalCrops()

    def __call__(
        self, image: EncodedImage, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw the crops, decode the image once, as large as they need it, and cut them.

        Args:
            image: its header tells the size.
            rng: source of the randomness.

        Returns:
            Views ``(2, size, size, 3)`` uint8, their geometry ``(2, 5)``, see
            :meth:`Crop.as_array`, and local views ``(L, s, s, 3)`` uint8.

        Raises:
            BrokenImageError: the image cannot be decoded.
        """
        local = self.local
        crops = [self.draw(image.height, image.width, rng) for _ in range(2)]
        small = [
            self.draw(image.height, image.width, rng, scale=local.scale) for _ in range(local.count)
        ]
        factor = min(reduction(crops, self.size), reduction(small, local.size))
        pixels = image.decode(factor if self.reduced else 1)
        vertical, horizontal = pixels.shape[0] / image.height, pixels.shape[1] / image.width

        def views(crops: Sequence[Crop], size: int) -> np.ndarray:
            made = np.empty((len(crops), size, size, 3), np.uint8)
            for view, crop in zip(made, crops, strict=True):
                view[:] = cut(pixels, crop.scaled(horizontal, vertical), size)
            return made

        geometry = np.stack([crop.as_array() for crop in crops])
        return views(crops, self.size), geometry, views(small, local.size)

    def draw(
        self,
        height: int,
        width: int,
        rng: np.random.Generator,
        *,
        scale: tuple[float, float] | None = None,
    ) -> Crop:
        """Draw one crop of an image of ``height`` × ``width`` pixels; ``scale`` for another one."""
        flipped = bool(rng.random() < self.flip_prob)
        low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
        for _ in range(_TRIES):
            area = height * width * rng.uniform(*(scale or self.scale))
            ratio = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                x, y = rng.integers(width - w + 1), rng.integers(height - h + 1)
                return Crop(int(x), int(y), w, h, flipped)
        return _centre_crop(height, width, flipped)


def reduction(crops: Sequence[Crop], size: int) -> int:
    """Return the largest of 8, 4, 2 and 1 by which an image can shrink without enlarging a view.

    A crop keeps at least ``size`` pixels on either side then, so that resizing it to the view still
    shrinks it, and what the reduction took away would not have been in the view either.
    """
    shortest = min((min(crop.width, crop.height) for crop in crops), default=math.inf)
    return next((factor for factor in _REDUCTIONS if shortest >= factor * size), 1)


def cut(image: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """Return the view ``(size, size, 3)`` of an image ``(H, W, 3)`` that ``crop`` describes.

    Bilinear, over all of the pixels below where the crop shrinks: to within rounding what Pillow's
    ``resize`` gives, and so what MoCo's torchvision transform sees.
    """
    patch = image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    rows = torch.from_numpy(patch).permute(2, 0, 1).unsqueeze(0)
    resized = interpolate(rows, (size, size), mode="bilinear", antialias=True)
    view = resized[0].permute(1, 2, 0).numpy()
    return view[:, ::-1] if crop.flipped else view


def _centre_crop(height: int, width: int, flipped: bool) -> Crop:
    w = min(width, max(1, round(height * _RATIO[1])))
    h = min(height, max(1, round(width / _RATIO[0])))
    return Crop((width - w) // 2, (height - h) // 2, w, h, flipped)
