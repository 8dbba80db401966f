"""People, dogs and birds: flat figures in metres, facing ``x``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mls_d2.scenes.palette import (
    CLOTHS,
    FURS,
    HAIRS,
    SKINS,
    chance,
    darker,
    pick,
    varied,
    vivid,
)
from mls_d2.scenes.parts import Colour, Part, Point, Sketch, moved


@dataclass(frozen=True, slots=True)
class Looks:
    """What a person wears; lengths of sleeves and legs are 0 (bare), 1 (half) or 2 (full)."""

    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    sleeve: int
    leg: int
    skirt: bool
    long_hair: bool
    hat: Colour | None
    bag: Colour | None


def draw_looks(rng: np.random.Generator, *, beach: bool = False) -> Looks:
    """Draw a person's looks: street clothes, or swimwear."""
    skin = varied(rng, pick(rng, SKINS), 6)
    top = vivid(rng) if chance(rng, 0.6) else varied(rng, pick(rng, CLOTHS))
    bare = beach and chance(rng, 0.5)
    return Looks(
        skin=skin,
        hair=varied(rng, pick(rng, HAIRS), 6),
        top=skin if bare else top,
        bottom=vivid(rng) if beach or chance(rng, 0.15) else varied(rng, pick(rng, CLOTHS)),
        shoes=skin if beach else varied(rng, pick(rng, CLOTHS)),
        sleeve=0 if beach else int(rng.integers(0, 3)),
        leg=int(rng.integers(0, 2)) if beach else pick(rng, (1, 2, 2, 2)),
        skirt=chance(rng, 0.2),
        long_hair=chance(rng, 0.4),
        hat=vivid(rng) if chance(rng, 0.2) else None,
        bag=vivid(rng) if not beach and chance(rng, 0.3) else None,
    )


def _two_bone(start: Point, angle: float, bend: float, length: float) -> tuple[Point, Point]:
    """Return knee and foot, or elbow and hand; angles in radians from straight down, forward."""
    knee = (start[0] + length * math.sin(angle), start[1] - length * math.cos(angle))
    lower = angle - bend
    return knee, (knee[0] + length * math.sin(lower), knee[1] - length * math.cos(lower))


def _leg(sketch: Sketch, looks: Looks, hip: Point, angle: float, bend: float, shade: float) -> None:
    knee, foot = _two_bone(hip, angle, bend, 0.245)
    upper = looks.bottom if looks.leg else looks.skin
    lower = looks.bottom if looks.leg == 2 else looks.skin
    sketch.limb(knee, foot, (0.075, 0.05), darker(lower, shade))
    sketch.limb(hip, knee, (0.1, 0.078), darker(upper, shade))
    sketch.limb(foot, (foot[0] + 0.06, foot[1] - 0.005), (0.05, 0.045), darker(looks.shoes, shade))


def _arm(
    sketch: Sketch, looks: Looks, shoulder: Point, angle: float, bend: float, shade: float
) -> Point:
    elbow, hand = _two_bone(shoulder, angle, -bend, 0.165)
    upper = looks.top if looks.sleeve else looks.skin
    lower = looks.top if looks.sleeve == 2 else looks.skin
    sketch.limb(elbow, hand, (0.05, 0.04), darker(lower, shade))
    sketch.limb(shoulder, elbow, (0.065, 0.05), darker(upper, shade))
    sketch.disc(hand, 0.026, darker(looks.skin, shade))
    return hand


def _torso(sketch: Sketch, looks: Looks, hip: Point, neck: Point, width: float) -> None:
    x, y = neck
    if looks.bag is not None:
        sketch.limb((x - 0.1, y - 0.08), (x - 0.1, y - 0.24), (0.13, 0.13), looks.bag)
    sketch.limb((x, y - 0.02), (x, y + 0.06), (0.05, 0.05), looks.skin)
    lean = 0.6 * (neck[0] - hip[0])
    sketch.polygon(
        [
            (hip[0] - width * 0.85, hip[1] - 0.03), (hip[0] + width * 0.85, hip[1] - 0.03),
            (hip[0] + lean + width * 0.75, hip[1] + 0.12), (x + width * 1.12, y - 0.05),
            (x + width * 0.6, y + 0.01), (x - width * 0.6, y + 0.01), (x - width * 1.12, y - 0.05),
            (hip[0] + lean - width * 0.75, hip[1] + 0.12),
        ],
        looks.top,
    )  # fmt: skip
    sketch.limb(
        (hip[0] - width * 0.4, hip[1]), (hip[0] + width * 0.4, hip[1]), (0.09, 0.09), looks.bottom
    )
    if looks.skirt:
        sketch.polygon(
            [
                (hip[0] - width, hip[1] + 0.06),
                (hip[0] + width, hip[1] + 0.06),
                (hip[0] + 0.15, hip[1] - 0.2),
                (hip[0] - 0.15, hip[1] - 0.2),
            ],
            looks.bottom,
        )


def _head(sketch: Sketch, looks: Looks, neck: Point, away: bool) -> None:
    x, y = neck[0] + 0.01, neck[1] + 0.1
    if looks.long_hair:
        sketch.limb((x - 0.02, y), (x - 0.03, y - 0.1), (0.14, 0.13), looks.hair)
    sketch.disc((x, y), (0.058, 0.072), looks.hair if away else looks.skin)
    arc = [
        (x + 0.066 * math.cos(a), y + 0.012 + 0.07 * math.sin(a))
        for a in np.linspace(0.5, math.pi + 0.5, 7)
    ]
    sketch.polygon(arc, looks.hair)
    if looks.hat is not None:
        sketch.polygon(
            [(x - 0.07, y + 0.03), (x + 0.12, y + 0.03), (x + 0.06, y + 0.1), (x - 0.06, y + 0.1)],
            looks.hat,
        )


def person(rng: np.random.Generator, looks: Looks, pose: str) -> list[Part]:
    """Return a person 1.05 to 1.9 m tall.

    Args:
        rng: where the variety comes from.
        looks: skin, hair and clothes.
        pose: ``stand``, ``walk``, ``run``, ``hold`` (an arm up), ``sit`` (on a seat 0.45 m high),
            ``ride`` (on a saddle 0.9 m high), ``lie`` or ``swim`` (head and shoulders).
    """
    height = (
        rng.uniform(1.55, 1.9)
        if pose in ("sit", "ride") or chance(rng, 0.85)
        else rng.uniform(1.05, 1.4)
    )
    sketch, flip = Sketch(), chance(rng, 0.5) and pose not in ("ride",)
    away, wide = chance(rng, 0.3), rng.uniform(0.09, 0.125)
    if pose == "swim":
        neck = (0.0, 0.06)
        sketch.disc((0.0, 0.0), (0.14, 0.06), looks.skin)
        _arm(sketch, looks, (0.08, 0.03), rng.uniform(1.2, 2.4), 0.6, 1.0)
        _head(sketch, looks, neck, away)
        return moved(sketch.parts, scale=height, flip=flip)
    hip, neck, legs, arms = _joints(rng, pose)
    _arm(sketch, looks, (neck[0] - 0.02 - 0.5 * wide, neck[1] - 0.04), *arms[0], 0.8)
    _leg(sketch, looks, (hip[0] - 0.025, hip[1]), *legs[0], 0.78)
    _leg(sketch, looks, (hip[0] + 0.025, hip[1]), *legs[1], 1.0)
    _torso(sketch, looks, hip, neck, wide if pose not in ("ride", "sit") else 0.085)
    _head(sketch, looks, neck, away)
    _arm(sketch, looks, (neck[0] + 0.02 + 0.6 * wide, neck[1] - 0.04), *arms[1], 1.0)
    if pose == "lie":
        return moved(sketch.parts, scale=height, turn=math.pi / 2, shift=(0.85, 0.12), flip=flip)
    return moved(sketch.parts, scale=height, flip=flip)


_Swing = tuple[float, float]


def _joints(
    rng: np.random.Generator, pose: str
) -> tuple[Point, Point, tuple[_Swing, _Swing], tuple[_Swing, _Swing]]:
    """Return hip, neck and the (angle, bend) of both legs and both arms, for a height of 1."""
    swing = {"walk": rng.uniform(0.25, 0.5), "run": rng.uniform(0.6, 0.9)}.get(
        pose, rng.uniform(0, 0.14)
    )
    bend = swing * 1.1 if pose == "run" else swing * 0.5
    hip, neck = (0.0, 0.5), (0.02 + 0.05 * swing, 0.83)
    legs = ((-swing, bend), (swing, bend * 0.6))
    arms = ((swing, 0.3 + bend), (-swing, 0.3 + bend))
    if pose == "hold":
        arms = (arms[0], (rng.uniform(1.6, 2.4), 0.5))
    if pose == "sit":
        hip, neck = (0.0, 0.27), (0.02, 0.6)
        legs, arms = ((1.45, 1.4), (1.5, 1.5)), ((0.7, 0.6), (0.8, 0.5))
    if pose == "ride":
        hip, neck = (0.0, 0.53), (rng.uniform(0.1, 0.2), 0.83)
        turn = rng.uniform(-0.4, 0.4)
        legs, arms = ((0.75 - turn, 1.0), (0.75 + turn, 1.0)), ((1.0, 0.2), (1.1, 0.2))
    if pose == "lie":
        arms = ((0.2, 0.2), (rng.uniform(-0.5, 2.6), 0.5))
    return hip, neck, legs, arms


def dog(rng: np.random.Generator) -> list[Part]:
    """Return a dog seen from the side, 0.35 to 0.75 m tall: standing, walking or sitting."""
    fur = varied(rng, pick(rng, FURS), 10)
    patch = varied(rng, pick(rng, FURS), 10) if chance(rng, 0.4) else fur
    thick, leg, size = rng.uniform(0.24, 0.36), rng.uniform(0.28, 0.45), rng.uniform(0.62, 1.05)
    sketch, dark = Sketch(), darker(fur, 0.72)
    swing = rng.uniform(0, 0.35)
    back = leg + thick / 2
    tail = rng.uniform(0.2, 1.3)
    sitting = chance(rng, 0.2)
    chest, rump = (0.28, back), (-0.3, back)
    if sitting:
        chest, rump = (0.12, back + 0.08), (-0.3, thick * 0.55)
    for start, turn, colour in (
        (rump, -swing, dark), (chest, swing, dark), (rump, swing, fur), (chest, -swing, fur),
    ):  # fmt: skip
        foot = (start[0] + leg * math.sin(turn), 0.03)
        sketch.limb(start, foot, (0.15, 0.075), colour)
    tip = (rump[0] - 0.12 - 0.28 * math.cos(tail), rump[1] + 0.32 * math.sin(tail))
    sketch.limb((rump[0] - 0.08, rump[1] + 0.05), tip, (0.08, 0.04), fur)
    sketch.limb(rump, chest, (thick * 0.9, thick * 1.05), fur)
    if chance(rng, 0.5):
        saddle = ((rump[0] + chest[0]) / 2 - 0.05, (rump[1] + chest[1]) / 2 + 0.03)
        sketch.disc(saddle, (0.16, thick * 0.35), patch)
    head = (chest[0] + 0.24, chest[1] + rng.uniform(0.16, 0.32))
    sketch.limb(chest, head, (thick * 0.75, 0.17), fur)
    _dog_head(rng, sketch, head, (fur, patch))
    return moved(sketch.parts, scale=size, flip=chance(rng, 0.5))


def _dog_head(
    rng: np.random.Generator, sketch: Sketch, head: Point, furs: tuple[Colour, Colour]
) -> None:
    """Add the skull, the snout with its nose, and hanging or pricked ears."""
    (x, y), (fur, patch) = head, furs
    sketch.disc(head, 0.13, patch)
    sketch.limb((x + 0.06, y - 0.03), (x + rng.uniform(0.16, 0.24), y - 0.05), (0.13, 0.09), fur)
    sketch.disc((x + 0.25, y - 0.03), 0.03, (24, 20, 20))
    if chance(rng, 0.5):
        sketch.limb((x - 0.07, y + 0.07), (x - 0.1, y - 0.1), (0.08, 0.1), darker(patch, 0.7))
    else:
        ear = [(x - 0.1, y + 0.08), (x + 0.02, y + 0.1), (x - 0.05, y + 0.24)]
        sketch.polygon(ear, darker(patch, 0.7))


_PLUMES: tuple[Colour, ...] = ((120, 124, 134), (236, 236, 232), (52, 50, 54), (146, 110, 76))


def bird(rng: np.random.Generator, *, flying: bool) -> list[Part]:
    """Return a bird as large as a gull: on the ground (0.45 m) or in flight (span 1.4 m)."""
    plume = varied(rng, pick(rng, _PLUMES), 8)
    sketch, wing = Sketch(), darker(plume, rng.uniform(0.6, 0.85))
    beak = (222, 150, 50)
    if flying:
        lift = rng.uniform(-0.25, 0.5)
        for side in (-1, 1):
            tip = (side * 0.7, lift)
            elbow = (side * 0.34, 0.12 + 0.4 * max(lift, -0.1))
            sketch.polygon(
                [(0.0, 0.08), elbow, tip, (side * 0.3, elbow[1] - 0.16), (0.0, -0.08)],
                wing if side < 0 else plume,
            )
        sketch.limb((-0.22, -0.03), (0.2, 0.02), (0.08, 0.15), plume)
        sketch.disc((0.28, 0.05), 0.08, plume)
        sketch.polygon([(0.33, 0.07), (0.33, 0.02), (0.44, 0.03)], beak)
        return moved(sketch.parts, flip=chance(rng, 0.5))
    sketch.bars([((-0.02, 0.16), (-0.02, 0.0)), ((0.05, 0.16), (0.05, 0.0))], 0.025, beak)
    sketch.polygon([(-0.12, 0.2), (-0.12, 0.3), (-0.42, 0.18)], wing)
    sketch.limb((-0.12, 0.24), (0.1, 0.28), (0.14, 0.2), plume)
    sketch.limb((-0.18, 0.26), (0.04, 0.29), (0.06, 0.12), wing)
    head = (0.19, 0.28 + rng.uniform(0.06, 0.18))
    sketch.limb((0.12, 0.3), head, (0.12, 0.09), plume)
    sketch.disc(head, 0.065, plume)
    sketch.polygon(
        [
            (head[0] + 0.04, head[1] + 0.02),
            (head[0] + 0.04, head[1] - 0.02),
            (head[0] + 0.13, head[1] - 0.01),
        ],
        beak,
    )
    return moved(sketch.parts, scale=rng.uniform(0.9, 1.5), flip=chance(rng, 0.5))
