"""Random resized crops on the CPU that keep their geometry."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from detectron2.config import CfgNode
from torch.nn.functional import interpolate

from mls_d2.data.images import BrokenImageError, EncodedImage

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_REDUCTIONS = (8, 4, 2)


@dataclass(frozen=True)
class Crop:
    """The source of a view: a box in pixels of an image, and whether the view was mirrored.

    ``place`` is the position of an image that the view is cut from instead of its own.
    """

    x: int
    y: int
    width: int
    height: int
    flipped: bool
    place: int | None = None

    def as_array(self) -> np.ndarray:
        """Return ``(5,)`` float32: x, y, width, height in source pixels, flipped as 0 or 1."""
        return np.array([self.x, self.y, self.width, self.height, self.flipped], np.float32)

    def scaled(self, horizontal: float, vertical: float) -> Crop:
        """Return the same box in an image resized by these factors, on whole pixels."""
        left, top = round(self.x * horizontal), round(self.y * vertical)
        right = max(left + 1, round((self.x + self.width) * horizontal))
        lower = max(top + 1, round((self.y + self.height) * vertical))
        return Crop(left, top, right - left, lower - top, self.flipped, self.place)


@dataclass(frozen=True)
class ViewGroup:
    """Views of one size, which make one tensor.

    Attributes:
        count: views per image, >= 1.
        size: their side in pixels.
        scale: bounds of their area as a share of the image's, in (0, 1].
    """

    count: int
    size: int
    scale: tuple[float, float]


class Crops:
    """Cut groups of random resized crops out of an image, each crop drawn independently.

    A subclass that draws crops jointly, or from other images, too, overrides :meth:`draw`.

    Args:
        groups: in the order in which a method gets the views.
        flip_prob: probability of a horizontal flip, in [0, 1].
        reduced: decode JPEGs at a half, a quarter or an eighth if :func:`reduction` allows it.

    Source: Inception-style crops as in MoCo-v2 (torchvision's RandomResizedCrop rule: area uniform,
    aspect ratio log-uniform in [3/4, 4/3], ten tries, then a centre crop); several sizes as in
    SwAV (arXiv 2006.09882, section 3.2).
    """

    def __init__(
        self, groups: Sequence[ViewGroup], flip_prob: float, *, reduced: bool = False
    ) -> None:
        self.groups = tuple(groups)
        self.flip_prob = flip_prob
        self.reduced = reduced

    def __call__(
        self,
        image: EncodedImage,
        rng: np.random.Generator,
        *,
        place: int = 0,
        images: Callable[[int], EncodedImage] | None = None,
    ) -> tuple[list[np.ndarray], list[Crop]]:
        """Draw the crops, decode each image once, as large as they need it, and cut them.

        Args:
            image: its header has the size.
            rng: source of the randomness.
            place: of the image in the dataset.
            images: opens other images of the dataset, for crops that are cut from them.

        Returns:
            For each group its views ``(count, size, size, 3)`` uint8, and the crops of all V views.

        Raises:
            BrokenImageError: an image cannot be decoded, or is smaller than a crop's corner.
        """
        crops = self.draw(place, image.height, image.width, rng)
        sizes = [group.size for group in self.groups for _ in range(group.count)]
        cuts: dict[int, np.ndarray] = {}
        for source in dict.fromkeys(crop.place for crop in crops):
            opened = image
            if source is not None:
                assert images is not None, "views of other images, which cannot be opened"
                opened = images(source)
            mine = [i for i, crop in enumerate(crops) if crop.place == source]
            views = self._cut(opened, [crops[i] for i in mine], [sizes[i] for i in mine])
            cuts.update(zip(mine, views, strict=True))
        waiting = (cuts[i] for i in range(len(crops)))
        return [np.stack([*islice(waiting, g.count)]) for g in self.groups], crops

    def _cut(
        self, image: EncodedImage, crops: Sequence[Crop], sizes: Sequence[int]
    ) -> list[np.ndarray]:
        """Return the views of one image, which is decoded once."""
        pairs = list(zip(crops, sizes, strict=True))
        if any(crop.x >= image.width or crop.y >= image.height for crop in crops):
            raise BrokenImageError(f"{image.name}: smaller than when its boxes were made")
        factor = min(reduction([crop], size) for crop, size in pairs) if self.reduced else 1
        pixels = image.decode(factor)
        vertical, horizontal = pixels.shape[0] / image.height, pixels.shape[1] / image.width
        return [cut(pixels, crop.scaled(horizontal, vertical), size) for crop, size in pairs]

    def draw(self, place: int, height: int, width: int, rng: np.random.Generator) -> list[Crop]:
        """Draw the crops of all views of an image of ``height`` × ``width`` pixels."""
        return [
            random_crop(height, width, group.scale, self.flip_prob, rng)
            for group in self.groups
            for _ in range(group.count)
        ]


def crops_from_config(cfg: CfgNode, kind: type[Crops] = Crops) -> Crops:
    """Return two views and the local ones that ``PRETRAIN.AUGMENT`` describes."""
    node = cfg.PRETRAIN.AUGMENT
    groups = [ViewGroup(2, node.CROP_SIZE, tuple(node.CROP_SCALE))]
    if node.LOCAL_CROPS:
        groups.append(ViewGroup(node.LOCAL_CROPS, node.LOCAL_SIZE, tuple(node.LOCAL_SCALE)))
    return kind(groups, node.FLIP_PROB, reduced=cfg.PRETRAIN.DECODE == "reduced")


def random_crop(
    height: int,
    width: int,
    scale: tuple[float, float],
    flip_prob: float,
    rng: np.random.Generator,
) -> Crop:
    """Draw one crop of an image of ``height`` × ``width`` pixels; see :class:`Crops`."""
    flipped = bool(rng.random() < flip_prob)
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*scale)
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

    Bilinear, over all covered pixels if the crop shrinks: to within rounding what Pillow's
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
