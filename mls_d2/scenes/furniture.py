"""What stands about: traffic lights, signs, lamps, benches, umbrellas, kites and surfboards."""

from __future__ import annotations

import math

import numpy as np

from mls_d2.scenes.palette import METAL, WOODS, chance, darker, pick, varied, vivid
from mls_d2.scenes.parts import Colour, Part, Sketch, circle, moved, rectangle

# Of a traffic sign: rim, face, mark.
_SIGNS: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((236, 234, 230), (186, 28, 34), (240, 238, 234)),
    ((236, 234, 230), (34, 76, 160), (240, 238, 234)),
    ((46, 46, 48), (228, 178, 34), (46, 46, 48)),
    ((186, 28, 34), (236, 234, 230), (46, 46, 48)),
)


def pole(height: float, colour: Colour = METAL, width: float = 0.1) -> list[Part]:
    """Return an upright pole."""
    sketch = Sketch()
    sketch.polygon(rectangle(-width / 2, width / 2, 0, height), colour)
    return sketch.parts


def traffic_light(rng: np.random.Generator, base: float) -> list[Part]:
    """Return a traffic light's head, ``base`` metres up, with one of its three lamps lit."""
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


def traffic_sign(rng: np.random.Generator, base: float) -> list[Part]:
    """Return a traffic sign of one of many looks whose lower edge is ``base`` metres up."""
    sketch, centre = Sketch(), (0.0, base + 0.42)
    corners = int(pick(rng, (3, 4, 4, 8, 24)))
    turn = math.pi / 2 if corners == 3 else math.pi / corners
    if corners == 4 and chance(rng, 0.5):  # a diamond
        turn = 0.0
    rim, face, mark = pick(rng, _SIGNS)
    for radius, colour in ((0.44, rim), (0.37, face)):
        turns = [turn + 2 * math.pi * k / corners for k in range(corners)]
        sketch.polygon(
            [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in turns],
            varied(rng, colour, 8),
        )
    wide, high = pick(rng, ((0.2, 0.06), (0.06, 0.17), (0.12, 0.1)))
    sketch.polygon(rectangle(-wide, wide, centre[1] - high, centre[1] + high), mark)
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


def lamp_post(rng: np.random.Generator) -> list[Part]:
    """Return a street lamp, 4.5 to 6 m tall."""
    sketch, height, side = Sketch(), rng.uniform(4.5, 6.0), pick(rng, (-1.0, 1.0))
    iron = varied(rng, (92, 96, 98), 10)
    sketch.polygon([(-0.08, 0), (0.08, 0), (0.05, height), (-0.05, height)], iron)
    sketch.bars([((0, height), (side * 1.1, height + 0.15))], 0.09, iron)
    sketch.polygon(circle((side * 1.1, height + 0.1), 0.18, 8), (232, 226, 196))
    return sketch.parts
