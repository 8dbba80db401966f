"""Houses, garden walls and fences: solids in metres, their fronts along ``x``."""

from __future__ import annotations

import numpy as np

from mls_d2.scenes.palette import WALLS, WOODS, chance, darker, pick, varied, vivid
from mls_d2.scenes.parts import Colour, Part, Point, Solid, on_edge, on_side, rectangle

_PANES: tuple[Colour, ...] = ((62, 74, 92), (98, 116, 136), (46, 48, 56), (188, 170, 120))
_END_WINDOWS = ((-0.75, -0.45), (-0.15, 0.15), (0.45, 0.75))


def building(rng: np.random.Generator, length: float, *, detailed: bool) -> list[Part]:
    """Return a house of a row: floors of windows, a shop or a door, a cornice.

    Args:
        rng: where the variety comes from.
        length: extent along ``x`` in metres.
        detailed: whether it has windows (too far away they are not seen).
    """
    floors, storey, half = int(rng.integers(2, 6)), rng.uniform(2.8, 3.5), 4.0
    paint, height = varied(rng, pick(rng, WALLS), 14), floors * storey + rng.uniform(0.3, 1.2)
    block = rectangle(-length / 2, length / 2, 0, height)
    house = Solid(block, half, paint)
    if not detailed:
        return house.parts
    glass = varied(rng, pick(rng, _PANES), 10)
    grid = _window_grid(rng, length, floors, storey)
    house.paint_sides(grid, glass, proud=0.02)
    if chance(rng, 0.5):
        sills = [rectangle(x0 - 0.08, x1 + 0.08, y - 0.14, y) for (x0, y), (x1, _), *_ in grid]
        house.paint_sides(sills, darker(paint, 1.25), proud=0.03)
    cornice = rectangle(-length / 2, length / 2, height - 0.35, height)
    house.paint_sides([cornice], darker(paint, 0.75), proud=0.02)
    _add_ground_floor(rng, house, length, (paint, glass))
    rows = [
        ((floor * storey + 0.7) / height, (floor + 0.8) * storey / height)
        for floor in range(1, floors)
    ]
    flipped = [(1 - high, 1 - low) for low, high in rows]
    for edge, stretches in ((1, rows), (3, flipped)):
        start, end = block[edge], block[(edge + 1) % 4]
        ends = on_edge(start, end, half, glass, along=stretches, across=_END_WINDOWS)
        house.parts.append(ends)
    return house.parts


def _window_grid(
    rng: np.random.Generator, length: float, floors: int, storey: float
) -> list[list[Point]]:
    count = max(2, int(length / rng.uniform(1.9, 2.8)))
    pitch, share = length / count, rng.uniform(0.4, 0.7)
    lefts = [-length / 2 + (k + 0.5 - share / 2) * pitch for k in range(count)]
    return [
        rectangle(x, x + share * pitch, floor * storey + 0.7, (floor + 0.82) * storey)
        for floor in range(1, floors)
        for x in lefts
    ]


def _add_ground_floor(
    rng: np.random.Generator, house: Solid, length: float, paints: tuple[Colour, Colour]
) -> None:
    """Give a house a shop with its sign, or a plain door."""
    paint, glass = paints
    if chance(rng, 0.5):
        sign, inner = vivid(rng), length / 2 - 0.4
        house.paint_sides([rectangle(-inner, inner, 0.3, 2.3)], darker(glass, 1.3), proud=0.02)
        house.paint_sides([rectangle(-inner, inner, 2.35, 2.95)], sign, proud=0.04)
        door = rectangle(inner * 0.3, inner * 0.3 + 1.0, 0, 2.3)
        house.paint_sides([door], darker(sign, 0.5), proud=0.05)
        return
    x = rng.uniform(-length / 3, length / 3)
    wood = varied(rng, (84, 56, 40), 16)
    house.paint_sides([rectangle(x - 0.55, x + 0.55, 0, 2.2)], wood, proud=0.02)
    plinth = rectangle(-length / 2, length / 2, 0, 0.5)
    house.paint_sides([plinth], darker(paint, 0.7), proud=0.015)


def wall(rng: np.random.Generator, length: float) -> list[Part]:
    """Return a garden wall ``length`` metres long, 1.2 to 2.2 m high."""
    height, paint = rng.uniform(1.2, 2.2), varied(rng, pick(rng, WALLS), 12)
    bricks = Solid(rectangle(-length / 2, length / 2, 0, height), 0.2, paint)
    coping = rectangle(-length / 2, length / 2, height - 0.18, height)
    bricks.paint_sides([coping], darker(paint, 1.2))
    return bricks.parts


def fence(rng: np.random.Generator, length: float) -> list[Part]:
    """Return a picket fence ``length`` metres long, 1 to 1.4 m high."""
    height = rng.uniform(1.0, 1.4)
    paint = varied(rng, pick(rng, ((226, 224, 216), *WOODS)), 8)
    slats = [rectangle(x, x + 0.14, 0, height) for x in np.arange(-length / 2, length / 2, 0.45)]
    rails = [
        rectangle(-length / 2, length / 2, y, y + 0.12) for y in (0.25 * height, 0.75 * height)
    ]
    return on_side(rails, 0.04, darker(paint, 0.85)) + on_side(slats, 0.05, paint)
