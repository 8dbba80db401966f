"""Which objects of which images correspond: one mapped file per dataset.

Shape legend: N images, image i with B_i boxes and K neighbours, P_i pairs of boxes with each. The
content of the file (see :mod:`mls_d2.data.recipe_file`) is the B_i (uint8), the boxes (4 x uint16:
x0, y0, x1, y1), the neighbours (K x uint32), and the pairs (2 x uint8: a box of the image, one of
the neighbour), neighbour after neighbour.
"""

import hashlib
import os
from collections.abc import Iterable
from typing import IO

import msgspec
import numpy as np

from mls_d2.core.files import atomic_write, sha256_of_rest
from mls_d2.data.recipe_file import Count, RecipeFile, header_bytes

MOST_BOXES = 255


class CorrespondenceRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the correspondences of a dataset.

    Attributes:
        source: digest of which images there are, in which order.
        proposals: digest of their proposals.
        encoder: digest of the weights that compared them.
        size: pixels along the sides of what the encoder saw.
        neighbours: K.
        min_side: pixels; smaller boxes are left out while there are others.
        max_boxes: of an image.
        pair_share: P_i / B_i, rounded down, but 1 at least.
    """

    source: str
    proposals: str
    encoder: str
    size: Count
    neighbours: Count
    min_side: Count
    max_boxes: Count
    pair_share: float


class _Header(msgspec.Struct, kw_only=True):
    recipe: CorrespondenceRecipe
    images: Count
    boxes: Count
    pairs: Count
    content: str  # sha256 of all that follows


class Correspondences(RecipeFile):
    """Boxes, neighbours and pairs of every image, in a file of :func:`write_correspondences`."""

    kind, magic, header = "correspondences", b"mls_d2 correspondences 1\n", _Header
    recipe: CorrespondenceRecipe

    def open_content(self, file: IO[bytes], header: _Header) -> None:
        """Map all of it into memory, after comparing it with its digest."""
        path, start, found = self.path, file.tell(), sha256_of_rest(file)
        if found != header.content or os.path.getsize(path) != start + _content_bytes(header):
            raise self.damaged("its content does not fit its header")
        self.digest = header.content

        def mapped(dtype: str, *shape: int) -> np.ndarray:
            nonlocal start
            first, start = start, start + np.dtype(dtype).itemsize * int(np.prod(shape))
            return np.memmap(path, dtype, "r", first, shape) if all(shape) else np.zeros(shape)

        counts = np.array(mapped("u1", header.images), np.int64)
        pairs = header.recipe.neighbours * pair_counts(counts, header.recipe.pair_share)
        self._boxes = mapped("<u2", header.boxes, 4)
        self._neighbours = mapped("<u4", header.images, header.recipe.neighbours)
        self._pairs = mapped("u1", header.pairs, 2)
        self._first_box = np.concatenate([[0], np.cumsum(counts)])
        self._first_pair = np.concatenate([[0], np.cumsum(pairs)])

    def __len__(self) -> int:
        return len(self._neighbours)

    def boxes(self, place: int) -> np.ndarray:
        """Return the boxes ``(B, 4)`` of an image, x0, y0, x1, y1 in its pixels, float64.

        B is 0 if the image could not be read when the file was made, 1 at least otherwise.
        """
        own = slice(self._first_box[place], self._first_box[place + 1])
        return np.array(self._boxes[own], np.float64)

    def neighbours(self, place: int) -> np.ndarray:
        """Return the positions ``(K,)`` of the most similar images, the first most of all."""
        return np.array(self._neighbours[place], np.int64)

    def pairs(self, place: int) -> np.ndarray:
        """Return pairs ``(K, P, 2)``: the row of a box of the image, and of one of the neighbour.

        The first pair of a neighbour is the most similar one. P is 0 if B is.
        """
        own = slice(self._first_pair[place], self._first_pair[place + 1])
        count = self.recipe.neighbours
        return np.array(self._pairs[own], np.int64).reshape(count, -1, 2)


def pair_counts(boxes: np.ndarray, share: float) -> np.ndarray:
    """Return how many pairs images with that many boxes have with each neighbour: ``(N,)``."""
    return np.where(boxes > 0, np.maximum(1, (share * boxes).astype(np.int64)), 0)


def write_correspondences(
    path: str,
    recipe: CorrespondenceRecipe,
    *,
    counts: np.ndarray,
    boxes: Iterable[np.ndarray],
    neighbours: np.ndarray,
    pairs: Iterable[np.ndarray],
) -> None:
    """Write a file for :class:`Correspondences`, atomically.

    Args:
        path: its folder exists.
        recipe: of the content.
        counts: B_i ``(N,)``, 255 at most.
        boxes: parts of ``(ΣB, 4)``, in order.
        neighbours: ``(N, K)``.
        pairs: parts of ``(K ΣP, 2)``, in order.
    """
    body = [
        counts.astype("u1").tobytes(),
        *(part.astype("<u2").tobytes() for part in boxes),
        neighbours.astype("<u4").tobytes(),
        *(part.astype("u1").tobytes() for part in pairs),
    ]
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    header = _Header(
        recipe=recipe,
        images=len(counts),
        boxes=int(counts.sum()),
        pairs=int(recipe.neighbours * pair_counts(counts, recipe.pair_share).sum()),
        content=digest.hexdigest(),
    )
    with atomic_write(path) as file:
        file.write(header_bytes(Correspondences, header))
        file.writelines(body)


def _content_bytes(header: _Header) -> int:
    each = 1 + 4 * header.recipe.neighbours
    return each * header.images + 8 * header.boxes + 2 * header.pairs
