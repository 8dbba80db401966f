"""Cars, buses, trucks, bicycles, motorcycles and boats, in metres, heading along ``x``."""

from __future__ import annotations

import numpy as np

from mls_d2.data.scenes.palette import (
    CAR_PAINTS,
    GLASS,
    METAL,
    TYRE,
    WOODS,
    chance,
    darker,
    pick,
    varied,
    vivid,
)
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

_LAMP: Colour = (250, 240, 205)
_REAR_LAMP: Colour = (200, 28, 28)
_PLATE: Colour = (232, 230, 220)


def _wheels(positions: tuple[float, ...], radius: float, half_width: float) -> list[Part]:
    tyres = [circle((x, radius), radius) for x in positions]
    hubs = [circle((x, radius), radius * 0.55, 8) for x in positions]
    return on_side(tyres, half_width, TYRE) + on_side(hubs, half_width + 0.01, METAL)


def _shadowed_floor(length: float, half_width: float) -> list[Part]:
    return prism(
        rectangle(-0.46 * length, 0.46 * length, 0.05, 0.4), half_width * 0.9, (24, 24, 26)
    )


def _inset(profile: list[Point], x0: float, x1: float, low: float, high: float) -> list[Point]:
    """Return a window between two shares of a cabin's length, slanted with the cabin's pillars."""
    (bx0, by), (bx1, _), (tx1, ty), (tx0, _) = profile
    corners = []
    for share, level in ((x0, low), (x1, low), (x1, high), (x0, high)):
        left, right = bx0 + level * (tx0 - bx0), bx1 + level * (tx1 - bx1)
        corners.append((left + share * (right - left), by + level * (ty - by)))
    return corners


_BODIES = {  # length, height, hood height, belt height, cabin from-to as shares of the length (floor, roof)
    "sedan": (4.6, 1.45, 0.84, 0.92, (-0.34, 0.24), (-0.2, 0.08)),
    "hatchback": (3.9, 1.5, 0.9, 0.96, (-0.47, 0.26), (-0.4, 0.08)),
    "estate": (4.6, 1.5, 0.86, 0.94, (-0.48, 0.24), (-0.44, 0.08)),
    "off-roader": (4.5, 1.85, 1.08, 1.14, (-0.48, 0.24), (-0.45, 0.14)),
    "van": (4.8, 1.95, 1.0, 1.1, (-0.49, 0.4), (-0.48, 0.24)),
    "coupe": (4.2, 1.28, 0.76, 0.82, (-0.34, 0.18), (-0.16, 0.02)),
}


def car(rng: np.random.Generator) -> list[Part]:
    """Return a car: one of six body shapes, 3.6 to 5.1 m long."""
    length, height, hood, belt, floor, roof = _BODIES[pick(rng, tuple(_BODIES))]
    length, height = length * rng.uniform(0.93, 1.07), height * rng.uniform(0.95, 1.05)
    paint, half = varied(rng, pick(rng, CAR_PAINTS)), rng.uniform(0.84, 0.95)
    nose, tail = length / 2, -length / 2
    body = [
        (tail + 0.1, 0.28), (nose - 0.08, 0.28), (nose, 0.52), (nose - 0.12, hood),
        (floor[1] * length, belt), (tail + 0.06, belt), (tail, 0.6),
    ]  # fmt: skip
    cabin = [
        (floor[0] * length, belt), (floor[1] * length, belt),
        (roof[1] * length, height), (roof[0] * length, height),
    ]  # fmt: skip
    parts = _shadowed_floor(length, half)
    parts += prism(body, half, paint)
    parts += on_side(
        [rectangle(tail + 0.1, nose - 0.1, 0.28, 0.38)], half + 0.005, darker(paint, 0.55)
    )
    parts.append(
        on_edge(
            body[2], body[3], half, _LAMP, along=[(0.1, 0.75)], across=[(-0.95, -0.6), (0.6, 0.95)]
        )
    )
    parts.append(
        on_edge(body[2], body[3], half, darker(TYRE, 1.4), along=[(0.1, 0.6)], across=[(-0.5, 0.5)])
    )
    parts.append(
        on_edge(body[1], body[2], half, _PLATE, along=[(0.4, 0.8)], across=[(-0.28, 0.28)])
    )
    parts.append(
        on_edge(
            body[5],
            body[6],
            half,
            _REAR_LAMP,
            along=[(0.2, 0.9)],
            across=[(-0.95, -0.62), (0.62, 0.95)],
        )
    )
    parts.append(
        on_edge(body[6], body[0], half, _PLATE, along=[(0.2, 0.6)], across=[(-0.28, 0.28)])
    )
    parts += _wheels(
        (tail + 0.19 * length, nose - 0.19 * length), rng.uniform(0.3, 0.36), half + 0.01
    )
    top = paint if chance(rng, 0.85) else darker(paint, pick(rng, (0.3, 1.6)))
    parts += prism(cabin, half * 0.88, top)
    glass = varied(rng, GLASS, 10)
    split = rng.uniform(0.45, 0.58)
    windows = [
        _inset(cabin, 0.06, split, 0.12, 0.88),
        _inset(cabin, split + 0.04, 0.94, 0.12, 0.88),
    ]
    parts += on_side(windows, half * 0.88 + 0.01, glass)
    parts.append(
        on_edge(
            cabin[1],
            cabin[2],
            half * 0.88,
            darker(glass, 1.2),
            along=[(0.1, 0.9)],
            across=[(-0.88, 0.88)],
        )
    )
    parts.append(
        on_edge(
            cabin[3], cabin[0], half * 0.88, glass, along=[(0.12, 0.75)], across=[(-0.85, 0.85)]
        )
    )
    if chance(rng, 0.1):
        parts += prism(rectangle(-0.25, 0.05, height, height + 0.2), 0.3, (240, 220, 90))
    return parts


def bus(rng: np.random.Generator) -> list[Part]:
    """Return a city bus, 8.5 to 11.5 m long, with a row of windows and a band of colour."""
    length, height, half = rng.uniform(8.5, 11.5), rng.uniform(2.9, 3.3), 1.25
    paint = vivid(rng) if chance(rng, 0.7) else varied(rng, (232, 230, 222))
    band = vivid(rng)
    nose, tail, low = length / 2, -length / 2, 0.35
    hull = [(tail, low), (nose, low), (nose, 1.2), (nose - 0.2, height), (tail, height)]
    parts = _shadowed_floor(length, half)
    parts += prism(hull, half, paint)
    level = rng.uniform(0.5, 1.0)
    parts += on_side(
        [rectangle(tail, nose, level, level + rng.uniform(0.15, 0.4))], half + 0.01, band
    )
    count = int(rng.integers(5, 9))
    pitch = (length - 1.6) / count
    frames = [
        rectangle(tail + 0.3 + k * pitch, tail + 0.3 + (k + 0.86) * pitch, 1.4, height - 0.55)
        for k in range(count)
    ]
    glass = varied(rng, GLASS, 10)
    parts += on_side(frames, half + 0.015, glass)
    doors = [
        rectangle(nose - 1.25, nose - 0.35, low + 0.1, height - 0.5),
        rectangle(-0.6, 0.5, low + 0.1, height - 0.5),
    ]
    parts += on_side(doors, half + 0.02, darker(glass, 0.8))
    parts.append(
        on_edge(
            hull[2], hull[3], half, darker(glass, 1.15), along=[(0.05, 0.75)], across=[(-0.9, 0.9)]
        )
    )
    parts.append(
        on_edge(hull[2], hull[3], half, (250, 190, 60), along=[(0.82, 0.95)], across=[(-0.6, 0.6)])
    )
    parts.append(
        on_edge(
            hull[1],
            hull[2],
            half,
            _LAMP,
            along=[(0.25, 0.55)],
            across=[(-0.92, -0.65), (0.65, 0.92)],
        )
    )
    parts.append(on_edge(hull[1], hull[2], half, band, along=[(0.62, 0.95)], across=[(-1, 1)]))
    parts.append(on_edge(hull[4], hull[0], half, glass, along=[(0.15, 0.45)], across=[(-0.8, 0.8)]))
    parts.append(
        on_edge(
            hull[4],
            hull[0],
            half,
            _REAR_LAMP,
            along=[(0.65, 0.85)],
            across=[(-0.95, -0.75), (0.75, 0.95)],
        )
    )
    parts += _wheels((tail + 0.24 * length, nose - 0.2 * length), 0.48, half + 0.03)
    return parts


def truck(rng: np.random.Generator, *, toward: bool) -> list[Part]:
    """Return a truck, 5.5 to 8 m long: a cab before a box, a flat bed with a load, or a tank.

    Args:
        rng: where the variety comes from.
        toward: whether the front faces the viewer, so that the cab hides the load and not the reverse.
    """
    length, half = rng.uniform(5.5, 8.0), 1.15
    nose, tail = length / 2, -length / 2
    back = nose - rng.uniform(1.7, 2.2)
    roof = rng.uniform(2.3, 2.8)
    paint = vivid(rng) if chance(rng, 0.6) else varied(rng, (224, 224, 222))
    cab_profile = [(back, 0.4), (nose, 0.4), (nose, 1.3), (nose - 0.35, roof), (back, roof)]
    glass = varied(rng, GLASS, 10)
    cab = prism(cab_profile, half, paint)
    cab += on_side(
        [
            [
                (back + 0.5, 1.4),
                (nose - 0.15, 1.4),
                (nose - 0.4, roof - 0.3),
                (back + 0.5, roof - 0.3),
            ]
        ],
        half + 0.01,
        glass,
    )
    cab.append(
        on_edge(
            cab_profile[2],
            cab_profile[3],
            half,
            darker(glass, 1.2),
            along=[(0.08, 0.8)],
            across=[(-0.88, 0.88)],
        )
    )
    cab.append(
        on_edge(
            cab_profile[1],
            cab_profile[2],
            half,
            _LAMP,
            along=[(0.2, 0.45)],
            across=[(-0.92, -0.62), (0.62, 0.92)],
        )
    )
    cab.append(
        on_edge(
            cab_profile[1],
            cab_profile[2],
            half,
            darker(paint, 0.5),
            along=[(0.5, 0.95)],
            across=[(-0.55, 0.55)],
        )
    )
    load = _load(rng, tail, back - 0.12, half)
    base = _shadowed_floor(length, half)
    wheels = _wheels((tail + 0.16 * length, tail + 0.31 * length, nose - 0.85), 0.46, half + 0.03)
    return base + (load + cab if toward else cab + load) + wheels


def _load(rng: np.random.Generator, tail: float, front: float, half: float) -> list[Part]:
    kind = int(rng.integers(3))
    paint = vivid(rng) if chance(rng, 0.4) else varied(rng, (206, 206, 200), 16)
    if kind == 0:
        top = rng.uniform(2.7, 3.4)
        box = rectangle(tail, front, 0.7, top)
        parts = prism(box, half, paint)
        stripe = rectangle(tail + 0.3, front - 0.3, top - 1.3, top - 0.7)
        parts += on_side([stripe], half + 0.01, vivid(rng))
        parts.append(
            on_edge(
                box[3],
                box[0],
                half,
                darker(paint, 0.8),
                along=[(0.05, 0.95)],
                across=[(-0.93, -0.05), (0.05, 0.93)],
            )
        )
        return parts
    bed = prism(rectangle(tail, front, 0.7, 1.15), half, darker(paint, 0.8))
    if kind == 1:
        heap = [(tail + 0.2, 1.15), (front - 0.2, 1.15), (front - 0.7, 1.9), (tail + 0.9, 1.9)]
        return bed + prism(heap, half * 0.9, varied(rng, (140, 110, 76), 18))
    middle = (tail + front) / 2
    tank = [
        (tail + 0.1, 1.15),
        (front - 0.1, 1.15),
        (front - 0.05, 1.7),
        (front - 0.3, 2.3),
        (middle, 2.4),
        (tail + 0.3, 2.3),
        (tail + 0.05, 1.7),
    ]
    return bed + prism(tank, half * 0.85, paint)


def bicycle(rng: np.random.Generator) -> list[Part]:
    """Return a bicycle seen from the side, 1.7 m long; its wheels' discs belong to the mask."""
    sketch, paint = Sketch(), vivid(rng) if chance(rng, 0.7) else varied(rng, (40, 40, 44))
    radius, rear, front = 0.34, (-0.52, 0.34), (0.52, 0.34)
    for hub in (rear, front):
        sketch.disc(hub, radius, None)
        sketch.ring(hub, radius, 0.06, TYRE)
        turn = rng.uniform(0, np.pi)
        spokes = [
            (hub, (hub[0] + radius * np.cos(a), hub[1] + radius * np.sin(a)))
            for a in turn + np.arange(4) * np.pi / 2
        ]
        sketch.bars(spokes, 0.015, METAL)
    crank, seat, head = (-0.06, 0.32), (-0.2, 0.82), (0.38, 0.8)
    frame = [(rear, crank), (crank, seat), (rear, seat), (crank, head), (seat, head), (head, front)]
    if chance(rng, 0.4):
        frame[4] = ((-0.12, 0.55), head)
    sketch.bars(frame, 0.055, paint)
    sketch.limb((-0.32, 0.88), (-0.1, 0.88), (0.07, 0.05), (30, 28, 28))
    sketch.bars([(head, (0.36, 0.98)), ((0.36, 0.98), (0.5, 1.0))], 0.04, METAL)
    if chance(rng, 0.3):
        sketch.polygon(
            [(0.46, 0.72), (0.8, 0.72), (0.85, 0.98), (0.42, 0.98)], varied(rng, (150, 112, 66))
        )
    return sketch.parts


def motorcycle(rng: np.random.Generator) -> list[Part]:
    """Return a motorcycle or a scooter seen from the side, 2 m long."""
    sketch, paint = Sketch(), vivid(rng)
    radius = rng.uniform(0.27, 0.34)
    rear, front = (-0.68, radius), (0.7, radius)
    for hub in (rear, front):
        sketch.disc(hub, radius, TYRE)
        sketch.disc(hub, radius * 0.5, METAL)
    if chance(rng, 0.5):  # a scooter
        sketch.polygon(
            [
                (-0.95, 0.45),
                (-0.3, 0.32),
                (0.35, 0.3),
                (0.35, 0.42),
                (-0.2, 0.45),
                (-0.25, 0.75),
                (-0.9, 0.72),
            ],
            paint,
        )
        sketch.polygon([(0.32, 0.3), (0.62, 0.5), (0.5, 1.02), (0.38, 1.02)], paint)
    else:
        sketch.polygon([(-0.45, 0.25), (0.35, 0.25), (0.42, 0.6), (-0.4, 0.55)], (66, 66, 70))
        sketch.polygon([(-0.15, 0.6), (0.45, 0.62), (0.38, 0.86), (0.0, 0.86)], paint)
        sketch.polygon([(-1.0, 0.7), (-0.3, 0.56), (-0.1, 0.7), (-0.9, 0.82)], paint)
    sketch.bars([(front, (0.46, 0.95)), ((-0.2, 0.3), (-0.9, 0.36))], 0.08, METAL)
    sketch.limb((-0.75, 0.8), (-0.12, 0.78), (0.12, 0.1), (30, 28, 28))
    sketch.bars([((0.45, 0.95), (0.3, 1.06))], 0.06, (40, 40, 42))
    sketch.disc((0.56, 0.84), 0.09, _LAMP)
    return sketch.parts


def boat(rng: np.random.Generator, *, sea: bool) -> list[Part]:
    """Return a boat seen from the side: sailing (6 m) or motor (6 m), or rowing (3.5 m), as on ponds."""
    kind = pick(rng, ("sail", "sail", "motor", "motor", "row")) if sea else "row"
    length = {"sail": 5.5, "motor": 6.0, "row": 3.4}[kind] * rng.uniform(0.85, 1.25)
    paint = vivid(rng) if chance(rng, 0.5) else varied(rng, (238, 238, 234), 6)
    height = rng.uniform(0.14, 0.2) * length
    half = length / 2
    sketch = Sketch()
    if kind == "sail":
        _rig(rng, sketch, length, height)
    if kind == "motor":
        cabin = varied(rng, (240, 240, 238), 8)
        x0, x1, top = -0.2 * length, 0.18 * length, height + 0.22 * length
        sketch.polygon([(x0, height), (x1 + 0.1 * length, height), (x1, top), (x0, top)], cabin)
        sketch.polygon(
            [
                (x0 + 0.1, height + 0.3),
                (x1 + 0.05 * length, height + 0.3),
                (x1 - 0.05, top - 0.2),
                (x0 + 0.1, top - 0.2),
            ],
            GLASS,
        )
        if chance(rng, 0.5):
            sketch.bars([((x0, top), (x0, top + 0.15 * length))], 0.06, METAL)
    hull = [(-0.45 * length, -0.1), (0.38 * length, -0.1), (half, height * 1.15), (-half, height)]
    sketch.polygon(hull, paint)
    stripe = vivid(rng) if chance(rng, 0.6) else darker(paint, 0.6)
    sketch.polygon(
        [
            (-0.485 * length, height * 0.7),
            (0.47 * length, height * 0.75),
            (half, height * 1.15),
            (-half, height),
        ],
        stripe,
    )
    if kind == "row":
        sketch.bars([((0.0, height), (-0.2 * length, -0.05))], 0.08, pick(rng, WOODS))
    return moved(sketch.parts, flip=chance(rng, 0.5))


def _rig(rng: np.random.Generator, sketch: Sketch, length: float, deck: float) -> None:
    mast, top = 0.08 * length, deck + length * rng.uniform(0.95, 1.35)
    sail = varied(rng, (244, 242, 234), 5) if chance(rng, 0.65) else vivid(rng)
    boom = deck + 0.1 * length
    sketch.polygon([(mast - 0.08, boom), (mast - 0.06, top), (-0.44 * length, boom)], sail)
    if chance(rng, 0.5):
        middle = (boom + top) / 2
        sketch.polygon(
            [
                (mast - 0.08, middle),
                (mast - 0.07, middle + 0.1 * length),
                (mast - 0.2 * length, middle),
            ],
            vivid(rng),
        )
    if chance(rng, 0.7):
        sketch.polygon(
            [(mast + 0.08, top * 0.9), (mast + 0.08, boom), (0.48 * length, deck)],
            darker(sail, 0.92),
        )
    sketch.bars(
        [((mast, deck), (mast, top)), ((mast, boom), (-0.44 * length, boom))], 0.1, (120, 100, 80)
    )
