"""Bicycles and motorcycles: flat figures seen from the side, in metres, heading along ``x``."""

from __future__ import annotations

import numpy as np

from mls_d2.scenes.palette import METAL, TYRE, chance, varied, vivid
from mls_d2.scenes.parts import Part, Sketch


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
                (-0.95, 0.45), (-0.3, 0.32), (0.35, 0.3), (0.35, 0.42), (-0.2, 0.45),
                (-0.25, 0.75), (-0.9, 0.72),
            ],
            paint,
        )  # fmt: skip
        sketch.polygon([(0.32, 0.3), (0.62, 0.5), (0.5, 1.02), (0.38, 1.02)], paint)
    else:
        sketch.polygon([(-0.45, 0.25), (0.35, 0.25), (0.42, 0.6), (-0.4, 0.55)], (66, 66, 70))
        sketch.polygon([(-0.15, 0.6), (0.45, 0.62), (0.38, 0.86), (0.0, 0.86)], paint)
        sketch.polygon([(-1.0, 0.7), (-0.3, 0.56), (-0.1, 0.7), (-0.9, 0.82)], paint)
    sketch.bars([(front, (0.46, 0.95)), ((-0.2, 0.3), (-0.9, 0.36))], 0.08, METAL)
    sketch.limb((-0.75, 0.8), (-0.12, 0.78), (0.12, 0.1), (30, 28, 28))
    sketch.bars([((0.45, 0.95), (0.3, 1.06))], 0.06, (40, 40, 42))
    sketch.disc((0.56, 0.84), 0.09, (250, 240, 205))
    return sketch.parts
