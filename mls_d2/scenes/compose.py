"""Where things stand: types of scenes, their grounds, and who appears there in whose company."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from mls_d2.scenes import recipes as draw
from mls_d2.scenes.render import Camera, Item, Light, Scene, Strip
from mls_d2.scenes.sketch import Colour, Sketch

DrawObject = Callable[[Sketch], None]
Place = tuple[float, float, float]

SCENE_ODDS = {"street": 0.4, "park": 0.2, "room": 0.27, "beach": 0.13}

# Per ground its colours, and the contrast of its texture.
_GROUNDS: dict[str, tuple[tuple[Colour, ...], float]] = {
    "road": (((96, 98, 102), (116, 114, 112), (78, 80, 86)), 0.03),
    "sidewalk": (((168, 162, 154), (184, 172, 156), (148, 150, 152), (172, 140, 122)), 0.04),
    "grass": (((104, 138, 66), (88, 124, 62), (130, 148, 80)), 0.1),
    "yard": (((150, 142, 128), (112, 128, 84), (132, 128, 124)), 0.06),
    "path": (((196, 178, 144), (174, 160, 140), (160, 156, 150)), 0.06),
    "sand": (((226, 206, 160), (214, 190, 146), (236, 222, 188)), 0.05),
    "water": (((46, 108, 142), (40, 124, 140), (62, 98, 128), (90, 130, 140)), 0.09),
    "floor": (((150, 110, 74), (186, 150, 110), (120, 96, 84), (190, 186, 178)), 0.05),
    "wall": (((222, 214, 196), (196, 206, 200), (206, 186, 170), (160, 176, 190)), 0.02),
}

# Colours of the sky overhead and at the horizon, tint, and share of directed light.
_SKIES: tuple[tuple[Colour, Colour, Colour, float], ...] = (
    ((64, 118, 196), (182, 208, 230), (1.0, 1.0, 0.98), 0.45),
    ((80, 130, 200), (196, 214, 226), (1.0, 1.0, 0.98), 0.4),
    ((158, 166, 176), (202, 206, 210), (0.9, 0.92, 0.96), 0.2),
    ((92, 110, 160), (244, 186, 128), (1.04, 0.9, 0.74), 0.5),
    ((60, 68, 108), (168, 126, 132), (0.74, 0.76, 0.88), 0.25),
)


class Mate(NamedTuple):
    """Company of a role: an object beside it, on it, or below it."""

    kind: str
    recipe: DrawObject
    odds: float = 1.0
    at: Place = (0.0, 0.0, 0.0)  # in the role's frame, metres
    turn: float | None = 0.0  # heading relative to the role's, radians; None: to the camera
    layer: float = 0.05  # when it is painted, see Item


class Role(NamedTuple):
    """An object, where it is placed, and how often."""

    kind: str
    recipe: DrawObject
    grounds: str  # names of strips
    odds: tuple[float, ...]  # relative frequency in streets, parks, rooms and on beaches
    height: float  # metres
    pixels: float  # its least height in an image of 128 rows; the most is twice as much
    radius: float  # metres; two roles keep the sum apart
    heading: str = "flat"  # flat: to the camera, side, front: within 0.8 radians, any, or lane
    mates: tuple[Mate, ...] = ()
    up: float = 0.0  # metres above the ground


_WALKS = "sidewalk path grass sand"
_LEASH = (Mate("dog", draw.dog, 1.0, (0.9, 0, 0.1), None),)
_HELD = (Mate("umbrella", partial(draw.umbrella, held=True), 1.0, (0.1, 0.95, 0), None),)
_SEATED = tuple(Mate("person", draw.sitter, 0.3, (x, 0, 0.1)) for x in (-0.4, 0.4))
_LOUNGE = (_SEATED[0], Mate("cat", draw.cat, 0.25, (0.4, 0.5, 0.1)))
_POST = (Mate("pole", partial(draw.pole, height=2.1), 1.0, (0, -2, 0), None, -0.05),)
_STAND = (Mate("clutter", draw.cabinet, 1.0, (0, -0.5, 0), 0.0, -0.05),)
_BIKER = (Mate("rider", draw.rider, 0.6, (-0.1, -0.05, 0)),)
_CYCLIST = (Mate("rider", draw.rider, 0.4),)

LABELLED = (
    Role("person", draw.person, _WALKS + " floor", (1, 1, 0.8, 1.2), 1.7, 30, 0.4),
    Role("person", draw.person, _WALKS, (0.4, 1, 0, 0.4), 1.7, 34, 0.9, "flat", _LEASH),
    Role("person", draw.holder, _WALKS, (0.5, 0.7, 0, 0), 1.7, 31, 0.5, "flat", _HELD),
    Role("dog", draw.dog, _WALKS + " floor", (0, 2, 0.6, 1.2), 0.8, 20, 0.5),
    Role("cat", draw.cat, "grass sidewalk floor", (0.3, 1.2, 1.8, 0), 0.55, 19, 0.4),
    Role("car", draw.car, "road", (3, 0, 0, 0), 1.5, 16, 2.4, "lane"),
    Role("bus", draw.bus, "road", (2.8, 0, 0, 0), 3.1, 24, 5.2, "lane"),
    Role("truck", draw.truck, "road", (2.4, 0, 0, 0), 3.0, 25, 3.9, "lane"),
    Role("motorcycle", draw.motorcycle, "road", (2.2, 0, 0, 0), 1.1, 20, 1.0, "side", _BIKER),
    Role("bicycle", draw.bicycle, _WALKS, (1.6, 1.4, 0, 0), 1.0, 19, 0.9, "side", _CYCLIST),
    Role("traffic light", draw.light, "sidewalk", (3.2, 0, 0, 0), 1.2, 22, 0.3, "front", _POST, 2),
    Role("bench", draw.bench, "sidewalk grass", (0.4, 3.4, 0, 0), 0.95, 20, 0.9, "front", _SEATED),
    Role("boat", draw.boat, "water", (0, 1.4, 0, 3.2), 3.0, 22, 2.8, "side"),
    Role("umbrella", draw.umbrella, "sand grass", (0, 0.5, 0, 3), 2.3, 34, 1.2),
    Role("chair", draw.chair, "floor", (0, 0, 2.8, 0), 1.0, 30, 0.5, "any"),
    Role("couch", draw.couch, "floor", (0, 0, 4.6, 0), 0.88, 21, 0.9, "front", _LOUNGE),
    Role("potted plant", draw.potted_plant, "floor", (0, 0, 2.8, 0), 1.1, 31, 0.4),
    Role("tv", draw.tv, "floor", (0, 0, 3, 0), 0.75, 23, 0.7, "front", _STAND, 0.5),
)
UNLABELLED = (
    Role("tree", draw.tree, "grass yard sidewalk", (2, 3, 0, 0), 5.0, 60, 0.8),
    Role("tree", draw.bush, "grass yard", (1, 2, 0, 0), 1.0, 18, 0.7),
    Role("pole", draw.pole, "sidewalk", (2, 0, 0, 0), 5.0, 65, 0.3),
    Role("clutter", draw.crate, _WALKS + " floor", (1, 1, 1, 1), 0.7, 14, 0.5, "any"),
)


def compose(rng: np.random.Generator, size: tuple[int, int], name: str | None = None) -> Scene:
    """Draw a scene of ``size`` (width, height), of type ``name`` or one drawn by SCENE_ODDS."""
    s = Sketch(rng)
    name = name or str(rng.choice(list(SCENE_ODDS), p=list(SCENE_ODDS.values())))
    stage, column = _Stage(s, empty_scene(s, name, size)), list(SCENE_ODDS).index(name)
    if name == "street":
        stage.add_houses()
    for cast, wanted in ((LABELLED, s.pick((3, 4, 4, 5))), (UNLABELLED, s.pick((1, 1, 2)))):
        odds = np.array([role.odds[column] for role in cast])
        for number in rng.choice(len(cast), 4 * wanted, p=odds / odds.sum()):
            wanted -= wanted > 0 and stage.place(cast[number])
    return stage.scene._replace(items=tuple(stage.items), seed=int(rng.integers(2**31)))


def empty_scene(s: Sketch, name: str, size: tuple[int, int]) -> Scene:
    """Draw camera, light and ground of a scene without items."""
    angle, near = math.pi / 2 + s.any(-0.6, 0.6), s.any(1.0, 6.0)
    wobble = {"park": 0.35, "beach": 0.8}.get(name, 0.0)
    walls: tuple[tuple[float, float], ...] = ()
    if name == "street":
        road, walk = s.any(7.0, 10.0), s.any(2.2, 4.0)
        if s.chance(0.5):  # down the street instead of across it
            angle, near = s.any(-0.25, 0.25), s.any(-road, walk)
        borders = [("yard", near - walk), ("sidewalk", near), ("road", near + road)]
        borders += [("sidewalk", near + road + walk), ("yard", math.inf)]
    elif name == "park":
        far = near + s.any(2.0, 3.6)
        borders = [("grass", near), ("path", far), ("grass", far + s.any(2, 6))]
        borders += [("water", far + s.any(12, 18))] if s.chance(0.5) else []
        borders += [("grass", math.inf)]
    elif name == "beach":
        borders = [("sand", near + 4), ("water", math.inf)]
    else:
        angle, far = math.pi / 2, s.any(4.0, 6.0)
        borders = [("floor", far), ("wall", math.inf)]
        # The back wall, and a side wall to the right or to the left.
        walls = ((angle + s.any(-0.25, 0.25), far), (s.pick((0.0, math.pi)), s.any(0.8, 3.0)))
    paints = {kind: s.like(s.pick(_GROUNDS[kind][0])) for kind, _ in borders}
    strips = tuple(Strip(kind, high, paints[kind], _GROUNDS[kind][1]) for kind, high in borders)
    (width, height), indoors = size, name == "room"
    horizon = s.any(0.12, 0.34) if indoors else s.any(0.28, 0.46)
    eye = s.any(1.2, 1.7) if indoors else s.any(1.6, 3.0)
    focal, centre = height * s.any(1.05, 1.5), width * s.any(0.3, 0.7)
    camera = Camera(width, height, focal, height * horizon, centre, eye)
    steps = np.abs(np.cumsum(s.rng.normal(0, 0.07, 18)) + 0.2) * s.any(0.5, 1.3)
    ridge = ("skyline" if name == "street" or s.chance(0.2) else "hills", tuple(steps.tolist()))
    return Scene(name, camera, _light(s, indoors), strips, angle, wobble, walls, ridge, (), 0)


def _light(s: Sketch, indoors: bool) -> Light:
    top, low, (red, green, blue), sun = s.pick(_SKIES)
    if indoors:
        low, (red, green, blue) = (235, 225, 205), (1.0, 0.97, 0.92)
    warmth, gain, turn = s.any(-0.1, 0.1), s.any(0.88, 1.12), s.any(-1.2, 1.2)
    tint = (red * gain * (1 + warmth), green * gain, blue * gain * (1 - warmth))
    toward = (0.8 * math.sin(turn), 0.6, -0.8 * math.cos(turn))
    shadow, clouds = 0.2 + 0.5 * sun * s.any(0.5, 1.2), s.any(0.1, 0.8)
    sky = (s.like(top), s.like(low, 8))
    return Light(tint, sun * s.any(0.7, 1.2), toward, sky, shadow, clouds)


class _Stage:
    """A scene while it is filled; ``taken`` holds (x, z, radius) of what stands."""

    def __init__(self, s: Sketch, scene: Scene) -> None:
        self.s, self.scene = s, scene
        self.items: list[Item] = []
        self.taken: list[Place] = []

    def add(self, it: Role | Mate, at: Place, heading: float, reach: float, layer: float) -> None:
        sketch = Sketch(self.s.rng)
        it.recipe(sketch)
        self.items.append(Item(it.kind, sketch.parts, at, heading, reach, layer))

    def turned(self, a: float, b: float, sign: float = 1.0) -> tuple[float, float]:
        """Turn (across, along) the strips into (x, z); with ``sign`` -1 the other way round."""
        cos, sin = math.cos(self.scene.angle), sign * math.sin(self.scene.angle)
        return a * cos - b * sin, a * sin + b * cos

    def place(self, role: Role) -> bool:
        """Place a role and its mates if its ground is in view and has room."""
        spot = next(filter(None, (self._draw_spot(role) for _ in range(20))), None)
        if spot is None:
            return False
        x, z, heading = spot
        self.taken.append((x, z, role.radius))
        self.add(role, (x, role.up, z), heading, 0.8 * role.radius, 0.0)
        cos, sin = math.cos(heading), math.sin(heading)
        for mate in role.mates:
            if self.s.chance(mate.odds):
                dx, dy, dz = mate.at
                place = (x + dx * cos + dz * sin, role.up + dy, z + dx * sin - dz * cos)
                turn = 0.0 if mate.turn is None else heading + mate.turn
                self.add(mate, place, turn, 0.3, mate.layer)
        return True

    def _draw_spot(self, role: Role) -> Place | None:
        """Draw a position and a heading (x, z, radians); None if the role cannot stand there."""
        s, camera, strips = self.s, self.scene.camera, self.scene.strips
        # Pixels per metre.
        scale = role.pixels * 2.0 ** s.any(0, 1) * camera.height / 128 / role.height
        x, z = (s.any(0.05, 0.95) * camera.width - camera.centre) / scale, camera.focal / scale
        across, along = self.turned(x, z, -1.0)
        number = next(k for k, strip in enumerate(strips) if across < strip.high)
        foot = camera.horizon + camera.eye * scale
        if strips[number].kind not in role.grounds.split() or foot > 1.03 * camera.height:
            return None
        spread = {"flat": 0.2, "side": 0.7, "front": 0.8}.get(role.heading, math.pi)
        heading = s.any(-spread, spread) + (s.pick((0, math.pi)) if role.heading == "side" else 0)
        if role.heading == "lane":
            lane, below = s.pick((0.27, 0.73)), strips[number - 1].high
            x, z = self.turned(below + lane * (strips[number].high - below), along)
            heading = self.scene.angle + math.pi * (0.5 if lane > 0.5 else 1.5)
        half = 0.8 * role.radius
        walls = (x * math.cos(a) + z * math.sin(a) < d - half for a, d in self.scene.walls)
        apart = (math.hypot(x - u, z - w) > half + 0.8 * r for u, w, r in self.taken)
        nearest = max(0.7 * camera.focal / scale, role.radius + 1)
        return (x, z, heading) if z > nearest and all(walls) and all(apart) else None

    def add_houses(self) -> None:
        """Line the far side of the street, and the near side if the view is along it."""
        scene, house = self.scene, Mate("building", draw.building)
        sides = [(scene.strips[3].high + 4.0, 0.0), (scene.strips[0].high - 4.0, math.pi)]
        for across, flip in sides[: 2 if abs(math.sin(scene.angle)) < 0.5 else 1]:
            along = -30.0
            while along < 70.0:
                along += self.s.any(9.0, 13.0)
                x, z = self.turned(across, along)
                if z > 3.0 and abs(x) < z + 12:
                    self.add(house, (x, 0.0, z), scene.angle - math.pi / 2 + flip, 0.0, -5.0)
