"""Trees, palms and bushes: flat figures in metres."""

from __future__ import annotations

import math

import numpy as np

from mls_d2.scenes.palette import chance, darker, pick, varied
from mls_d2.scenes.parts import Part, Sketch, rectangle


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
