"""Outlines of masks as polygons that follow the pixels' edges and so lose nothing."""

from __future__ import annotations

import numpy as np

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up; turning right is the next one


def mask_polygons(mask: np.ndarray) -> list[list[float]]:
    """Return polygons that cover exactly the pixels of a mask.

    Corners lie on the pixels' corners, so the polygon of one pixel in column 2 and row 5 is
    ``[2, 5, 3, 5, 3, 6, 2, 6]``. Regions that touch at a corner only get polygons of their own.
    Since COCO's polygons cannot have holes, a region with a hole is cut in two through it.

    Args:
        mask: ``(H, W)`` bool.

    Returns:
        Polygons as flat lists x0, y0, x1, y1, …; empty for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return []
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    loops = _trace(crop)
    hole = next((loop for loop in loops if _signed_area(loop) < 0), None)
    if hole is not None:
        cut = int(columns[0]) + (min(x for x, _ in hole) + max(x for x, _ in hole)) // 2
        left, right = mask.copy(), mask.copy()
        left[:, cut:] = False
        right[:, :cut] = False
        return mask_polygons(left) + mask_polygons(right)
    return [
        [float(value) for x, y in loop for value in (x + columns[0], y + rows[0])] for loop in loops
    ]


def _trace(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Return the loops around regions, the mask on the right hand; holes run the other way."""
    edges = _edges(mask)
    loops = []
    for heading in range(4):
        while edges[heading]:
            loops.append(_follow(edges, next(iter(edges[heading])), heading))
    return loops


def _edges(mask: np.ndarray) -> list[dict[tuple[int, int], None]]:
    """Return, for each of the four headings, the start corners of the mask's edges."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    neighbours = (
        (padded[:-2, 1:-1], 0, 0),  # above: runs right from the pixel's upper left corner
        (padded[1:-1, 2:], 1, 0),  # right: runs down from the upper right
        (padded[2:, 1:-1], 1, 1),  # below: runs left from the lower right
        (padded[1:-1, :-2], 0, 1),  # left: runs up from the lower left
    )
    edges = []
    for neighbour, dx, dy in neighbours:
        rows, columns = np.nonzero(inside & ~neighbour)
        starts = zip((columns + dx).tolist(), (rows + dy).tolist(), strict=True)
        edges.append(dict.fromkeys(starts))
    return edges


def _follow(
    edges: list[dict[tuple[int, int], None]], start: tuple[int, int], heading: int
) -> list[tuple[int, int]]:
    """Walk one loop, taking its edges out, and return its corners."""
    corners, place, first = [start], start, heading
    while True:
        del edges[heading][place]
        place = (place[0] + _STEPS[heading][0], place[1] + _STEPS[heading][1])
        # Right turns first keep to the same pixel, which parts regions that share a corner only.
        turned = next(
            (h for h in ((heading + 1) % 4, heading, (heading - 1) % 4) if place in edges[h]), None
        )
        if turned is None:
            break
        if turned != heading:
            corners.append(place)
        heading = turned
    if heading == first:  # the loop began in the middle of a straight line
        del corners[0]
    return corners


def _signed_area(loop: list[tuple[int, int]]) -> int:
    following = loop[1:] + loop[:1]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(loop, following, strict=True))
