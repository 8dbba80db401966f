"""What objects are made of: coloured polygons in an object's own frame, in metres.

Object frame: ``x`` forward (to the viewer's right for flat figures), ``y`` up, ``z`` to the side
(towards the viewer for flat figures), with the origin on the ground under the object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
Point = tuple[float, float]


def _unit_vectors(angles: np.ndarray) -> np.ndarray:
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


_CIRCLE = _unit_vectors(np.linspace(0, 2 * math.pi, 12, endpoint=False))
_CAP = _unit_vectors(np.linspace(math.pi / 2, 3 * math.pi / 2, 5))


@dataclass(frozen=True, slots=True)
class Part:
    """Polygons of one colour, drawn in one go.

    Args:
        points: corners of K polygons, ``(K, N, 3)``, in metres.
        colour: the paint under white light as (red, green, blue), 0 to 255; None for what belongs
            to the object's mask but is not drawn (the air between spokes).
        normal: outward normal of a face of a solid: shaded by the sun, and left out where it faces
            away. None for flat figures.
        masked: False for what is drawn but is no part of the object's mask (a leash, a string).
    """

    points: np.ndarray
    colour: Colour | None
    normal: tuple[float, float, float] | None = None
    masked: bool = True


class Sketch:
    """Collects the parts of a flat figure, drawn in the plane ``z`` = 0, back to front."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def polygon(
        self, points: Sequence[Point], colour: Colour | None, *, masked: bool = True
    ) -> None:
        """Add a polygon with corners (x, y)."""
        self.polygons([points], colour, masked=masked)

    def polygons(
        self, polygons: Sequence[Sequence[Point]], colour: Colour | None, *, masked: bool = True
    ) -> None:
        """Add polygons with equally many corners, in one colour."""
        flat = np.asarray(polygons, dtype=np.float64)
        points = np.zeros((*flat.shape[:2], 3))
        points[..., :2] = flat
        self.parts.append(Part(points, colour, masked=masked))

    def disc(self, centre: Point, radius: float | Point, colour: Colour | None) -> None:
        """Add a circle, or an ellipse with radii (x, y)."""
        points = np.zeros((1, len(_CIRCLE), 3))
        points[0, :, :2] = _CIRCLE * radius + centre
        self.parts.append(Part(points, colour))

    def ring(self, centre: Point, radius: float, width: float, colour: Colour) -> None:
        """Add the band between ``radius - width`` and ``radius``."""
        closed = np.concatenate((_CIRCLE, _CIRCLE[:1]))
        points = np.zeros((1, 2 * len(closed), 3))
        points[0, :, :2] = (
            np.concatenate((closed * radius, closed[::-1] * (radius - width))) + centre
        )
        self.parts.append(Part(points, colour))

    def limb(self, start: Point, end: Point, widths: Point, colour: Colour) -> None:
        """Add a round-ended bar between two points, of the given width at each."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy) or 1.0
        turn = np.array(((dx, dy), (-dy, dx))) / (2 * length)
        points = np.zeros((1, 2 * len(_CAP), 3))
        points[0, : len(_CAP), :2] = _CAP @ (turn * widths[0]) + start
        points[0, len(_CAP) :, :2] = -_CAP @ (turn * widths[1]) + end
        self.parts.append(Part(points, colour))

    def bars(self, lines: Sequence[tuple[Point, Point]], width: float, colour: Colour) -> None:
        """Add straight bars of one width and colour."""
        corners = []
        for (x0, y0), (x1, y1) in lines:
            length = math.hypot(x1 - x0, y1 - y0) or 1.0
            dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
            corners.append(
                ((x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy))
            )
        for corner in corners:  # apart, because crossing polygons drawn in one go cancel out
            self.polygon(corner, colour)


def moved(
    parts: Sequence[Part],
    *,
    scale: float = 1.0,
    turn: float = 0.0,
    shift: Point = (0.0, 0.0),
    flip: bool = False,
) -> list[Part]:
    """Return parts scaled, turned (radians, in x-y), shifted in x and y, then mirrored in x."""
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    side = -1.0 if flip else 1.0
    matrix = np.array([[side * cos, sin, 0], [-side * sin, cos, 0], [0, 0, scale]])
    offset = np.array([side * shift[0], shift[1], 0])
    return [
        Part(part.points @ matrix + offset, part.colour, part.normal, part.masked) for part in parts
    ]


class Solid:
    """A convex profile in x-y extruded over ``z`` = ± half_width, and what is painted on its faces.

    Args:
        profile: corners (x, y), counter-clockwise; edge k runs from corner k to the next one.
        half_width: half the width in metres.
        colour: the paint.
    """

    def __init__(self, profile: Sequence[Point], half_width: float, colour: Colour) -> None:
        self._edges = list(zip(profile, [*profile[1:], profile[0]], strict=True))
        self._half_width = half_width
        self.parts = on_side([profile], half_width, colour)
        for start, end in self._edges:
            if _edge_normal(start, end)[1] > -0.5:  # what faces the ground is never seen
                self.parts.append(on_edge(start, end, half_width, colour))

    def paint_sides(
        self, polygons: Sequence[Sequence[Point]], colour: Colour, *, proud: float = 0.01
    ) -> None:
        """Paint polygons (x, y) with equally many corners on both sides, ``proud`` metres out."""
        self.parts += on_side(polygons, self._half_width + proud, colour)

    def paint_edge(self, edge: int, colour: Colour, *, along: Point, across: Point) -> None:
        """Paint a rectangle, and its mirror image, on the face that an edge sweeps out.

        Args:
            edge: number of the edge.
            colour: the paint.
            along: from where to where on the edge, 0 (its start) to 1 (its end).
            across: from where to where over the width, 0 (the middle) to 1 (the side).
        """
        inner, outer = across
        stretches = [(-outer, -inner), (inner, outer)] if inner > 0 else [(-outer, outer)]
        start, end = self._edges[edge]
        self.parts.append(
            on_edge(start, end, self._half_width, colour, along=[along], across=stretches)
        )


def on_side(polygons: Sequence[Sequence[Point]], half_width: float, colour: Colour) -> list[Part]:
    """Return polygons (windows, wheels) painted on both sides ``z`` = ± half_width of a solid."""
    flat = np.array(polygons)
    parts = []
    for side in (1.0, -1.0):
        points = np.empty((*flat.shape[:2], 3))
        points[..., :2] = flat
        points[..., 2] = side * half_width
        parts.append(Part(points, colour, (0.0, 0.0, side)))
    return parts


def on_edge(
    start: Point,
    end: Point,
    half_width: float,
    colour: Colour,
    *,
    along: Sequence[Point] = ((0.0, 1.0),),
    across: Sequence[Point] = ((-1.0, 1.0),),
) -> Part:
    """Return rectangles on the face that a profile's edge sweeps out (windscreen, lamps, roof).

    Args:
        start: the edge's first corner (x, y), counter-clockwise.
        end: the edge's second corner.
        half_width: half the solid's width in metres.
        colour: the paint.
        along: stretches of the edge from 0 (start) to 1 (end).
        across: stretches of the width from -1 to 1; one rectangle for each pair of stretches.
    """
    (x0, y0), (x1, y1) = start, end
    dx, dy = x1 - x0, y1 - y0
    quads = []
    for low, high in along:
        px, py, qx, qy = x0 + low * dx, y0 + low * dy, x0 + high * dx, y0 + high * dy
        for left, right in across:
            z0, z1 = left * half_width, right * half_width
            quads.append(((px, py, z1), (px, py, z0), (qx, qy, z0), (qx, qy, z1)))
    return Part(np.array(quads), colour, _edge_normal(start, end))


def _edge_normal(start: Point, end: Point) -> tuple[float, float, float]:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    return dy / length, -dx / length, 0.0


def circle(centre: Point, radius: float, corners: int = 12) -> list[Point]:
    """Return the corners of a regular polygon, counter-clockwise."""
    angles = [2 * math.pi * k / corners for k in range(corners)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def rectangle(x0: float, x1: float, y0: float, y1: float) -> list[Point]:
    """Return the corners of an upright rectangle, counter-clockwise."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
