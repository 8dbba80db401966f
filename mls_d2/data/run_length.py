"""Run-length encoded masks of COCO: whether they fit their image."""

from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

Side = Annotated[int, Meta(ge=1, le=2**16)]


class Rle(Struct, gc=False):
    """A run-length encoded mask of ``size`` (height, width)."""

    counts: str | list[Annotated[int, Meta(ge=0, le=2**32)]]
    size: tuple[Side, Side]


def rle_problem(rle: Rle, size: tuple[int, int]) -> str:
    """Return why a mask is not one of an image of ``size`` (height, width); "" if it is."""
    if rle.size != size:
        return f"segmentation has the size {list(rle.size)}, its image {list(size)}"
    counts = _compressed_counts(rle.counts) if isinstance(rle.counts, str) else rle.counts
    if counts is None or (len(counts) and min(counts) < 0):
        return "segmentation has damaged counts, expected the compressed text of pycocotools"
    if sum(counts) != size[0] * size[1]:
        return f"segmentation has counts of {sum(counts)} pixels, expected {size[0]} x {size[1]}"
    return ""


def _compressed_counts(text: str) -> list[int] | None:
    """Return the run lengths of pycocotools' text (``rleFrString``); None if it is damaged."""
    if not text.isascii():
        return None
    digits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    last = np.flatnonzero((digits & 32) == 0)  # of each number
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    if place.max() > 6:
        return None
    values = np.add.reduceat((digits & 31) << (5 * place), first)
    values -= ((digits[last] & 16) > 0) * (np.int64(1) << (5 * (place[last] + 1)))
    # From the fourth on, a number is the difference to the one before the last.
    for start in (1, 2):
        values[start::2] = values[start::2].cumsum()
    return values.tolist()
