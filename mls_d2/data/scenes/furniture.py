"""What stands about: traffic lights, signs, benches, umbrellas, kites, surfboards, trees, buildings, walls."""

from __future__ import annotations

import math

import numpy as np

from mls_d2.data.scenes.palette import METAL, WALLS, WOODS, chance, darker, pick, varied, vivid
from mls_d2.data.scenes.parts import (
    Colour,
    Part,
    Point,
    Sketch,
    circle,
    moved,
    on_edge,
    on_side,
    prism,
    rectangle,
)


def pole(height: float, colour: Colour = METAL, width: float = 0.1) -> list[Part]:
    """Return an upright pole."""
    sketch = Sketch()
    sketch.polygon(rectangle(-width / 2, width / 2, 0, height), colour)
    return sketch.parts


def traffic_light(rng: np.random.Generator, base: float) -> list[Part]:
    """Return the head of a traffic light whose lower edge is ``base`` metres up: three lamps, one lit."""
    sketch, width = Sketch(), 0.44
    shell = varied(rng, pick(rng, ((34, 36, 36), (40, 58, 44), (206, 170, 40))), 6)
    sketch.polygon(
        rectangle(-width / 2 - 0.06, width / 2 + 0.06, base - 0.06, base + 1.2), darker(shell, 0.6)
    )
    sketch.polygon(rectangle(-width / 2, width / 2, base, base + 1.14), shell)
    if chance(rng, 0.2):  # seen from behind
        return sketch.parts
    lit = int(rng.integers(3))
    lamps: tuple[Colour, ...] = ((66, 230, 120), (255, 200, 50), (255, 56, 44))
    for k, lamp in enumerate(lamps):
        centre = (0.0, base + 0.2 + 0.37 * k)
        sketch.disc(centre, 0.16, lamp if k == lit else darker(lamp, 0.25))
    return sketch.parts


def stop_sign(rng: np.random.Generator, base: float) -> list[Part]:
    """Return an octagonal stop sign whose lower edge is ``base`` metres up."""
    sketch, centre = Sketch(), (0.0, base + 0.42)
    turn = math.pi / 8
    for radius, colour in ((0.44, (236, 234, 230)), (0.39, varied(rng, (186, 28, 34), 8))):
        points = [
            (
                centre[0] + radius * math.cos(turn + k * math.pi / 4),
                centre[1] + radius * math.sin(turn + k * math.pi / 4),
            )
            for k in range(8)
        ]
        sketch.polygon(points, colour)
    letters = [
        rectangle(x - 0.055, x + 0.035, centre[1] - 0.1, centre[1] + 0.1)
        for x in (-0.22, -0.07, 0.08, 0.23)
    ]
    sketch.polygons(letters, (240, 238, 234))
    return sketch.parts


def bench(rng: np.random.Generator) -> list[Part]:
    """Return a park bench with slats, 1.4 to 1.9 m long."""
    sketch, half = Sketch(), rng.uniform(0.7, 0.95)
    wood, iron = (
        varied(rng, pick(rng, WOODS)),
        pick(rng, ((48, 50, 52), (112, 112, 110), (70, 56, 46))),
    )
    legs = [rectangle(x - 0.05, x + 0.05, 0.0, 0.45) for x in (-half * 0.85, half * 0.85)]
    sketch.polygons(legs, iron)
    sketch.polygons(
        [rectangle(x - 0.03, x + 0.03, 0.45, 0.9) for x in (-half * 0.85, half * 0.85)], iron
    )
    if chance(rng, 0.85):
        slats = [rectangle(-half, half, y, y + 0.1) for y in (0.56, 0.69, 0.82)]
        sketch.polygons(slats, darker(wood, 0.85))
    sketch.polygon([(-half, 0.4), (half, 0.4), (half * 0.97, 0.5), (-half * 0.97, 0.5)], wood)
    return sketch.parts


def umbrella(rng: np.random.Generator, *, parasol: bool) -> list[Part]:
    """Return a beach parasol (2.2 m, planted in the ground) or a hand umbrella (held 1.15 m up)."""
    sketch = Sketch()
    half, rise, base = (
        (rng.uniform(1.0, 1.4), 0.55, 1.75) if parasol else (rng.uniform(0.5, 0.65), 0.34, 0.85)
    )
    foot = 0.0 if parasol else 0.1
    sketch.bars(
        [((0.0, foot), (0.0, base + rise))],
        0.06 if parasol else 0.035,
        (210, 206, 196) if parasol else METAL,
    )
    count = pick(rng, (4, 6, 8))
    first, second = vivid(rng), (vivid(rng) if chance(rng, 0.4) else (240, 238, 230))
    if not parasol and chance(rng, 0.6):
        first = second = vivid(rng) if chance(rng, 0.7) else (40, 42, 50)
    edges = [-math.cos(math.pi * k / count) for k in range(count + 1)]
    for k in range(count):
        arc = np.linspace(edges[k], edges[k + 1], 4)
        sag = base - 0.07 * np.sin(np.linspace(0, math.pi, 4))
        roof = [(half * 0.12 * x, base + rise) for x in (edges[k + 1], edges[k])]
        shoulder = [(half * 0.72 * x, base + rise * 0.62) for x in (edges[k + 1], edges[k])]
        rim = [(half * x, y) for x, y in zip(arc, sag, strict=True)]
        colour = first if k % 2 == 0 else second
        sketch.polygon(
            [*rim, shoulder[0], *roof, shoulder[1]], darker(colour, 0.82 + 0.22 * (k + 1) / count)
        )
    tilt = rng.uniform(-0.3, 0.3) if parasol else rng.uniform(-0.2, 0.2)
    return moved(sketch.parts, turn=tilt)


def kite(rng: np.random.Generator) -> list[Part]:
    """Return a kite around the origin, 1.4 to 2.2 m: a diamond or a delta with a tail."""
    sketch, first, second = Sketch(), vivid(rng), vivid(rng)
    tail = [(0.1 * math.sin(2.2 * k), -0.75 - 0.22 * k) for k in range(6)]
    sketch.bars(list(zip(tail[:-1], tail[1:], strict=True)), 0.05, second)
    if chance(rng, 0.6):
        sketch.polygon([(0, 0.75), (-0.55, 0.2), (0, -0.75)], first)
        sketch.polygon([(0, 0.75), (0.55, 0.2), (0, -0.75)], second)
        sketch.bars([((-0.55, 0.2), (0.55, 0.2))], 0.05, darker(first, 0.5))
    else:
        sketch.polygon([(0, 0.6), (-1.0, -0.45), (-0.3, -0.35), (0, -0.75)], first)
        sketch.polygon([(0, 0.6), (1.0, -0.45), (0.3, -0.35), (0, -0.75)], second)
        sketch.polygon([(0, 0.6), (-0.16, -0.4), (0.16, -0.4)], darker(second, 0.6))
    return moved(sketch.parts, scale=rng.uniform(0.9, 1.4), turn=rng.uniform(-0.7, 0.7))


def surfboard(rng: np.random.Generator) -> list[Part]:
    """Return a surfboard planted upright in the sand, 1.9 to 2.4 m, with a stripe."""
    sketch, board = Sketch(), vivid(rng) if chance(rng, 0.6) else varied(rng, (240, 236, 224), 6)
    outline = [
        (-0.14, 0),
        (0.14, 0),
        (0.27, 0.6),
        (0.28, 1.2),
        (0.2, 1.75),
        (0.0, 2.1),
        (-0.2, 1.75),
        (-0.28, 1.2),
        (-0.27, 0.6),
    ]
    sketch.polygon(outline, board)
    stripe = vivid(rng)
    if chance(rng, 0.5):
        sketch.polygon(rectangle(-0.05, 0.05, 0.0, 2.0), stripe)
    else:
        sketch.polygon([(-0.28, 1.1), (0.28, 1.25), (0.25, 1.5), (-0.26, 1.35)], stripe)
    return moved(sketch.parts, scale=rng.uniform(0.92, 1.15), turn=rng.uniform(-0.25, 0.25))


def tree(rng: np.random.Generator) -> list[Part]:
    """Return a broad-leaved tree or a conifer, 3.5 to 8 m tall."""
    sketch, height = Sketch(), rng.uniform(3.5, 8.0)
    bark = varied(rng, (92, 72, 54), 8)
    leaf = varied(rng, pick(rng, ((72, 110, 48), (54, 92, 44), (98, 128, 58), (150, 122, 48))), 9)
    if chance(rng, 0.2):
        sketch.polygon(rectangle(-0.12, 0.12, 0, height * 0.3), bark)
        for k in range(4):
            low, reach = height * (0.12 + 0.2 * k), height * (0.26 - 0.055 * k)
            sketch.polygon(
                [(-reach, low), (reach, low), (0, low + height * 0.32)],
                darker(leaf, 0.62 + 0.1 * k),
            )
        return sketch.parts
    crown, radius = height * 0.66, height * rng.uniform(0.24, 0.36)
    sketch.polygon([(-0.2, 0), (0.2, 0), (0.1, crown), (-0.1, crown)], bark)
    for tone, count, spread in ((0.62, 7, 0.8), (0.85, 7, 0.7), (1.1, 6, 0.6)):
        for angle, away, size in rng.uniform((0, 0.3, 0.35), (2 * math.pi, 1, 0.6), (count, 3)):
            centre = (
                radius * spread * away * math.cos(angle) - 0.08 * radius * (tone - 0.85),
                crown + radius * (0.9 * spread * away * math.sin(angle) + 0.5 * (tone - 0.85)),
            )
            sketch.disc(centre, radius * size, darker(leaf, tone * (0.9 + 0.2 * away)))
    return sketch.parts


def palm(rng: np.random.Generator) -> list[Part]:
    """Return a palm, 4 to 7 m tall."""
    sketch, height, lean = Sketch(), rng.uniform(4.0, 7.0), rng.uniform(-0.8, 0.8)
    sketch.limb((0, 0), (lean, height), (0.34, 0.2), varied(rng, (128, 104, 76), 8))
    leaf = varied(rng, (70, 112, 52), 10)
    for k, angle in enumerate(rng.permutation(np.linspace(-0.5, math.pi + 0.5, 9))):
        dx, dy = math.cos(angle), math.sin(angle)
        middle = (lean + 0.9 * dx, height + 0.9 * dy * 0.6 + 0.1)
        tip = (lean + 1.9 * dx, height + 0.5 * dy - 0.6)
        colour = darker(leaf, 0.7 + 0.05 * k)
        sketch.polygon(
            [
                (lean, height + 0.1),
                (middle[0], middle[1] + 0.18),
                tip,
                (middle[0], middle[1] - 0.14),
            ],
            colour,
        )
    return sketch.parts


def bush(rng: np.random.Generator) -> list[Part]:
    """Return a bush, 0.8 to 1.4 m tall."""
    sketch, leaf, size = Sketch(), varied(rng, (66, 100, 50), 10), rng.uniform(0.8, 1.4)
    for tone, count in ((0.65, 4), (0.85, 4), (1.05, 3)):
        for x, y in rng.uniform((-0.6, 0.2), (0.6, 0.6), (count, 2)):
            sketch.disc(
                (x * size, (y + 0.2 * (tone - 0.65)) * size), 0.32 * size, darker(leaf, tone)
            )
    sketch.polygon(rectangle(-0.6 * size, 0.6 * size, 0, 0.25 * size), darker(leaf, 0.6))
    return sketch.parts


def building(rng: np.random.Generator, length: float, *, detailed: bool) -> list[Part]:
    """Return a house of a row, ``length`` metres wide: floors of windows, a shop or a door, a roof edge.

    Args:
        rng: where the variety comes from.
        length: extent along ``x`` in metres.
        detailed: whether it has windows (too far away they are not seen).
    """
    floors, storey, half = int(rng.integers(2, 6)), rng.uniform(2.8, 3.5), 4.0
    wall, height = varied(rng, pick(rng, WALLS), 14), floors * storey + rng.uniform(0.3, 1.2)
    block = rectangle(-length / 2, length / 2, 0, height)
    parts = prism(block, half, wall)
    if not detailed:
        return parts
    glass = varied(
        rng, pick(rng, ((62, 74, 92), (98, 116, 136), (46, 48, 56), (188, 170, 120))), 10
    )
    count = max(2, int(length / rng.uniform(1.9, 2.8)))
    pitch, share = length / count, rng.uniform(0.4, 0.7)
    grid: list[list[Point]] = []
    for floor in range(1, floors):
        for k in range(count):
            left = -length / 2 + (k + 0.5 - share / 2) * pitch
            grid.append(
                rectangle(left, left + share * pitch, floor * storey + 0.7, (floor + 0.82) * storey)
            )
    parts += on_side(grid, half + 0.02, glass)
    if chance(rng, 0.5):
        sills = [
            rectangle(window[0][0] - 0.08, window[1][0] + 0.08, window[0][1] - 0.14, window[0][1])
            for window in grid
        ]
        parts += on_side(sills, half + 0.03, darker(wall, 1.25))
    parts += on_side(
        [rectangle(-length / 2, length / 2, height - 0.35, height)], half + 0.02, darker(wall, 0.75)
    )
    parts += _ground_floor(rng, length, half, wall, glass)
    rows = [
        ((floor * storey + 0.7) / height, (floor + 0.8) * storey / height)
        for floor in range(1, floors)
    ]
    columns = [(-0.75, -0.45), (-0.15, 0.15), (0.45, 0.75)]
    parts.append(on_edge(block[1], block[2], half, glass, along=rows, across=columns))
    flipped = [(1 - high, 1 - low) for low, high in rows]
    parts.append(on_edge(block[3], block[0], half, glass, along=flipped, across=columns))
    return parts


def _ground_floor(
    rng: np.random.Generator, length: float, half: float, wall: Colour, glass: Colour
) -> list[Part]:
    if chance(rng, 0.5):
        sign, inner = vivid(rng), length / 2 - 0.4
        parts = on_side([rectangle(-inner, inner, 0.3, 2.3)], half + 0.02, darker(glass, 1.3))
        parts += on_side([rectangle(-inner, inner, 2.35, 2.95)], half + 0.04, sign)
        return parts + on_side(
            [rectangle(inner * 0.3, inner * 0.3 + 1.0, 0, 2.3)], half + 0.05, darker(sign, 0.5)
        )
    door = rng.uniform(-length / 3, length / 3)
    parts = on_side(
        [rectangle(door - 0.55, door + 0.55, 0, 2.2)], half + 0.02, varied(rng, (84, 56, 40), 16)
    )
    return parts + on_side(
        [rectangle(-length / 2, length / 2, 0, 0.5)], half + 0.015, darker(wall, 0.7)
    )


def wall(rng: np.random.Generator, length: float) -> list[Part]:
    """Return a garden wall ``length`` metres long, 1.2 to 2.2 m high."""
    height, paint = rng.uniform(1.2, 2.2), varied(rng, pick(rng, WALLS), 12)
    parts = prism(rectangle(-length / 2, length / 2, 0, height), 0.2, paint)
    return parts + on_side(
        [rectangle(-length / 2, length / 2, height - 0.18, height)], 0.21, darker(paint, 1.2)
    )


def fence(rng: np.random.Generator, length: float) -> list[Part]:
    """Return a picket fence ``length`` metres long, 1 to 1.4 m high."""
    height = rng.uniform(1.0, 1.4)
    paint = varied(rng, pick(rng, ((226, 224, 216), *WOODS)), 8)
    slats = [rectangle(x, x + 0.14, 0, height) for x in np.arange(-length / 2, length / 2, 0.45)]
    rails = [
        rectangle(-length / 2, length / 2, y, y + 0.12) for y in (0.25 * height, 0.75 * height)
    ]
    # Both faces are the same polygons: a fence is seen through, and either side shows all of it.
    return on_side(rails, 0.04, darker(paint, 0.85)) + on_side(slats, 0.05, paint)


def lamp_post(rng: np.random.Generator) -> list[Part]:
    """Return a street lamp, 4.5 to 6 m tall."""
    sketch, height, side = Sketch(), rng.uniform(4.5, 6.0), pick(rng, (-1.0, 1.0))
    iron = varied(rng, (92, 96, 98), 10)
    sketch.polygon([(-0.08, 0), (0.08, 0), (0.05, height), (-0.05, height)], iron)
    sketch.bars([((0, height), (side * 1.1, height + 0.15))], 0.09, iron)
    sketch.polygon(circle((side * 1.1, height + 0.1), 0.18, 8), (232, 226, 196))
    return sketch.parts
