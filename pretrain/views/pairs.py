"""Crops of an image, of one of its objects, and of an object of another image, as ORL takes them.

Boxes are x0, y0, x1, y1 in pixels of their image.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pretrain.views.boxes import overlaps
from pretrain.views.crops import Crop, Crops, ViewGroup, random_crop

# Of ORL's code, in a jittered box: bounds of its area over the box's, of its width over its height,
# and of the shift of its centre in sides of the box; least IoU with the box.
_AREA, _RATIO, _SHIFT, _OVERLAP = (0.5, 2.0), (0.5, 2.0), 0.5, 0.5
_TRIES = 200


class PairSource(Protocol):
    """Objects of every image, neighbours of it, and pairs of their objects."""

    def boxes(self, place: int) -> np.ndarray:
        """Return the boxes ``(B, 4)`` of the image at a position."""

    def neighbours(self, place: int) -> np.ndarray:
        """Return the positions ``(K,)`` of similar images."""

    def pairs(self, place: int) -> np.ndarray:
        """Return rows of boxes ``(K, P, 2)``: of the image, and of each neighbour."""


class ObjectPairs(Crops):
    """Two random crops, then four objects: a, b, a jittered, and what corresponds to b.

    a is any box of the image, b one that has a counterpart in an image that is drawn among its
    neighbours. An image without boxes is its own only object.

    Args:
        groups: of the two crops, and of the four objects.
        flip_prob: probability of a horizontal flip of each view, in [0, 1].
        source: of boxes and pairs; None for images without boxes.
        reduced: see :class:`Crops`.

    Source: ORL (arXiv 2106.11952), section 3.3.
    """

    def __init__(
        self,
        groups: Sequence[ViewGroup],
        flip_prob: float,
        *,
        source: PairSource | None,
        reduced: bool = False,
    ) -> None:
        super().__init__(groups, flip_prob, reduced=reduced)
        self.source = source

    def draw(self, place: int, height: int, width: int, rng: np.random.Generator) -> list[Crop]:
        """Draw the six crops of an image of ``height`` × ``width`` pixels."""
        scale = self.groups[0].scale
        crops = [random_crop(height, width, scale, self.flip_prob, rng) for _ in range(2)]
        first, second, other, partner = self._objects(place, height, width, rng)
        near = jittered_box(first, height, width, rng)
        parts = ((first, None), (second, None), (near, None), (other, partner))
        return crops + [
            box_crop(box, flipped=bool(rng.random() < self.flip_prob), place=where)
            for box, where in parts
        ]

    def _objects(
        self, place: int, height: int, width: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int | None]:
        """Return a, b, b's counterpart, and the position of the image that shows it."""
        boxes = np.zeros((0, 4)) if self.source is None else self.source.boxes(place)
        if self.source is None or not len(boxes):
            whole = np.array([0.0, 0.0, width, height])
            return whole, whole, whole, None
        pairs = self.source.pairs(place)
        which, pair = rng.integers(len(pairs)), rng.integers(pairs.shape[1])
        own, others = pairs[which, pair]
        partner = int(self.source.neighbours(place)[which])
        counterpart = self.source.boxes(partner)[others]
        return boxes[rng.integers(len(boxes))], boxes[own], counterpart, partner


def jittered_box(box: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a box of another size, form and place that overlaps a box by more than half.

    Its area is U(0.5, 2) of the box's, its aspect ratio log-uniform in [0.5, 2] whatever the box's
    is, its centre moved by U(±0.5) of the box's sides. It lies in the image and has an IoU above
    0.5 with the box; if 200 tries give none, the box itself is returned.

    Source: ORL (arXiv 2106.11952), section 3.3, with the values of its code.
    """
    extent, centre = box[2:] - box[:2], (box[:2] + box[2:]) / 2
    low, high = map(math.log, _RATIO)
    for _ in range(_TRIES):
        area, ratio = np.prod(extent) * rng.uniform(*_AREA), math.exp(rng.uniform(low, high))
        half = np.sqrt([area * ratio, area / ratio]) / 2
        middle = centre + rng.uniform(-_SHIFT, _SHIFT, 2) * extent
        drawn = np.concatenate([middle - half, middle + half])
        inside = (drawn[:2] >= 0).all() and drawn[2] <= width and drawn[3] <= height
        if inside and overlaps(box, drawn[None])[0] > _OVERLAP:
            return drawn
    return box


def box_crop(box: np.ndarray, *, flipped: bool = False, place: int | None = None) -> Crop:
    """Return the crop of a box, on whole pixels, one wide and high at least."""
    left, top, right, lower = (round(float(edge)) for edge in box)
    return Crop(left, top, max(1, right - left), max(1, lower - top), flipped, place)
