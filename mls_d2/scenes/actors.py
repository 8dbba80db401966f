"""Who and what appears in scenes: each function stands one group of objects on a spot of ground."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mls_d2.scenes import boats, figures, furniture, plants, two_wheelers, vehicles
from mls_d2.scenes.camera import Camera
from mls_d2.scenes.palette import chance, pick
from mls_d2.scenes.parts import Part, moved
from mls_d2.scenes.scene import Item, Strip


@dataclass(frozen=True, slots=True)
class Spot:
    """A place on the ground, and what a group needs to know to stand there.

    Args:
        rng: where the variety comes from.
        camera: the camera; flat figures turn to it.
        along: ``s`` in metres.
        across: ``t`` in metres.
        strip: the ground there.
        wet: whether it rains, so that people carry umbrellas.
    """

    rng: np.random.Generator
    camera: Camera
    along: float
    across: float
    strip: Strip
    wet: bool = False

    def item(
        self,
        kind: str,
        parts: list[Part],
        *,
        reach: float,
        dx: float = 0.0,
        turn: float = 0.0,
        layer: float = 0.0,
    ) -> Item:
        """Return a flat figure here that faces the camera, less ``turn`` radians.

        Args:
            kind: what it is.
            parts: what it is drawn from.
            reach: radius in metres of its shadow; 0 for none.
            dx: how far to the right of this spot it stands, in metres.
            turn: how far it is turned away from the camera, in radians.
            layer: the higher, the later it is drawn of those in one place.
        """
        facing = self.camera.facing_angle()
        place = (self.along + dx * math.cos(facing), 0.0, self.across + dx * math.sin(facing))
        return Item(kind, parts, place, facing + turn, reach=reach, layer=layer)


def _side_view(rng: np.random.Generator) -> float:
    """Return a turn, heading left or right, at which a flat figure still shows its side."""
    return rng.uniform(-0.75, 0.75) + (math.pi if chance(rng, 0.5) else 0.0)


def pedestrian(spot: Spot) -> list[Item]:
    """A person who stands, walks or runs; in the rain often under an umbrella."""
    rng = spot.rng
    beach = spot.strip.kind in ("sand", "wet sand")
    looks = figures.draw_looks(rng, beach=beach)
    if chance(rng, 0.75 if spot.wet else 0.02):
        items = [spot.item("person", figures.person(rng, looks, "hold"), reach=0.3)]
        umbrella = moved(
            furniture.umbrella(rng, parasol=False), shift=(rng.uniform(-0.15, 0.15), 1.05)
        )
        return [*items, spot.item("umbrella", umbrella, reach=0, layer=0.2)]
    pose = pick(rng, ("stand", "walk", "walk", "run", "hold"))
    return [spot.item("person", figures.person(rng, looks, pose), reach=0.3)]


def dog_walker(spot: Spot) -> list[Item]:
    """A person with a dog at the side."""
    side = pick(spot.rng, (-1.0, 1.0)) * spot.rng.uniform(0.7, 1.1)
    dog = spot.item("dog", figures.dog(spot.rng), reach=0.4, dx=side, layer=0.1)
    return [*pedestrian(spot), dog]


def stray_dog(spot: Spot) -> list[Item]:
    """A dog alone."""
    return [spot.item("dog", figures.dog(spot.rng), reach=0.4)]


def birds(spot: Spot) -> list[Item]:
    """One to three birds on the ground or on the water."""
    count = int(spot.rng.integers(1, 4))
    offsets = spot.rng.uniform(-0.9, 0.9) + 0.8 * np.arange(count)
    return [
        spot.item("bird", figures.bird(spot.rng, flying=False), reach=0.15, dx=float(dx))
        for dx in offsets
    ]


def sitter_on_grass(spot: Spot) -> list[Item]:
    """A person who lies on a meadow or on the sand."""
    looks = figures.draw_looks(spot.rng, beach=spot.strip.kind == "sand")
    return [spot.item("person", figures.person(spot.rng, looks, "lie"), reach=0.6)]


def bench(spot: Spot) -> list[Item]:
    """A bench, often with one or two people on it."""
    rng, turn = spot.rng, spot.rng.uniform(-0.5, 0.5)
    items = [spot.item("bench", furniture.bench(rng), reach=0.8, turn=turn)]
    for dx in (-0.4, 0.4):
        if chance(rng, 0.35):
            sitting = figures.person(rng, figures.draw_looks(rng), "sit")
            items.append(spot.item("person", sitting, reach=0, dx=dx * math.cos(turn), layer=0.1))
    return items


def cyclist(spot: Spot) -> list[Item]:
    """A bicycle with its rider."""
    return _rider_on(spot, "bicycle", two_wheelers.bicycle(spot.rng), 0.92)


def motorcyclist(spot: Spot) -> list[Item]:
    """A motorcycle, mostly with its rider."""
    machine = two_wheelers.motorcycle(spot.rng)
    if chance(spot.rng, 0.3):
        return [spot.item("motorcycle", machine, reach=0.8, turn=_side_view(spot.rng))]
    return _rider_on(spot, "motorcycle", machine, 0.86)


def _rider_on(spot: Spot, kind: str, machine: list[Part], saddle: float) -> list[Item]:
    rng, turn = spot.rng, _side_view(spot.rng)
    rider = figures.person(rng, figures.draw_looks(rng), "ride")
    rider = moved(rider, shift=(-0.24, saddle - 0.92))
    return [
        spot.item(kind, machine, reach=0.8, turn=turn),
        spot.item("rider", rider, reach=0, turn=turn, layer=0.1),
    ]


def parked_bicycle(spot: Spot) -> list[Item]:
    """A bicycle alone."""
    return [
        spot.item("bicycle", two_wheelers.bicycle(spot.rng), reach=0.8, turn=_side_view(spot.rng))
    ]


def _driving(spot: Spot, kind: str, build: Callable[..., list[Part]], reach: float) -> list[Item]:
    """Stand a solid vehicle in its lane, heading with the traffic; some turn off."""
    rng, strip = spot.rng, spot.strip
    far_lane = spot.across > (strip.low + strip.high) / 2
    heading = math.pi if far_lane else 0.0
    if chance(rng, 0.15):
        heading += rng.uniform(-1.2, 1.2)
    heading += rng.normal(0, 0.04)
    ahead = spot.camera.yaw - heading
    parts = build(rng, toward=math.cos(ahead) < 0) if kind == "truck" else build(rng)
    return [Item(kind, parts, (spot.along, 0.0, spot.across), heading, reach=reach)]


def car(spot: Spot) -> list[Item]:
    """A car in its lane."""
    return _driving(spot, "car", vehicles.car, 2.0)


def bus(spot: Spot) -> list[Item]:
    """A bus in its lane."""
    return _driving(spot, "bus", vehicles.bus, 4.2)


def truck(spot: Spot) -> list[Item]:
    """A truck in its lane."""
    return _driving(spot, "truck", vehicles.truck, 3.0)


def boat(spot: Spot) -> list[Item]:
    """A boat on the water."""
    parts = boats.boat(spot.rng, sea=spot.strip.kind == "water")
    return [spot.item("boat", parts, reach=1.5, turn=spot.rng.uniform(-0.7, 0.7))]


def swimmer(spot: Spot) -> list[Item]:
    """A person in the water, of whom head and shoulders are seen."""
    looks = figures.draw_looks(spot.rng, beach=True)
    return [spot.item("person", figures.person(spot.rng, looks, "swim"), reach=0.3)]


def traffic_light(spot: Spot) -> list[Item]:
    """A traffic light on its pole; the pole is a thing of its own, as in the label spaces."""
    base = spot.rng.uniform(1.9, 2.6)
    return [
        spot.item("pole", furniture.pole(base + 0.2), reach=0.1),
        spot.item("traffic light", furniture.traffic_light(spot.rng, base), reach=0, layer=0.05),
    ]


def traffic_sign(spot: Spot) -> list[Item]:
    """A traffic sign on its pole."""
    base = spot.rng.uniform(1.5, 1.9)
    return [
        spot.item("pole", furniture.pole(base + 0.2, width=0.07), reach=0.1),
        spot.item("traffic sign", furniture.traffic_sign(spot.rng, base), reach=0, layer=0.05),
    ]


def parasol(spot: Spot) -> list[Item]:
    """A parasol planted in the sand, often with somebody below it."""
    items = [spot.item("umbrella", furniture.umbrella(spot.rng, parasol=True), reach=1.0)]
    if chance(spot.rng, 0.5):
        looks = figures.draw_looks(spot.rng, beach=True)
        pose = pick(spot.rng, ("lie", "stand"))
        guest = figures.person(spot.rng, looks, pose)
        items.append(spot.item("person", guest, reach=0, dx=spot.rng.uniform(-0.8, 0.8), layer=0.1))
    return items


def surfboard(spot: Spot) -> list[Item]:
    """A surfboard in the sand, sometimes with its owner."""
    items = [spot.item("surfboard", furniture.surfboard(spot.rng), reach=0.3)]
    if chance(spot.rng, 0.4):
        looks = figures.draw_looks(spot.rng, beach=True)
        items.append(
            spot.item("person", figures.person(spot.rng, looks, "stand"), reach=0.3, dx=0.7)
        )
    return items


def tree(spot: Spot) -> list[Item]:
    """A tree."""
    return [spot.item("tree", plants.tree(spot.rng), reach=1.6)]


def palm(spot: Spot) -> list[Item]:
    """A palm."""
    return [spot.item("tree", plants.palm(spot.rng), reach=1.0)]


def bush(spot: Spot) -> list[Item]:
    """A bush."""
    return [spot.item("tree", plants.bush(spot.rng), reach=0.8)]


def lamp_post(spot: Spot) -> list[Item]:
    """A street lamp."""
    return [spot.item("pole", furniture.lamp_post(spot.rng), reach=0.2)]


@dataclass(frozen=True, slots=True)
class Actor:
    """A group that can be placed: how it is made, its room, and how near it may come.

    Args:
        make: stands the group on a spot.
        radius: ground kept free around it, in metres.
        height: of its smallest thing, in metres; decides how far away it can still be seen.
        nearest: depth in metres before which it would not fit into the image.
        lane: half its width in metres where it keeps to a lane of its strip; None where it stands
            anywhere.
    """

    make: Callable[[Spot], list[Item]]
    radius: float
    height: float
    nearest: float
    lane: float | None = None


ACTORS: dict[str, Actor] = {
    "pedestrian": Actor(pedestrian, 0.45, 1.6, 2.8),
    "dog walker": Actor(dog_walker, 0.9, 0.7, 2.8),
    "dog": Actor(stray_dog, 0.5, 0.7, 2.0),
    "birds": Actor(birds, 0.6, 0.5, 1.8),
    "sitter": Actor(sitter_on_grass, 0.9, 0.6, 3.0),
    "bench": Actor(bench, 0.9, 0.9, 3.0),
    "cyclist": Actor(cyclist, 0.9, 1.2, 3.2),
    "motorcyclist": Actor(motorcyclist, 1.0, 1.2, 3.2),
    "bicycle": Actor(parked_bicycle, 0.8, 0.9, 2.8),
    "car": Actor(car, 2.4, 1.4, 5.0, lane=0.9),
    "bus": Actor(bus, 5.4, 2.8, 9.0, lane=1.2),
    "truck": Actor(truck, 3.9, 2.4, 7.5, lane=1.2),
    "boat": Actor(boat, 2.6, 1.6, 8.0),
    "swimmer": Actor(swimmer, 0.6, 0.4, 2.5),
    "traffic light": Actor(traffic_light, 0.3, 1.2, 4.0),
    "traffic sign": Actor(traffic_sign, 0.3, 0.8, 3.0),
    "parasol": Actor(parasol, 1.2, 1.4, 4.0),
    "surfboard": Actor(surfboard, 0.7, 1.6, 3.0),
    "tree": Actor(tree, 1.0, 5.0, 4.5),
    "palm": Actor(palm, 0.8, 5.0, 4.5),
    "bush": Actor(bush, 0.7, 1.0, 3.0),
    "lamp post": Actor(lamp_post, 0.3, 5.0, 4.0),
}
