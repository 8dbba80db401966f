"""A small vector language for objects: polygons, discs, bars and extruded outlines with jitter.

Object frame, in metres: ``x`` forward, ``y`` up from the ground, ``z`` to the viewer at heading 0.
"""

import colorsys
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

Colour = tuple[float, ...]  # red, green, blue, 0 to 255
Point = tuple[float, float]
Outline = str | Sequence[Point] | np.ndarray
T = TypeVar("T")


class Part(NamedTuple):
    """A polygon of one colour; groups of parts are painted from far to near."""

    points: np.ndarray  # (N, 3), metres
    colour: Colour | None  # None: part of the mask, not painted
    normal: tuple[float, float, float]  # of a solid's face, which may look away; zeros if flat
    group: int


def _corners(outline: Outline) -> np.ndarray:
    if isinstance(outline, str):
        outline = np.array([corner.split() for corner in outline.split(",")])
    return np.asarray(outline, float)


def circle(x: float, y: float, radius: float, corners: int = 12) -> list[Point]:
    """Return the corners of a regular polygon, counter-clockwise."""
    angles = (2 * math.pi * (k + 0.5) / corners for k in range(corners))
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def rectangle(x0: float, x1: float, y0: float, y1: float) -> list[Point]:
    """Return the corners of an upright rectangle, counter-clockwise."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def shade(colour: Colour, factor: float) -> Colour:
    """Return ``colour`` with its brightness multiplied, at most 255."""
    return tuple(min(255.0, value * factor) for value in colour)


_DISC = np.array(circle(0, 0, 1))
_CAP = np.array([(math.cos(a), math.sin(a)) for a in np.linspace(0.5, 1.5, 5) * math.pi])


class Sketch:
    """One object's parts, back to front, and the random choices (from ``rng``) that shape them.

    Outlines are corners (x, y), or a string ``"x y, x y, …"``.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.parts: list[Part] = []
        self.group = 0
        self._solid: tuple[list[list[float]], float, float] = ([], 0.0, 0.0)

    def any(self, low: float, high: float) -> float:
        """Return a uniform draw."""
        return low + (high - low) * self.rng.random()

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self.rng.random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of ``items``, each equally likely."""
        return items[int(self.rng.random() * len(items))]

    def like(self, colour: Colour, spread: float = 12.0) -> Colour:
        """Return a colour near ``colour``: mostly brighter or darker, a little in hue."""
        shift = self.rng.normal(0, spread, 4)
        return tuple(np.clip(colour + shift[0] + 0.4 * shift[1:], 0, 255).tolist())

    def paint(self) -> Colour:
        """Draw a colour from the one distribution of all painted objects."""
        saturation = self.pick((0.05, 0.25, 0.45, 0.7)) + 0.2 * self.rng.random()
        rgb = colorsys.hsv_to_rgb(self.rng.random(), saturation, self.any(0.2, 0.97))
        return tuple(255 * value for value in rgb)

    def _add(self, flat: np.ndarray, z: float, colour: Colour | None, normal: float = 0.0) -> None:
        points = np.column_stack((flat, np.full(len(flat), z)))
        self.parts.append(Part(points, colour, (0.0, 0.0, normal), self.group))

    def poly(self, outline: Outline, colour: Colour | None) -> None:
        """Add a flat polygon."""
        self._add(_corners(outline), 0.0, colour)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour | None) -> None:
        """Add a flat ellipse."""
        self._add(_DISC * (rx, ry) + (x, y), 0.0, colour)

    def limb(self, start: Point, end: Point, widths: Point, colour: Colour) -> None:
        """Add a round-ended bar of the given widths at its start and at its end."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        turn = np.array(((dx, dy), (-dy, dx))) / (2 * (math.hypot(dx, dy) or 1.0))
        caps = (_CAP @ (turn * widths[0]) + start, _CAP @ (turn * -widths[1]) + end)
        self._add(np.concatenate(caps), 0.0, colour)

    def bars(self, outline: str, width: float, colour: Colour) -> None:
        """Add bars along a polyline."""
        corners = _corners(outline).tolist()
        for start, end in zip(corners, corners[1:], strict=False):
            self.limb(start, end, (width, width), colour)

    def solid(self, outline: Outline, z0: float, z1: float, colour: Colour) -> None:
        """Add a convex outline, counter-clockwise, extruded from ``z0`` to ``z1``."""
        self._solid = (_corners(outline).tolist(), z0, z1)
        for k in range(len(self._solid[0])):
            self.edge(k, colour)
        self.side(outline, colour, proud=0.0)

    def box(self, x: Point, y: Point, z: Point, colour: Colour) -> None:
        """Add a cuboid as a group of its own; axes are (low, high)."""
        self.group += 1
        self.solid(rectangle(*x, *y), *z, colour)

    def side(self, outline: Outline, colour: Colour, proud: float = 0.01) -> None:
        """Paint an outline on both sides of the last solid, ``proud`` metres out."""
        flat = _corners(outline)
        self._add(flat, self._solid[1] - proud, colour, -1.0)
        self._add(flat, self._solid[2] + proud, colour, 1.0)

    def edge(self, k: int, colour: Colour, along: Point = (0, 1), across: Point = (0, 1)) -> None:
        """Paint a rectangle on what the edge from corner ``k`` of the last solid sweeps out.

        ``along`` the edge and ``across`` the width it goes from and to the given shares, 0 to 1.
        """
        profile, z0, z1 = self._solid
        (x0, y0), (x1, y1) = profile[k], profile[(k + 1) % len(profile)]
        dx, dy = x1 - x0, y1 - y0
        near, far = z0 + across[0] * (z1 - z0), z0 + across[1] * (z1 - z0)
        (ax, ay), (bx, by) = ((x0 + part * dx, y0 + part * dy) for part in along)
        points = np.array(((ax, ay, near), (bx, by, near), (bx, by, far), (ax, ay, far)))
        length = math.hypot(dx, dy) or 1.0
        self.parts.append(Part(points, colour, (dy / length, -dx / length, 0.0), self.group))

    def move(self, scale: float = 1.0, turn: float = 0.0, flip: bool = False) -> None:
        """Scale all parts, turn them in the x-y plane (radians), and mirror them in x."""
        cos, sin, sign = math.cos(turn) * scale, math.sin(turn) * scale, -1.0 if flip else 1.0
        matrix = np.array([[sign * cos, sin, 0], [-sign * sin, cos, 0], [0, 0, scale]])
        self.parts = [part._replace(points=part.points @ matrix) for part in self.parts]
