"""Cars, buses and trucks: solids in metres, heading along ``x``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mls_d2.scenes.palette import (
    CAR_PAINTS,
    GLASS,
    METAL,
    TYRE,
    chance,
    darker,
    pick,
    varied,
    vivid,
)
from mls_d2.scenes.parts import Colour, Part, Point, Solid, circle, on_side, rectangle

_LAMP: Colour = (250, 240, 205)
_REAR_LAMP: Colour = (200, 28, 28)
_PLATE: Colour = (232, 230, 220)


def _wheels(positions: tuple[float, ...], radius: float, half_width: float) -> list[Part]:
    tyres = [circle((x, radius), radius) for x in positions]
    hubs = [circle((x, radius), radius * 0.55, 8) for x in positions]
    return on_side(tyres, half_width, TYRE) + on_side(hubs, half_width + 0.01, METAL)


def _shadowed_floor(length: float, half_width: float) -> list[Part]:
    profile = rectangle(-0.46 * length, 0.46 * length, 0.05, 0.4)
    return Solid(profile, half_width * 0.9, (24, 24, 26)).parts


def _window(cabin: list[Point], left: float, right: float) -> list[Point]:
    """Return a window between two shares of a cabin's length, slanted with the cabin's pillars."""
    (bx0, by), (bx1, _), (tx1, ty), (tx0, _) = cabin
    corners = []
    for share, level in ((left, 0.12), (right, 0.12), (right, 0.88), (left, 0.88)):
        x0, x1 = bx0 + level * (tx0 - bx0), bx1 + level * (tx1 - bx1)
        corners.append((x0 + share * (x1 - x0), by + level * (ty - by)))
    return corners


@dataclass(frozen=True, slots=True)
class _Body:
    """A car's proportions in metres; the cabin's ends are shares of the length."""

    length: float
    height: float
    hood: float
    belt: float
    floor: Point
    roof: Point


_BODIES = (
    _Body(4.6, 1.45, 0.84, 0.92, (-0.34, 0.24), (-0.2, 0.08)),  # sedan
    _Body(3.9, 1.5, 0.9, 0.96, (-0.47, 0.26), (-0.4, 0.08)),  # hatchback
    _Body(4.6, 1.5, 0.86, 0.94, (-0.48, 0.24), (-0.44, 0.08)),  # estate
    _Body(4.5, 1.85, 1.08, 1.14, (-0.48, 0.24), (-0.45, 0.14)),  # off-roader
    _Body(4.8, 1.95, 1.0, 1.1, (-0.49, 0.4), (-0.48, 0.24)),  # van
    _Body(4.2, 1.28, 0.76, 0.82, (-0.34, 0.18), (-0.16, 0.02)),  # coupe
)


def car(rng: np.random.Generator) -> list[Part]:
    """Return a car: one of six body shapes, 3.6 to 5.1 m long."""
    shape = pick(rng, _BODIES)
    length, height = shape.length * rng.uniform(0.93, 1.07), shape.height * rng.uniform(0.95, 1.05)
    paint, half = varied(rng, pick(rng, CAR_PAINTS)), rng.uniform(0.84, 0.95)
    nose, tail, belt = length / 2, -length / 2, shape.belt
    parts = _shadowed_floor(length, half) + _car_body(shape, length, half, paint)
    axles = (tail + 0.19 * length, nose - 0.19 * length)
    parts += _wheels(axles, rng.uniform(0.3, 0.36), half + 0.01)
    cabin = [
        (shape.floor[0] * length, belt), (shape.floor[1] * length, belt),
        (shape.roof[1] * length, height), (shape.roof[0] * length, height),
    ]  # fmt: skip
    parts += _car_cabin(rng, cabin, half * 0.88, paint)
    if chance(rng, 0.1):  # a taxi
        sign = rectangle(-0.25, 0.05, height, height + 0.2)
        parts += Solid(sign, 0.3, (240, 220, 90)).parts
    return parts


def _car_body(shape: _Body, length: float, half: float, paint: Colour) -> list[Part]:
    nose, tail = length / 2, -length / 2
    profile = [
        (tail + 0.1, 0.28), (nose - 0.08, 0.28), (nose, 0.52), (nose - 0.12, shape.hood),
        (shape.floor[1] * length, shape.belt), (tail + 0.06, shape.belt), (tail, 0.6),
    ]  # fmt: skip
    body = Solid(profile, half, paint)
    sill = rectangle(tail + 0.1, nose - 0.1, 0.28, 0.38)
    body.paint_sides([sill], darker(paint, 0.55), proud=0.005)
    body.paint_edge(2, _LAMP, along=(0.1, 0.75), across=(0.6, 0.95))
    body.paint_edge(2, darker(TYRE, 1.4), along=(0.1, 0.6), across=(0, 0.5))
    body.paint_edge(1, _PLATE, along=(0.4, 0.8), across=(0, 0.28))
    body.paint_edge(5, _REAR_LAMP, along=(0.2, 0.9), across=(0.62, 0.95))
    body.paint_edge(6, _PLATE, along=(0.2, 0.6), across=(0, 0.28))
    return body.parts


def _car_cabin(
    rng: np.random.Generator, profile: list[Point], half: float, paint: Colour
) -> list[Part]:
    top = paint if chance(rng, 0.85) else darker(paint, pick(rng, (0.3, 1.6)))
    cabin, glass = Solid(profile, half, top), varied(rng, GLASS, 10)
    pillar = rng.uniform(0.45, 0.58)
    windows = [_window(profile, 0.06, pillar), _window(profile, pillar + 0.04, 0.94)]
    cabin.paint_sides(windows, glass)
    cabin.paint_edge(1, darker(glass, 1.2), along=(0.1, 0.9), across=(0, 0.88))
    cabin.paint_edge(3, glass, along=(0.12, 0.75), across=(0, 0.85))
    return cabin.parts


def bus(rng: np.random.Generator) -> list[Part]:
    """Return a city bus, 8.5 to 11.5 m long, with a row of windows and a band of colour."""
    length, height, half = rng.uniform(8.5, 11.5), rng.uniform(2.9, 3.3), 1.25
    paint = vivid(rng) if chance(rng, 0.7) else varied(rng, (232, 230, 222))
    band = vivid(rng)
    nose, tail, low = length / 2, -length / 2, 0.35
    profile = [(tail, low), (nose, low), (nose, 1.2), (nose - 0.2, height), (tail, height)]
    hull, level = Solid(profile, half, paint), rng.uniform(0.5, 1.0)
    hull.paint_sides([rectangle(tail, nose, level, level + rng.uniform(0.15, 0.4))], band)
    count = int(rng.integers(5, 9))
    pitch = (length - 1.6) / count
    lefts = [tail + 0.3 + k * pitch for k in range(count)]
    glass = varied(rng, GLASS, 10)
    frames = [rectangle(x, x + 0.86 * pitch, 1.4, height - 0.55) for x in lefts]
    hull.paint_sides(frames, glass, proud=0.015)
    doors = [
        rectangle(nose - 1.25, nose - 0.35, low + 0.1, height - 0.5),
        rectangle(-0.6, 0.5, low + 0.1, height - 0.5),
    ]
    hull.paint_sides(doors, darker(glass, 0.8), proud=0.02)
    hull.paint_edge(2, darker(glass, 1.15), along=(0.05, 0.75), across=(0, 0.9))
    hull.paint_edge(2, (250, 190, 60), along=(0.82, 0.95), across=(0, 0.6))
    hull.paint_edge(1, _LAMP, along=(0.25, 0.55), across=(0.65, 0.92))
    hull.paint_edge(1, band, along=(0.62, 0.95), across=(0, 1))
    hull.paint_edge(4, glass, along=(0.15, 0.45), across=(0, 0.8))
    hull.paint_edge(4, _REAR_LAMP, along=(0.65, 0.85), across=(0.75, 0.95))
    wheels = _wheels((tail + 0.24 * length, nose - 0.2 * length), 0.48, half + 0.03)
    return _shadowed_floor(length, half) + hull.parts + wheels


def truck(rng: np.random.Generator, *, toward: bool) -> list[Part]:
    """Return a truck, 5.5 to 8 m long: a cab before a box, a flat bed with a load, or a tank.

    Args:
        rng: where the variety comes from.
        toward: whether the front faces the viewer: the cab hides the load then, else the reverse.
    """
    length, half = rng.uniform(5.5, 8.0), 1.15
    nose, tail = length / 2, -length / 2
    back = nose - rng.uniform(1.7, 2.2)
    roof = rng.uniform(2.3, 2.8)
    paint = vivid(rng) if chance(rng, 0.6) else varied(rng, (224, 224, 222))
    profile = [(back, 0.4), (nose, 0.4), (nose, 1.3), (nose - 0.35, roof), (back, roof)]
    cab, glass = Solid(profile, half, paint), varied(rng, GLASS, 10)
    sill, lintel = 1.4, roof - 0.3
    window = [
        (back + 0.5, sill), (nose - 0.15, sill), (nose - 0.4, lintel), (back + 0.5, lintel),
    ]  # fmt: skip
    cab.paint_sides([window], glass)
    cab.paint_edge(2, darker(glass, 1.2), along=(0.08, 0.8), across=(0, 0.88))
    cab.paint_edge(1, _LAMP, along=(0.2, 0.45), across=(0.62, 0.92))
    cab.paint_edge(1, darker(paint, 0.5), along=(0.5, 0.95), across=(0, 0.55))
    load = _load(rng, tail, back - 0.12, half)
    both = load + cab.parts if toward else cab.parts + load
    axles = (tail + 0.16 * length, tail + 0.31 * length, nose - 0.85)
    return _shadowed_floor(length, half) + both + _wheels(axles, 0.46, half + 0.03)


def _load(rng: np.random.Generator, tail: float, front: float, half: float) -> list[Part]:
    kind = int(rng.integers(3))
    paint = vivid(rng) if chance(rng, 0.4) else varied(rng, (206, 206, 200), 16)
    if kind == 0:
        top = rng.uniform(2.7, 3.4)
        box = Solid(rectangle(tail, front, 0.7, top), half, paint)
        stripe = rectangle(tail + 0.3, front - 0.3, top - 1.3, top - 0.7)
        box.paint_sides([stripe], vivid(rng))
        box.paint_edge(3, darker(paint, 0.8), along=(0.05, 0.95), across=(0.05, 0.93))
        return box.parts
    bed = Solid(rectangle(tail, front, 0.7, 1.15), half, darker(paint, 0.8)).parts
    if kind == 1:
        heap = [(tail + 0.2, 1.15), (front - 0.2, 1.15), (front - 0.7, 1.9), (tail + 0.9, 1.9)]
        return bed + Solid(heap, half * 0.9, varied(rng, (140, 110, 76), 18)).parts
    tank = [
        (tail + 0.1, 1.15), (front - 0.1, 1.15), (front - 0.05, 1.7), (front - 0.3, 2.3),
        ((tail + front) / 2, 2.4), (tail + 0.3, 2.3), (tail + 0.05, 1.7),
    ]  # fmt: skip
    return bed + Solid(tank, half * 0.85, paint).parts
