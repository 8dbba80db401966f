"""Where things stand: types of scenes, their grounds, and who appears there in whose company."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from mls_d2.scenes import recipes as draw
from mls_d2.scenes.render import Camera, Item, Light, Scene, Strip
from mls_d2.scenes.sketch import Colour, Sketch

Recipe = Callable[[Sketch], None]
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
    recipe: Recipe
    odds: float = 1.0
    at: Place = (0.0, 0.0, 0.0)  # in the role's frame, metres
    turn: float | None = 0.0  # heading relative to the role's, radians; None: to the camera
    layer: float = 0.05  # when it is painted, see Item


class Role(NamedTuple):
    """An object, and where it is placed."""

    kind: str
    recipe: Recipe
    grounds: str  # names of strips
    height: float  # metres, of what ``pixels`` bounds
    pixels: tuple[float, float]  # its height in an image of 128 rows
    radius: float  # metres; two roles keep the sum apart
    heading: str = "flat"  # flat: to the camera, side, front: within 0.8 radians, any, or lane
    mates: tuple[Mate, ...] = ()
    up: float = 0.0  # metres above the ground


_WALKS = "sidewalk path grass sand"
_LEASH = Mate("dog", draw.dog, 1.0, (0.9, 0, 0.1), None)
_HELD = Mate("umbrella", partial(draw.umbrella, held=True), 1.0, (0.1, 0.95, 0), None)
_SEATED = tuple(Mate("person", draw.sitter, 0.3, (x, 0, 0.1)) for x in (-0.4, 0.4))
_LOUNGER = Mate("cat", draw.cat, 0.25, (0.4, 0.5, 0.1))
_POST = Mate("pole", partial(draw.pole, height=2.1), 1.0, (0, -2, 0), None, -0.05)
_STAND = Mate("clutter", partial(draw.crate, half=(0.75, 0.5, 0.25)), 1.0, (0, -0.5, 0), 0, -0.05)
_BIKER = Mate("rider", draw.rider, 0.6, (-0.1, -0.05, 0))
_CYCLIST = Mate("rider", draw.rider, 0.4)

ROLES = {
    "person": Role("person", draw.person, _WALKS + " floor", 1.7, (28, 66), 0.4),
    "walker": Role("person", draw.person, _WALKS, 1.7, (34, 66), 0.9, mates=(_LEASH,)),
    "rain": Role("person", draw.holder, _WALKS, 1.7, (32, 62), 0.5, mates=(_HELD,)),
    "dog": Role("dog", draw.dog, _WALKS + " floor", 0.8, (20, 42), 0.5),
    "cat": Role("cat", draw.cat, "grass sidewalk floor", 0.55, (19, 38), 0.4),
    "car": Role("car", draw.car, "road", 1.5, (15, 36), 2.4, "lane"),
    "bus": Role("bus", draw.bus, "road", 3.1, (26, 46), 5.2, "lane"),
    "truck": Role("truck", draw.truck, "road", 3.0, (26, 48), 3.9, "lane"),
    "motorcycle": Role(
        "motorcycle", draw.motorcycle, "road sidewalk", 1.1, (20, 40), 1.0, "side", (_BIKER,)
    ),
    "bicycle": Role(
        "bicycle", draw.bicycle, "road " + _WALKS, 1.0, (20, 38), 0.9, "side", (_CYCLIST,)
    ),
    "light": Role(
        "traffic light", draw.traffic_light, "sidewalk", 1.2, (22, 44), 0.3, "front", (_POST,), 2.0
    ),
    "bench": Role(
        "bench", draw.bench, "sidewalk path grass", 0.95, (20, 38), 0.9, "front", _SEATED
    ),
    "boat": Role("boat", draw.boat, "water", 3.0, (18, 50), 2.8, "side"),
    "parasol": Role("umbrella", draw.umbrella, "sand grass", 2.3, (34, 68), 1.2),
    "chair": Role("chair", draw.chair, "floor", 1.0, (30, 58), 0.5, "any"),
    "couch": Role(
        "couch", draw.couch, "floor", 0.88, (22, 40), 0.9, "front", (_SEATED[0], _LOUNGER)
    ),
    "plant": Role("potted plant", draw.potted_plant, "floor", 1.1, (30, 62), 0.4),
    "tv": Role("tv", draw.tv, "floor", 0.75, (24, 42), 0.7, "front", (_STAND,), 0.5),
    "tree": Role("tree", draw.tree, "grass yard sidewalk", 5.0, (40, 150), 0.8),
    "bush": Role("tree", draw.bush, "grass yard", 1.0, (16, 44), 0.7),
    "lamp": Role("pole", draw.pole, "sidewalk", 5.0, (50, 150), 0.3),
    "crate": Role("clutter", draw.crate, _WALKS + " floor", 0.7, (12, 36), 0.5, "any"),
}

# Per type of scene the relative frequencies of labelled roles, and of the others.
CASTS: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "street": (
        {"car": 3, "bus": 2.6, "truck": 2, "motorcycle": 2.6, "bicycle": 2, "person": 1, "light": 2.6,
         "walker": 0.4, "rain": 0.5, "bench": 0.4, "cat": 0.3},
        {"tree": 2, "lamp": 2, "crate": 1, "bush": 1},
    ),
    "park": (
        {"person": 1, "walker": 1, "rain": 0.7, "dog": 2, "cat": 1.2, "bicycle": 1.6, "bench": 3.6,
         "boat": 1.4, "parasol": 0.5},
        {"tree": 3, "bush": 2, "crate": 1},
    ),
    "room": (
        {"person": 0.8, "cat": 1.8, "dog": 0.6, "chair": 2.8, "couch": 4, "plant": 2.6, "tv": 3},
        {"crate": 1},
    ),
    "beach": (
        {"boat": 3.4, "parasol": 3.2, "person": 1.2, "walker": 0.4, "dog": 1.2},
        {"crate": 1},
    ),
}  # fmt: skip


def compose(rng: np.random.Generator, size: tuple[int, int], name: str | None = None) -> Scene:
    """Draw one scene.

    Args:
        rng: source of all variety.
        size: (width, height) in pixels.
        name: type of the scene, a key of :data:`CASTS`; drawn if None.
    """
    s = Sketch(rng)
    name = name or str(rng.choice(list(SCENE_ODDS), p=list(SCENE_ODDS.values())))
    stage = _Stage(s, empty_scene(s, name, size))
    if name == "street":
        stage.add_houses()
    for cast, wanted in zip(CASTS[name], (s.pick((3, 4, 4, 5)), s.pick((1, 1, 2))), strict=True):
        weights = np.array(list(cast.values()))
        for role in rng.choice(list(cast), 4 * wanted, p=weights / weights.sum()):
            wanted -= stage.place(ROLES[str(role)])
            if wanted == 0:
                break
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
    horizon, eye = (
        (s.any(0.12, 0.34), s.any(1.2, 1.7)) if indoors else (s.any(0.28, 0.46), s.any(1.6, 3))
    )
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
    shadow = 0.2 + 0.5 * sun * s.any(0.5, 1.2)
    return Light(
        tint, sun * s.any(0.7, 1.2), toward, (s.like(top), s.like(low, 8)), shadow, s.any(0.1, 0.8)
    )


class _Stage:
    """A scene while it is filled; ``taken`` holds (x, z, radius) of what stands."""

    def __init__(self, s: Sketch, scene: Scene) -> None:
        self.s, self.scene = s, scene
        self.items: list[Item] = []
        self.taken: list[Place] = []

    def add(
        self, thing: Role | Mate, place: Place, heading: float, reach: float, layer: float
    ) -> None:
        sketch = Sketch(self.s.rng)
        thing.recipe(sketch)
        self.items.append(Item(thing.kind, sketch.parts, place, heading, reach, layer))

    def turned(self, a: float, b: float, sign: float = 1.0) -> tuple[float, float]:
        """Turn (across, along) the strips into (x, z); with ``sign`` -1 the other way round."""
        cos, sin = math.cos(self.scene.angle), sign * math.sin(self.scene.angle)
        return a * cos - b * sin, a * sin + b * cos

    def place(self, role: Role) -> bool:
        """Place a role and its mates if its ground is in view and has room."""
        for _ in range(20):
            spot = self._draw_spot(role)
            if spot is None:
                continue
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
        return False

    def _draw_spot(self, role: Role) -> Place | None:
        """Draw a position and a heading (x, z, radians); None if the role cannot stand there."""
        s, camera, strips = self.s, self.scene.camera, self.scene.strips
        low, high = (math.log(size * camera.height / 128 / role.height) for size in role.pixels)
        scale = math.exp(s.any(low, high))  # pixels per metre
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
        walls = (
            x * math.cos(a) + z * math.sin(a) < d - 0.8 * role.radius for a, d in self.scene.walls
        )
        apart = (math.hypot(x - u, z - w) > 0.8 * (role.radius + r) for u, w, r in self.taken)
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
