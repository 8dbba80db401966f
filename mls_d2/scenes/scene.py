"""The description of a scene: everything that rendering needs, and no pixel yet."""

from __future__ import annotations

from dataclasses import dataclass

from mls_d2.scenes.camera import Camera
from mls_d2.scenes.palette import Light
from mls_d2.scenes.parts import Colour, Part


@dataclass(frozen=True, slots=True)
class Item:
    """One object in a scene, with its own id in the id map.

    Args:
        kind: what it is, a key of :data:`mls_d2.scenes.labels.KINDS`.
        parts: what it is drawn from, in its own frame.
        place: the origin of its frame in the world, (s, y, t) in metres.
        heading: direction of its x axis in the s-t plane, in radians.
        reach: radius in metres of its shadow on the ground; 0 for none.
        layer: breaks ties of depth: of things in one place the higher layer is drawn later.
    """

    kind: str
    parts: list[Part]
    place: tuple[float, float, float]
    heading: float
    reach: float = 0.0
    layer: float = 0.0


@dataclass(frozen=True, slots=True)
class Strip:
    """A strip of ground without end along ``s``, from ``low`` to ``high`` metres in ``t``."""

    kind: str
    low: float
    high: float
    colour: Colour


@dataclass(frozen=True, slots=True)
class Ground:
    """The ground and the sky's edge.

    Args:
        strips: the strips of ground, in order of ``t``, without gaps.
        wobble: how far in metres the borders between strips swing to and fro.
        phase: where along ``s`` the swing and the dashes of the road begin.
        crossing: ``s`` in metres of a zebra crossing over the road, or None.
        backdrop: what stands along the horizon: ``hills``, ``skyline`` or None.
        backdrop_heights: its heights in metres at equal steps over the image's width, seen 120 m
            away.
        texture_seed: picks the section of the texture tiles.
    """

    strips: tuple[Strip, ...]
    wobble: float
    phase: float
    crossing: float | None
    backdrop: str | None
    backdrop_heights: tuple[float, ...]
    texture_seed: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A street, a park or a beach; ``items`` are in painter's order, far things first."""

    name: str
    camera: Camera
    light: Light
    ground: Ground
    items: tuple[Item, ...]
    render_seed: int
