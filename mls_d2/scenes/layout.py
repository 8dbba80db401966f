"""Laying out scenes: which ground, which light, who stands where, and who keeps whose company."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from mls_d2.scenes import buildings, figures, furniture
from mls_d2.scenes.actors import ACTORS, Spot
from mls_d2.scenes.camera import Camera
from mls_d2.scenes.palette import chance, draw_light, pick, varied
from mls_d2.scenes.parts import Colour, Sketch
from mls_d2.scenes.scene import Ground, Item, Scene, Strip

SCENE_KINDS = ("street", "park", "beach")

_KIND_ODDS = (*("street",) * 5, *("park",) * 3, *("beach",) * 3)
_FAR = 500.0
_DEEPEST = 16.0  # metres; nobody is placed further away
_SMALLEST = 16.0  # pixels at an image height of 128; smaller things are not placed

_PAINTS: dict[str, tuple[Colour, ...]] = {
    "road": ((96, 98, 102), (116, 114, 112), (78, 80, 86)),
    "sidewalk": ((168, 162, 154), (184, 172, 156), (148, 150, 152), (172, 140, 122)),
    "grass": ((104, 138, 66), (88, 124, 62), (130, 148, 80)),
    "yard": ((150, 142, 128), (112, 128, 84), (132, 128, 124)),
    "path": ((196, 178, 144), (174, 160, 140), (160, 156, 150)),
    "sand": ((226, 206, 160), (214, 190, 146), (236, 222, 188)),
    "wet sand": ((182, 158, 118), (170, 150, 120)),
    "foam": ((232, 238, 238),),
    "water": ((46, 108, 142), (40, 124, 140), (62, 98, 128), (70, 130, 150)),
    "pond": ((74, 106, 112), (66, 96, 118)),
}

# Who appears on which ground, as relative frequencies.
_CASTS: dict[str, dict[str, dict[str, float]]] = {
    "street": {
        "road": {
            "car": 8, "bus": 6, "truck": 6, "motorcyclist": 8, "cyclist": 2, "pedestrian": 0.4,
        },
        "sidewalk": {
            "pedestrian": 4, "dog walker": 3, "bench": 2, "traffic light": 7, "bicycle": 3,
            "traffic sign": 3, "tree": 1.6, "birds": 0.4, "lamp post": 0.6,
        },
        "grass": {"tree": 3, "bush": 2, "pedestrian": 1, "dog": 1},
    },
    "park": {
        "path": {"pedestrian": 3, "dog walker": 4, "cyclist": 3, "bench": 2.5, "birds": 0.6},
        "grass": {
            "tree": 4, "bush": 1.2, "bench": 4, "dog": 5, "birds": 0.7, "sitter": 1.2,
            "pedestrian": 2, "bicycle": 0.8,
        },
        "pond": {"boat": 3, "birds": 2},
    },
    "beach": {
        "sand": {
            "parasol": 4, "pedestrian": 2.5, "sitter": 1.6, "surfboard": 2.4, "dog": 2.5,
            "birds": 0.8, "palm": 0.9,
        },
        "wet sand": {"pedestrian": 3, "dog": 3, "birds": 1, "surfboard": 1},
        "water": {"boat": 7, "swimmer": 2},
    },
}  # fmt: skip


@dataclass
class _Stage:
    """A scene while it is being filled."""

    rng: np.random.Generator
    name: str
    camera: Camera
    strips: tuple[Strip, ...]
    wet: bool
    items: list[Item] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def strip_at(self, across: float) -> Strip:
        return next(strip for strip in self.strips if across < strip.high)

    def is_free(self, room: tuple[float, float, float, float]) -> bool:
        """Whether a box on the ground, (s, t) and its half extents, overlaps no taken one."""
        s, t, length, width = room
        return all(
            abs(s - other_s) > length + other_length or abs(t - other_t) > width + other_width
            for other_s, other_t, other_length, other_width in self.taken
        )


def compose(rng: np.random.Generator, size: tuple[int, int], kind: str | None = None) -> Scene:
    """Lay out one scene.

    Args:
        rng: where all of the variety comes from.
        size: (width, height) in pixels.
        kind: one of :data:`SCENE_KINDS`; drawn when None.

    Returns:
        The scene, with 3 to about 14 things in it.
    """
    name = kind or pick(rng, _KIND_ODDS)
    light = draw_light(rng)
    strips, camera = _WORLDS[name](rng, size)
    stage = _Stage(rng, name, camera, strips, wet=name == "street" and chance(rng, 0.25))
    if name == "street":
        _add_rows(stage)
    _add_sky_things(stage)
    _fill(stage, int(rng.integers(4, 9)))
    return Scene(
        name=name,
        camera=camera,
        light=light,
        ground=_ground(rng, name, strips),
        items=tuple(sorted(stage.items, key=lambda item: _paint_rank(camera, item))),
        render_seed=int(rng.integers(2**31)),
    )


def _paint_rank(camera: Camera, item: Item) -> tuple[int, float]:
    """Rows behind the sidewalk come first, the rest from far to near."""
    depth = camera.depth_of(item.place[0], item.place[2])
    return (0 if item.kind in ("building", "wall", "fence") else 1), item.layer - depth


def _camera(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    yaw: float,
    across: float,
    eye: tuple[float, float],
) -> Camera:
    width, height = size
    return Camera(
        width=width,
        height=height,
        focal=height * rng.uniform(1.05, 1.55),
        horizon=height * rng.uniform(0.3, 0.48),
        eye=rng.uniform(*eye),
        yaw=yaw,
        across=across,
    )


def _strips(rng: np.random.Generator, *borders: tuple[str, float]) -> tuple[Strip, ...]:
    """Build strips from (kind, upper border) pairs in order of ``t``."""
    strips, low = [], -_FAR
    paints = {kind: varied(rng, pick(rng, _PAINTS[kind])) for kind, _ in borders}
    for kind, high in borders:
        strips.append(Strip(kind, low, high, paints[kind]))
        low = high
    return tuple(strips)


def _street(rng: np.random.Generator, size: tuple[int, int]) -> tuple[tuple[Strip, ...], Camera]:
    road, walk = rng.uniform(6.5, 9.5), rng.uniform(2.2, 4.2)
    if chance(rng, 0.5):  # down the street, between two rows of houses
        verge = "yard"
        yaw, across = rng.normal(0, 0.28), rng.uniform(-0.7 * walk, road)
    else:  # across the street, from open ground
        verge = "grass" if chance(rng, 0.4) else "sidewalk"
        yaw, across = math.pi / 2 + rng.normal(0, 0.3), -walk - rng.uniform(-1.0, 4.0)
    strips = _strips(
        rng,
        (verge, -walk),
        ("sidewalk", 0.0),
        ("road", road),
        ("sidewalk", road + walk),
        ("yard", _FAR),
    )
    return strips, _camera(rng, size, yaw=yaw, across=across, eye=(1.6, 3.6))


def _park(rng: np.random.Generator, size: tuple[int, int]) -> tuple[tuple[Strip, ...], Camera]:
    path = rng.uniform(2.0, 3.6)
    borders = [("grass", 0.0), ("path", path)]
    if chance(rng, 0.45):
        shore = path + rng.uniform(2.5, 6.0)
        borders += [("grass", shore), ("pond", shore + rng.uniform(6.0, 14.0))]
    strips = _strips(rng, *borders, ("grass", _FAR))
    yaw = rng.uniform(-0.3, 1.9)
    across = -rng.uniform(1.0, 5.0) if yaw > 0.7 else rng.uniform(-3.0, path + 1.0)
    return strips, _camera(rng, size, yaw=yaw, across=across, eye=(1.5, 3.0))


def _beach(rng: np.random.Generator, size: tuple[int, int]) -> tuple[tuple[Strip, ...], Camera]:
    wet = rng.uniform(0.8, 2.0)
    strips = _strips(rng, ("sand", -wet), ("wet sand", -0.35), ("foam", 0.0), ("water", _FAR))
    yaw = math.pi / 2 + rng.uniform(-1.1, 1.1)
    return strips, _camera(rng, size, yaw=yaw, across=-rng.uniform(5.0, 11.0), eye=(1.7, 4.0))


_WORLDS = {"street": _street, "park": _park, "beach": _beach}


def _ground(rng: np.random.Generator, name: str, strips: tuple[Strip, ...]) -> Ground:
    road = name == "street" and chance(rng, 0.4)
    options = {
        "street": ("skyline", "hills"),
        "park": ("hills", "hills", "skyline"),
        "beach": (None, "hills"),
    }
    backdrop = pick(rng, options[name])
    steps = np.abs(np.cumsum(rng.normal(0, 2.2, 18)) + 7.0) * rng.uniform(0.5, 1.3)
    if name == "beach":  # a headland on one side of the bay
        steps = steps * np.clip(np.linspace(1.2, -1.0, 18), 0, 1)[:: pick(rng, (1, -1))]
    return Ground(
        strips=strips,
        wobble={"street": 0.0, "park": 0.35, "beach": 0.8}[name],
        phase=rng.uniform(0, 100),
        crossing=rng.uniform(4.0, 14.0) if road else None,
        backdrop=backdrop,
        backdrop_heights=tuple(float(step) for step in steps),
        texture_seed=int(rng.integers(2**31)),
    )


def _add_rows(stage: _Stage) -> None:
    """Line the street with houses, walls and fences with trees behind them."""
    rng, camera = stage.rng, stage.camera
    looks_across = abs(math.sin(camera.yaw)) > 0.6
    far_edge, near_edge = stage.strips[3].high, stage.strips[0].high
    sides = ((far_edge, 1.0),) if looks_across else ((far_edge, 1.0), (near_edge, -1.0))
    for edge, side in sides:
        along = rng.uniform(-6, 0) - (22.0 if looks_across else 0.0)
        while along < (26.0 if looks_across else 75.0):
            length = rng.uniform(6.0, 13.0)
            middle = along + length / 2
            lot = rng.random()
            depth = camera.depth_of(middle, edge)
            if depth > 2.0 or not looks_across:
                _add_lot(stage, lot, middle, length, (edge, side))
            along += length + (rng.uniform(0.5, 4.0) if chance(rng, 0.15) else 0.0)


def _add_lot(
    stage: _Stage, lot: float, middle: float, length: float, row: tuple[float, float]
) -> None:
    rng, (edge, side) = stage.rng, row
    detailed = stage.camera.depth_of(middle, edge) < 48
    heading = math.pi if side > 0 else 0.0
    if lot < 0.78:
        place = (middle, 0.0, edge + side * 4.0)
        parts = buildings.building(rng, length, detailed=detailed)
        stage.items.append(Item("building", parts, place, heading))
        return
    build, kind = (buildings.wall, "wall") if lot < 0.88 else (buildings.fence, "fence")
    place = (middle, 0.0, edge + side * 0.3)
    spot = Spot(rng, stage.camera, middle, edge + side * rng.uniform(2.0, 4.0), stage.strips[0])
    if stage.camera.depth_of(spot.along, spot.across) > 2.0:
        stage.items += ACTORS["tree"].make(spot)
    stage.items.append(Item(kind, build(rng, length), place, heading))


def _add_sky_things(stage: _Stage) -> None:
    """Fly birds over all scenes, and kites over parks and beaches."""
    rng = stage.rng
    odds = {"street": (0.0, 0.15), "park": (0.3, 0.15), "beach": (0.3, 0.2)}[stage.name]
    if chance(rng, odds[0]):
        for _ in range(int(rng.integers(1, 3))):
            stage.items.append(_flying(stage, "kite", furniture.kite(rng), rng.uniform(8, 20)))
    if chance(rng, odds[1]):
        for _ in range(int(rng.integers(1, 4))):
            stage.items.append(
                _flying(stage, "bird", figures.bird(rng, flying=True), rng.uniform(6, 14))
            )


def _flying(stage: _Stage, kind: str, parts: list, depth: float) -> Item:
    rng, camera = stage.rng, stage.camera
    v = rng.uniform(0.08, 0.9) * camera.horizon
    up = camera.eye + (camera.horizon - v) * depth / camera.focal
    along, _, across = camera.world_at(rng.uniform(0.05, 0.95) * camera.width, depth)
    if kind == "kite":
        string = Sketch()
        pull = rng.uniform(-3, 3)
        string.polygon([(0, 0), (pull, -up), (pull + 0.008, -up)], (225, 225, 225), masked=False)
        parts = string.parts + parts
    return Item(kind, parts, (along, up, across), camera.facing_angle())


def _fill(stage: _Stage, wanted: int) -> None:
    """Place groups on the ground that is in view, near ones larger, without two in one place."""
    rng, camera = stage.rng, stage.camera
    near = camera.nearest_ground
    for _ in range(wanted * 4):
        if wanted == 0:
            return
        depth = near * math.exp(rng.uniform(0.05, math.log(_DEEPEST / near)))
        column = rng.uniform(0.04, 0.96) * camera.width
        along, _, across = camera.world_at(column, depth)
        strip = stage.strip_at(across)
        cast = _CASTS[stage.name].get(strip.kind)
        if cast is None:
            continue
        name = _draw_name(rng, cast)
        if depth < ACTORS[name].nearest:  # too large for here: another try further away
            depth = rng.uniform(ACTORS[name].nearest, _DEEPEST)
            along, _, across = camera.world_at(column, depth)
            if stage.strip_at(across) is not strip:
                continue
        wanted -= _place(stage, name, Spot(rng, camera, along, across, strip, stage.wet))


def _draw_name(rng: np.random.Generator, cast: dict[str, float]) -> str:
    share = np.cumsum(tuple(cast.values()))
    return tuple(cast)[int(np.searchsorted(share, rng.random() * share[-1]))]


def _place(stage: _Stage, name: str, spot: Spot) -> int:
    """Place a group if it fits there; return how many were placed."""
    actor, camera, strip = ACTORS[name], stage.camera, spot.strip
    if actor.lane is not None:  # to the middle of the nearer lane
        lane = 0.25 if spot.across < (strip.low + strip.high) / 2 else 0.75
        spot = replace(spot, across=strip.low + lane * (strip.high - strip.low))
    depth = camera.depth_of(spot.along, spot.across)
    pixels = actor.height * camera.focal / depth * 128 / camera.height
    if depth < 0.75 * actor.nearest or pixels < _SMALLEST:
        return 0
    aground = name == "boat" and spot.across < strip.low + actor.radius
    room = (spot.along, spot.across, actor.radius, actor.lane or actor.radius)
    if aground or not stage.is_free(room):
        return 0
    stage.taken.append(room)
    stage.items += actor.make(spot)
    return 1
