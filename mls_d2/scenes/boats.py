"""Sailing, motor and rowing boats: flat figures seen from the side, in metres."""

from __future__ import annotations

import numpy as np

from mls_d2.scenes.palette import GLASS, METAL, WOODS, chance, darker, pick, varied, vivid
from mls_d2.scenes.parts import Part, Sketch, moved


def boat(rng: np.random.Generator, *, sea: bool) -> list[Part]:
    """Return a boat seen from the side.

    Args:
        rng: where the variety comes from.
        sea: whether it may be a sailing or a motor boat (about 6 m); else it is a rowing boat (3.5
            m).
    """
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
