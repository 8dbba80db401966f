"""Boxes of objects in the views of an image, in the loader's workers.

Shape legend: R boxes of an image, K that a pair of views gets, V views. Boxes are x0, y0, x1, y1:
edges in pixels of the image, or in shares of a view as it was mirrored.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pretrain.views.crops import Crop

# Of SoCo's code: shortest side in pixels, longest side over shortest, and bounds of the root of the
# area as a share of the image's.
_SHORTEST, _LONGEST_RATIO, _SIZES = 32, 3, (0.3, 0.8)
_JITTER = 0.1
# Of ORL's code: largest IoU of two boxes of an image.
_MOST_OVERLAP = 0.5


class BoxSource(Protocol):
    """The proposals of a dataset."""

    def boxes(self, place: int) -> np.ndarray:
        """Return the boxes ``(R, 4)`` of the image at a position, in its pixels."""
        ...


class ObjectBoxes:
    """Draws K objects for each pair of the first view and another; see :class:`LoaderExtra`.

    An object is a proposal that both views show, if only in part; one that is drawn more often than
    once fills the places of missing ones. If there is none, the whole image is the object, with the
    number -1.

    Args:
        source: of the proposals.
        count: K.
        jitter_prob: how often a box is jittered in the first view, in [0, 1].

    Source: SoCo (arXiv 2106.02637), section 3, with the rules of its code.
    """

    def __init__(self, source: BoxSource, *, count: int, jitter_prob: float) -> None:
        self.source, self.count, self.jitter_prob = source, count, jitter_prob

    def __call__(
        self, position: int, size: tuple[int, int], crops: Sequence[Crop], rng: np.random.Generator
    ) -> np.ndarray:
        """Return ``(V - 1, 2, K, 5)``: boxes of both views of a pair, in shares, and numbers."""
        first, *others = crops
        boxes = eligible_boxes(self.source.boxes(position), *size)
        pairs = [self._pair(boxes, size, (first, other), rng) for other in others]
        return np.stack(pairs).astype(np.float32)

    def _pair(
        self,
        boxes: np.ndarray,
        size: tuple[int, int],
        pair: tuple[Crop, Crop],
        rng: np.random.Generator,
    ) -> np.ndarray:
        seen = [shown_boxes(boxes, crop) for crop in pair]
        common = np.flatnonzero(np.logical_and(*(_areas(part) > 0 for part in seen)))
        numbers, chosen = np.array([-1]), _whole(*size)
        if len(common):
            numbers = rng.choice(common, min(self.count, len(common)), replace=False)
            chosen = boxes[numbers]
        jittered = jittered_boxes(chosen, *size, self.jitter_prob, rng)
        shown = shown_boxes(jittered, pair[0]), shown_boxes(chosen, pair[1])
        found = len(numbers)
        places = np.append(np.arange(found), rng.integers(found, size=self.count - found))
        return np.stack([np.column_stack([part, numbers])[places] for part in shown])


def eligible_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the boxes of an image that are large enough for an object, cut at its borders.

    A box is at least 32 pixels wide and high, at most three times as long as short, and the root of
    its share of the image is in [0.3, 0.8]. If no box is, the last rule is dropped, then the second
    one, too.

    Args:
        boxes: ``(R, 4)`` in pixels; what is not finite is no box.
        height: of the image.
        width: of the image.

    Returns:
        ``(R', 4)`` float64, R' >= 0.

    Source: SoCo's code (hologerry/SoCo at 2be1229).
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    boxes = np.clip(boxes[np.isfinite(boxes).all(axis=1)], 0, [width, height] * 2)
    w, h = (boxes[:, 2:] - boxes[:, :2]).T
    share = np.sqrt(np.maximum(w * h, 0) / (width * height))
    large = (w >= _SHORTEST) & (h >= _SHORTEST)
    compact = large & (w <= _LONGEST_RATIO * h) & (h <= _LONGEST_RATIO * w)
    sized = compact & (share >= _SIZES[0]) & (share <= _SIZES[1])
    return next((boxes[kept] for kept in (sized, compact, large) if kept.any()), boxes[:0])


def separate_boxes(
    boxes: np.ndarray, height: int, width: int, *, min_side: int, most: int
) -> np.ndarray:
    """Return the large, compact boxes of an image that overlap little, in their order.

    A box has sides of ``min_side`` pixels and more, one at most three times the other, and an IoU
    of at most 0.5 with every box that was kept before it. If none has, the first box is kept; if
    there is no box, the whole image is one.

    Args:
        boxes: ``(R, 4)`` in pixels.
        height: of the image.
        width: of the image.
        min_side: in pixels.
        most: boxes that are kept.

    Returns:
        ``(R', 4)`` float64, R' in [1, ``most``].

    Source: ORL (arXiv 2106.11952), section 3.2, with the rules of its code.
    """
    boxes = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, [width, height] * 2)
    w, h = (boxes[:, 2:] - boxes[:, :2]).T
    large = np.minimum(w, h) >= min_side
    waiting = boxes[large & (np.maximum(w, h) <= _LONGEST_RATIO * np.minimum(w, h))]
    kept: list[np.ndarray] = []
    while len(waiting) and len(kept) < most:
        kept.append(waiting[0])
        waiting = waiting[overlaps(waiting[0], waiting) <= _MOST_OVERLAP]
    return np.array(kept or [*boxes[:1], *_whole(height, width)][:1])


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the IoU ``(R,)`` of a box ``(4,)`` of some area with boxes ``(R, 4)``."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    return shared / (_areas(box[None]) + _areas(boxes) - shared)


def jittered_boxes(
    boxes: np.ndarray, height: int, width: int, probability: float, rng: np.random.Generator
) -> np.ndarray:
    """Move and resize some boxes ``(R, 4)`` by up to a tenth of their sides, within the image.

    Source: SoCo (arXiv 2106.02637), section 3, "box jitter".
    """
    extent = boxes[:, 2:] - boxes[:, :2]
    moved, grown = rng.uniform(-_JITTER, _JITTER, (2, len(boxes), 2)) * extent
    corner = boxes[:, :2] + moved
    changed = np.concatenate([corner, corner + extent + grown], axis=1)
    chosen = rng.random((len(boxes), 1)) < probability
    return np.clip(np.where(chosen, changed, boxes), 0, [width, height] * 2)


def shown_boxes(boxes: np.ndarray, crop: Crop) -> np.ndarray:
    """Return where a view shows boxes ``(R, 4)``: in shares of the view, cut at its borders.

    What the view does not show has no area there.
    """
    corner, extent = np.array([crop.x, crop.y] * 2), np.array([crop.width, crop.height] * 2)
    shares = np.clip((boxes - corner) / extent, 0, 1)
    if crop.flipped:
        shares[:, [0, 2]] = 1 - shares[:, [2, 0]]
    return shares


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _whole(height: int, width: int) -> np.ndarray:
    return np.array([[0.0, 0.0, width, height]])
