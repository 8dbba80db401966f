"""How each kind of object is drawn: short recipes in metres, with variants and jitter."""

import math
from functools import partial

import numpy as np

from mls_d2.scenes.sketch import Colour, Point, Sketch, circle, rectangle, shade

DARK, METAL, GLASS = (34.0, 34.0, 38.0), (126.0, 130.0, 134.0), (66.0, 80.0, 94.0)
LAMP, RED = (250.0, 240.0, 205.0), (190.0, 32.0, 36.0)
# Skin, fur, wood and walls overlap, so that a colour does not give a kind away.
EARTHS: tuple[Colour, ...] = (
    (44, 36, 32), (92, 62, 40), (150, 106, 62), (204, 164, 104), (232, 226, 214), (120, 112, 106),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((244, 208, 177), (228, 184, 148), (198, 146, 108), (104, 68, 48))
LEAVES: tuple[Colour, ...] = ((72, 110, 48), (54, 92, 44), (98, 128, 58), (150, 122, 48))

# Hip and neck of a person of height 1, then both legs and both arms: angle from straight down,
# forward, and bend of the joint, in radians.
_POSES: dict[str, tuple[Point, Point, tuple[Point, Point], tuple[Point, Point]]] = {
    "stand": ((0, 0.5), (0.02, 0.83), ((-0.1, 0.0), (0.1, 0.0)), ((0.15, -0.2), (-0.12, -0.3))),
    "walk": ((0, 0.5), (0.04, 0.83), ((-0.4, 0.25), (0.4, 0.1)), ((0.45, -0.4), (-0.4, -0.4))),
    "run": ((0, 0.5), (0.08, 0.82), ((-0.7, 0.9), (0.75, 0.5)), ((0.8, -1.3), (-0.6, -1.2))),
    "wave": ((0, 0.5), (0.02, 0.83), ((-0.1, 0.0), (0.1, 0.0)), ((0.15, -0.3), (2.3, -0.5))),
    "sit": ((0, 0.27), (0.02, 0.6), ((1.45, 1.4), (1.5, 1.5)), ((0.7, -0.6), (0.8, -0.5))),
    "ride": ((-0.14, 0.5), (0.06, 0.8), ((0.4, 0.8), (1.0, 1.1)), ((1.0, -0.2), (1.1, -0.2))),
}


def person(s: Sketch, pose: str = "") -> None:
    """A person, 1.1 to 1.9 m tall, in one of the poses."""
    pose = pose or s.pick(("stand", "walk", "walk", "run", "wave"))
    skin, hair = s.like(s.pick(SKINS), 6), s.like(s.pick(EARTHS), 6)
    top, bottom, shoes = s.paint(), s.paint(), s.paint()
    sleeve, trouser = s.pick((skin, top)), s.pick((skin, bottom, bottom))
    (hip, waist), (x, y), legs, arms = _POSES[pose]
    wide, seated = s.any(0.09, 0.125), pose in ("ride", "sit")

    def limb(start: Point, swing: Point, look: tuple[Colour, ...], arm: bool, tone: float) -> None:
        width, length = (0.075, 0.165) if arm else (0.11, 0.245)
        joints = [start]
        for angle in (swing[0] + s.any(-0.12, 0.12), swing[0] - swing[1]):
            x, y = joints[-1]
            joints.append((x + length * math.sin(angle), y - length * math.cos(angle)))
        _, joint, (x, y) = joints
        s.limb(joint, (x, y), (0.75 * width, 0.55 * width), shade(look[1], tone))
        s.limb(start, joint, (width, 0.75 * width), shade(look[0], tone))
        toe = (x if arm else x + 0.06, y)
        s.limb((x, y), toe, (0.55 * width, 0.5 * width), shade(look[2], tone))

    limb((x - 0.7 * wide, y - 0.04), arms[0], (top, sleeve, skin), True, 0.8)
    limb((hip - 0.025, waist), legs[0], (bottom, trouser, shoes), False, 0.78)
    limb((hip + 0.025, waist), legs[1], (bottom, trouser, shoes), False, 1.0)
    s.limb((x, y - 0.02), (x, y + 0.06), (0.055, 0.055), skin)
    s.limb((hip, waist + 0.01), (x, y - 0.06), (1.7 * wide, 2.1 * wide), top)
    if s.chance(0.4):
        s.limb((x - 0.02, y + 0.1), (x - 0.03, y), (0.14, 0.13), hair)
    s.disc(x, y + 0.1, 0.06, 0.074, skin)
    s.limb((x - 0.03, y + 0.13), (x + 0.03, y + 0.15), (0.1, 0.07), s.pick((hair, hair, shoes)))
    limb((x + 0.7 * wide, y - 0.04), arms[1], (top, sleeve, skin), True, 1.0)
    tall = s.any(1.55, 1.9) if seated or s.chance(0.85) else s.any(1.05, 1.4)
    s.move(scale=tall, flip=not seated and s.chance(0.5))


def animal(s: Sketch, cat: bool) -> None:
    """A cat (round face, pricked ears, raised tail) or a dog (long legs and snout), sideways."""
    pose = s.pick(("walk", "sit", "lie" if cat else "walk"))
    fur, thick = s.like(s.pick(EARTHS)), 0.28
    patch = s.like(s.pick(EARTHS)) if s.chance(0.4) else fur
    leg = 0.02 if pose == "lie" else s.any(0.2, 0.28) if cat else s.any(0.3, 0.45)
    swing, back = s.any(0, 0.35), leg + thick / 2
    neck, rump = (0.28, back), (-0.3, back)
    if pose == "sit":
        neck, rump = (0.1, back + 0.12), (-0.2, 0.15)
    bend = (rump[0] - 0.24, rump[1] + s.any(0.0, 0.2))
    s.limb(rump, bend, (0.1, 0.07), fur)
    if cat:
        s.limb(bend, (bend[0] + s.any(-0.12, 0.1), bend[1] + 0.34), (0.08, 0.06), patch)
    for tone, turn in ((0.7, swing), (1.0, -swing)):
        for (x, y), sign in ((rump, -1), (neck, 1)):
            foot = (x + sign * y * math.sin(turn), 0.03)
            s.limb((x, y), foot, (0.55 * thick, 0.08), shade(fur, tone))
            s.disc(foot[0] + 0.03, 0.03, 0.06, 0.035, shade(patch, tone))
    s.limb(rump, neck, (thick * 0.95, thick * 1.05), fur)
    s.disc((rump[0] + neck[0]) / 2, (rump[1] + neck[1]) / 2 + 0.03, 0.16, 0.1, patch)
    (_cat_head if cat else _dog_head)(s, neck, fur, patch)
    s.move(scale=s.any(0.55, 0.75) if cat else s.any(0.65, 1.0), flip=s.chance(0.5))


def _dog_head(s: Sketch, neck: Point, fur: Colour, patch: Colour) -> None:
    x, y, ears = neck[0] + 0.22, neck[1] + s.any(0.2, 0.32), shade(patch, 0.65)
    s.limb(neck, (x, y), (0.22, 0.18), fur)
    s.disc(x, y, 0.14, 0.13, patch)
    s.limb((x + 0.06, y - 0.03), (x + 0.22, y - 0.06), (0.14, 0.1), fur)
    s.disc(x + 0.28, y - 0.04, 0.035, 0.035, DARK)
    s.disc(x + 0.06, y + 0.04, 0.022, 0.022, DARK)
    tip = s.pick(((x - 0.12, y - 0.12), (x - 0.07, y + 0.24)))  # hanging or pricked
    s.limb((x - 0.07, y + 0.07), tip, (0.11, 0.08), ears)


def _cat_head(s: Sketch, neck: Point, fur: Colour, patch: Colour) -> None:
    x, y, eyes = neck[0] + 0.16, neck[1] + 0.26, s.pick(((196, 200, 80), (120, 180, 120)))
    s.limb(neck, (x, y), (0.25, 0.24), fur)
    for side in (-1.0, 1.0):
        ear = [(x + 0.21 * side, y + 0.04), (x + 0.17 * side, y + 0.34), (x, y + 0.14)]
        s.poly(ear, shade(patch, 0.8))
    s.disc(x, y, 0.21, 0.18, fur)
    for side in (-0.08, 0.08):
        s.disc(x + side, y + 0.03, 0.045, 0.045, eyes)
        s.disc(x + side, y + 0.03, 0.018, 0.04, DARK)
    s.disc(x, y - 0.08, 0.08, 0.06, s.pick((patch, EARTHS[4])))


def bicycle(s: Sketch) -> None:
    """A bicycle from the side, 1.7 m long; the wheels' discs belong to the mask."""
    paint = s.paint()
    for x in (-0.52, 0.52):
        s.disc(x, 0.34, 0.34, 0.34, None)
        outer, inner = circle(x, 0.34, 0.345, 16), circle(x, 0.34, 0.28, 16)
        s.poly([*outer, outer[0], inner[0], *inner[::-1]], DARK)
        for a in s.any(0, 1.5) + np.arange(3) * 1.05:
            dx, dy = 0.3 * math.cos(a), 0.3 * math.sin(a)
            s.limb((x - dx, 0.34 - dy), (x + dx, 0.34 + dy), (0.015, 0.015), METAL)
    s.bars("-0.52 0.34, -0.06 0.32, -0.2 0.82, -0.52 0.34", 0.055, paint)
    s.bars("-0.06 0.32, 0.38 0.8, -0.18 0.76", 0.06, paint)
    s.bars("0.38 0.8, 0.52 0.34", 0.05, paint)
    s.bars("0.38 0.78, 0.34 1.0, 0.5 1.02", 0.045, METAL)
    s.limb((-0.34, 0.88), (-0.1, 0.87), (0.08, 0.05), DARK)


def motorcycle(s: Sketch) -> None:
    """A motorcycle from the side, 2 m long, on thick wheels."""
    paint, radius = s.paint(), s.any(0.3, 0.36)
    for x in (-0.68, 0.7):
        s.disc(x, radius, radius, radius, DARK)
        s.disc(x, radius, radius * 0.55, radius * 0.55, METAL)
    s.limb((0.7, radius), (0.46, 0.95), (0.1, 0.08), METAL)
    s.poly("-0.45 0.22, 0.35 0.22, 0.42 0.6, -0.4 0.55", METAL)
    s.poly("-0.15 0.6, 0.35 0.62, 0.66 0.78, 0.6 1.05, 0.42 1.0, 0.4 0.9, 0.0 0.9", paint)
    s.poly("-1.05 0.72, -0.3 0.55, -0.1 0.7, -0.95 0.85", paint)
    s.bars("-0.2 0.28, -0.95 0.36", 0.1, METAL)
    s.limb((-0.8, 0.84), (-0.12, 0.8), (0.13, 0.11), DARK)
    s.bars("0.45 0.95, 0.28 1.1", 0.06, DARK)
    s.disc(0.6, 0.88, 0.09, 0.1, LAMP)


def _wheels(s: Sketch, axles: tuple[float, ...], radius: float) -> None:
    for x in axles:
        s.side(circle(x, radius, radius), DARK, proud=0.02)
        s.side(circle(x, radius, radius * 0.55), (168, 170, 172), proud=0.03)


def _lamps(s: Sketch, number: int, along: Point, colour: Colour) -> None:
    for across in ((0.03, 0.2), (0.8, 0.97)):
        s.edge(number, colour, along, across)


def car(s: Sketch) -> None:
    """A car between a coupe and a van, 3.8 to 5 m long, from any side."""
    nose, half, roof = s.any(1.9, 2.5), 0.9, s.any(1.35, 1.9)
    glass, paint = s.like(GLASS), s.paint()
    belt, f0, f1 = 0.62 * roof, -nose * s.any(0.66, 0.96), nose * s.any(0.4, 0.75)
    t0, t1 = f0 + nose * s.any(0.06, 0.28), f1 - nose * s.any(0.28, 0.36)
    s.solid(rectangle(-0.92 * nose, 0.92 * nose, 0.06, 0.4), -0.8, 0.8, DARK)
    front = [(nose - 0.08, 0.28), (nose, 0.52), (nose - 0.12, 0.92 * belt), (f1, belt)]
    s.solid([(0.1 - nose, 0.28), *front, (0.06 - nose, belt), (-nose, 0.6)], -half, half, paint)
    s.edge(2, DARK, (0.1, 0.6), (0.25, 0.75))
    s.edge(6, LAMP, (0.2, 0.7), (0.36, 0.64))
    _lamps(s, 2, (0.1, 0.75), LAMP)
    _lamps(s, 5, (0.2, 0.9), RED)
    _wheels(s, (-0.62 * nose, 0.62 * nose), s.any(0.31, 0.37))
    s.solid([(f0, belt), (f1, belt), (t1, roof), (t0, roof)], -0.8, 0.8, paint)
    low, high, pillar = belt + 0.08, roof - 0.08, f0 + s.any(0.45, 0.6) * (f1 - f0)
    s.side([(f0 + 0.2, low), (f1 - 0.2, low), (t1 - 0.1, high), (t0 + 0.1, high)], glass)
    s.side(rectangle(pillar, pillar + 0.1, low, high), paint, 0.02)
    s.edge(1, shade(glass, 1.2), (0.1, 0.9), (0.06, 0.94))
    s.edge(3, glass, (0.12, 0.75), (0.08, 0.92))


def bus(s: Sketch) -> None:
    """A city bus, 8.5 to 11.5 m long: a row of windows, doors and a band of colour."""
    nose, height, half = s.any(4.2, 5.7), s.any(2.9, 3.3), 1.25
    paint, band, glass = s.paint(), s.paint(), s.like(GLASS, 10)
    s.solid(rectangle(-0.92 * nose, 0.92 * nose, 0.06, 0.4), -half * 0.9, half * 0.9, DARK)
    front = [(nose, 0.35), (nose, 1.2), (nose - 0.2, height)]
    s.solid([(-nose, 0.35), *front, (-nose, height)], -half, half, paint)
    level, pitch = s.any(0.5, 1.0), (2 * nose - 0.6) / s.pick((5, 6, 7, 8))
    s.side(rectangle(-nose, nose, level, level + s.any(0.15, 0.4)), band)
    s.side(rectangle(0.3 - nose, nose - 0.3, 1.4, height - 0.5), glass, 0.015)
    for x in np.arange(0.3 - nose + pitch, nose - 0.5, pitch):
        s.side(rectangle(x - 0.14, x, 1.4, height - 0.5), paint, 0.02)
    for x in (nose - 1.25, -0.5):
        s.side(rectangle(x, x + 0.95, 0.45, height - 0.5), shade(glass, 0.75), 0.03)
    s.edge(2, shade(glass, 1.15), (0.05, 0.75), (0.05, 0.95))
    s.edge(2, (250, 190, 60), (0.82, 0.95), (0.2, 0.8))
    s.edge(1, band, (0.62, 0.95))
    s.edge(4, glass, (0.15, 0.45), (0.1, 0.9))
    _lamps(s, 1, (0.25, 0.55), LAMP)
    _lamps(s, 4, (0.65, 0.85), RED)
    _wheels(s, (-0.52 * nose, 0.6 * nose), 0.5)


def truck(s: Sketch) -> None:
    """A truck, 5.5 to 8 m long: a cab and a box."""
    nose, half, paint, load, roof = s.any(2.7, 4.0), 1.15, s.paint(), s.paint(), s.any(2.2, 2.7)
    back, glass, top = nose - s.any(1.7, 2.2), s.like(GLASS, 10), s.any(2.8, 3.5)
    s.solid(rectangle(-nose, back - 0.12, 0.6, top), -half, half, load)
    s.side(rectangle(0.3 - nose, back - 0.5, top - 1.4, top - 0.7), s.paint())
    s.edge(3, shade(load, 0.8), (0.05, 0.95), (0.04, 0.48))
    s.edge(3, shade(load, 0.8), (0.05, 0.95), (0.52, 0.96))
    _wheels(s, (-0.68 * nose, -0.38 * nose), 0.48)
    s.group = 1
    front = [(nose, 0.4), (nose, 1.3), (nose - 0.3, roof)]
    s.solid([(back, 0.4), *front, (back, roof)], -half, half, paint)
    s.side(rectangle(back + 0.5, nose - 0.35, 1.4, roof - 0.3), glass)
    s.edge(2, shade(glass, 1.2), (0.08, 0.8), (0.06, 0.94))
    s.edge(1, shade(paint, 0.5), (0.5, 0.95), (0.2, 0.8))
    _lamps(s, 1, (0.2, 0.45), LAMP)
    _wheels(s, (nose - 0.85,), 0.48)


def boat(s: Sketch) -> None:
    """A sailing or a motor boat from the side, 4 to 7 m long."""
    length, paint, deck, sail = s.any(4.2, 7.0), s.paint(), s.any(0.7, 1.1), s.paint()
    if s.chance(0.55):
        top = s.any(0.8, 1.2)
        s.limb((0.08 * length, deck), (0.08 * length, deck + top * length), (0.12, 0.08), METAL)
        s.poly(np.array(((0.06, 0.1), (0.07, top), (-0.44, 0.1))) * length + (0, deck), sail)
        s.poly(np.array(((0.1, top), (0.1, 0.1), (0.46, 0.1))) * length + (0, deck), sail)
    else:
        cabin = np.array(((-0.25, 0), (0.25, 0), (0.12, 0.2), (-0.22, 0.2))) * length
        s.poly(cabin + (0, deck), sail)
        s.poly(cabin * (0.8, 0.6) + (0, deck + 0.06 * length), GLASS)
    hull = np.array(((-0.4, 0), (0.36, 0), (0.5, 1.2), (-0.47, 1))) * (length, deck)
    s.poly(hull, paint)
    s.poly(hull * (1, 0.3) + (0, 0.72 * deck), s.pick((s.paint(), shade(paint, 0.55))))
    s.move(flip=s.chance(0.5))


def light(s: Sketch) -> None:
    """A traffic light's head, 1.2 m high, with three lamps of which one is lit."""
    shell = s.like(s.pick((DARK, (40, 58, 44), (200, 160, 50))), 6)
    s.box((-0.24, 0.24), (0, 1.2), (-0.15, 0.15), shell)
    lit = s.pick((0, 1, 2))
    for k, lamp in enumerate(((66, 230, 120), (255, 200, 50), (255, 56, 44))):
        s.side(circle(0, 0.22 + 0.38 * k, 0.16), lamp if k == lit else shade(lamp, 0.25))


def _legs(s: Sketch, half: Point, height: float, thick: float, colour: Colour) -> None:
    for x in (-half[0], half[0] - thick):
        for z in (-half[1], half[1] - thick):
            s.box((x, x + thick), (0, height), (z, z + thick), colour)


def bench(s: Sketch) -> None:
    """A park bench, 1.4 to 1.9 m long: slats for seat and back."""
    half, wood, iron = s.any(0.7, 0.95), s.like(s.pick((*EARTHS, s.paint()))), s.pick((DARK, METAL))
    _legs(s, (0.85 * half, 0.24), 0.42, 0.08, iron)
    for x in (-0.8 * half, 0.8 * half):
        s.box((x - 0.04, x + 0.04), (0.4, 0.95), (-0.27, -0.22), iron)
    for k in range(3):
        s.box((-half, half), (0.42, 0.47), (-0.2 + 0.16 * k, -0.08 + 0.16 * k), wood)
        s.box((-half, half), (0.55 + 0.15 * k, 0.65 + 0.15 * k), (-0.25, -0.21), wood)


def chair(s: Sketch) -> None:
    """A chair, 0.9 to 1.1 m high: four legs, a square seat, an upright back of slats or a board."""
    paint, half, high = s.pick((s.pick(EARTHS), s.paint())), s.any(0.21, 0.26), s.any(0.9, 1.1)
    back = (-half, 0.06 - half)
    _legs(s, (half, half), 0.44, 0.06, shade(paint, 0.8))
    for x in (-half, half - 0.06):
        s.box((x, x + 0.06), (0.48, high), back, paint)
    s.box((-half, half), (0.42, 0.5), (-half, half), s.pick((paint, s.paint())))
    for low, top in s.pick((((0.6, high),), ((high - 0.12, high), (high - 0.34, high - 0.22)))):
        s.box((-half, half), (low, top), back, paint)


def couch(s: Sketch) -> None:
    """A couch for two or three, 1.5 to 2.2 m wide: cushions between two arms and a back."""
    half, paint, count = s.any(0.75, 1.1), s.paint(), s.pick((2, 3))
    cushion, width = shade(paint, s.pick((1.35, 0.7))), 2 * (half - 0.2) / count
    s.box((-half, half), (0.08, 0.36), (-0.42, 0.4), shade(paint, 0.7))
    s.box((-half, half), (0.38, 0.88), (-0.42, -0.2), paint)
    for k in range(count):
        x = (0.22 - half + k * width, 0.18 - half + (k + 1) * width)
        s.box(x, (0.5, 0.82), (-0.2, -0.1), cushion)
        s.box(x, (0.36, 0.52), (-0.18, 0.42), cushion)
    for side in (-half, half - 0.2):
        s.box((side, side + 0.2), (0.08, 0.62), (-0.4, 0.45), shade(paint, 0.92))


def tv(s: Sketch) -> None:
    """A flat screen, 0.9 to 1.3 m wide, with a picture or dark, on a foot."""
    half, high, screen = s.any(0.45, 0.65), s.any(0.58, 0.72), s.pick((DARK, s.paint(), s.paint()))
    s.box((-0.25, 0.25), (0, 0.04), (-0.12, 0.12), DARK)
    s.box((-half, half), (0.1, 0.1 + high), (-0.04, 0.04), (22, 22, 26))
    s.side(rectangle(0.04 - half, half - 0.04, 0.15, 0.06 + high), screen)
    s.side(rectangle(0.04 - half, half - 0.04, 0.15, 0.15 + 0.3 * high), shade(screen, 1.5), 0.02)
    s.side(circle(s.any(-0.2, 0.2), 0.1 + high * 0.6, 0.12), s.pick((screen, s.paint())), 0.03)


def umbrella(s: Sketch, held: bool = False) -> None:
    """A parasol on a pole, 2.3 m high, or an umbrella held 1 m up: a canopy of coloured panels."""
    half, rise, base = (s.any(0.55, 0.7), 0.36, 0.85) if held else (s.any(1.0, 1.4), 0.6, 1.7)
    s.limb((0, 0.1 if held else 0), (0, base + rise), (0.05, 0.05), METAL)
    count, colours, single = s.pick((4, 6, 8)), (s.paint(), s.paint()), s.chance(0.4)
    edges = [-half * math.cos(math.pi * k / count) for k in range(count + 1)]
    for k, (left, right) in enumerate(zip(edges, edges[1:], strict=False)):
        rim = [(left, base), ((left + right) / 2, base + 0.06), (right, base)]
        top = [(x, base + rise * y) for x, y in ((0.72 * right, 0.65), (0, 1), (0.72 * left, 0.65))]
        s.poly(rim + top, shade(colours[0 if single else k % 2], 0.8 + 0.25 * (k + 1) / count))
    s.move(turn=s.any(-0.25, 0.25))


def potted_plant(s: Sketch) -> None:
    """A plant in a pot, 0.7 to 1.3 m high, with upright or arching leaves."""
    leaf, tall, lean = s.like(s.pick(LEAVES), 14), s.any(0.45, 0.9), s.any(0.5, 1.3)
    for _ in range(11):
        a, long, colour = s.any(-lean, lean), tall * s.any(0.7, 1.0), shade(leaf, s.any(0.65, 1.25))
        x, y = long * math.sin(a), long * math.cos(a)
        s.limb((0, 0.35), (0.5 * x, 0.4 + (0.5 + 0.2 * lean) * y), (0.03, 0.11), colour)
        s.limb((0.5 * x, 0.4 + (0.5 + 0.2 * lean) * y), (x, 0.4 + y), (0.11, 0.01), colour)
    pot = s.like(s.pick((*EARTHS, s.paint())))
    s.poly("-0.15 0, 0.15 0, 0.22 0.34, -0.22 0.34", pot)
    s.poly("-0.25 0.34, 0.25 0.34, 0.25 0.43, -0.25 0.43", shade(pot, 0.8))


def tree(s: Sketch, bush: bool = False) -> None:
    """A broad-leaved tree or a conifer, 3.5 to 7.5 m tall, or a bush of 0.6 to 1.2 m."""
    leaf = s.like(s.pick(LEAVES), 12)
    if not bush:
        s.limb((0, 0), (0, 0.6), (0.06, 0.03), s.like(EARTHS[1], 10))
    if bush or s.chance(0.75):
        y, radius = (0.4, 0.5) if bush else (0.7, s.any(0.22, 0.34))
        for k in range(18):
            a, tone = s.any(0, 2 * math.pi), 0.6 + 0.03 * k
            away = s.any(0.3, 0.9 - 0.02 * k) * radius
            up = y + 0.9 * away * math.sin(a) + 0.3 * radius * (tone - 0.8)
            s.disc(away * math.cos(a), up, 0.45 * radius, 0.42 * radius, shade(leaf, tone))
    else:
        for low, reach, tone in ((0.12, 0.26, 0.6), (0.32, 0.2, 0.72), (0.52, 0.15, 0.84)):
            s.poly([(-reach, low), (reach, low), (0, low + 0.36)], shade(leaf, tone))
    s.move(scale=s.any(0.6, 1.2) if bush else s.any(3.5, 7.5))


def pole(s: Sketch, height: float = 0.0) -> None:
    """A pole; without a height, a street lamp, 4.5 to 6 m tall."""
    tall = height or s.any(4.5, 6.0)
    s.limb((0, 0), (0, tall), (0.14, 0.1), s.like(METAL, 16))
    if not height:
        s.disc(0.5, tall, 0.6, 0.14, LAMP)


def building(s: Sketch) -> None:
    """A house of a row, 7 to 12 m long, its front along ``x``."""
    half, floors, storey = s.any(3.5, 6.0), s.pick((2, 3, 4, 5)), s.any(2.8, 3.5)
    wall, glass = s.like(s.pick((*EARTHS, s.paint())), 14), s.like(GLASS, 20)
    height, count, wide = floors * storey + 0.8, s.pick((4, 5, 6)), s.any(0.25, 0.6)
    s.box((-half, half), (0, height), (-4, 4), wall)
    s.side(rectangle(-half, half, height - 0.4, height), shade(wall, 0.75))
    for floor in range(floors):
        low, high = floor * storey + 0.8, (floor + 0.75) * storey + 0.4
        s.side(rectangle(0.3 - half, half - 0.3, low, high), glass)
        s.edge(1, glass, (low / height, high / height), (0.3, 0.7))
    for k in range(1, count):  # the walls between the windows
        x, thick = -half + 2 * half * k / count, wide * half / count
        s.side(rectangle(x - thick, x + thick, 0, height - 0.4), wall, 0.02)


def crate(s: Sketch, half: tuple[float, float, float] | None = None) -> None:
    """A crate or a cabinet without a label; by default 0.3 to 0.9 m, painted like anything else."""
    paint, default = s.pick((s.paint(), s.pick(EARTHS))), s.any(0.2, 0.45)
    x, y, z = half or (default, s.any(0.3, 0.9), default)
    s.box((-x, x), (0, y), (-z, z), paint)
    for low in (0.06 - x, 0.03):
        s.side(rectangle(low, low + x - 0.09, 0.08, y - 0.08), shade(paint, 0.75))


cabinet = partial(crate, half=(0.75, 0.5, 0.25))
cat, dog, bush = partial(animal, cat=True), partial(animal, cat=False), partial(tree, bush=True)
sitter, rider, holder = (partial(person, pose=pose) for pose in ("sit", "ride", "wave"))
