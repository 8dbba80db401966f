"""From a scene to pixels: an RGB image, and an id map of the object that each pixel shows.

View frame, in metres: ``x`` right, ``y`` up from the ground, ``z`` depth.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from mls_d2.scenes.sketch import Colour, Part

_OVER = 2  # canvas pixels per image pixel along each axis
_SHIFT = 4  # OpenCV's fixed-point bits for corners between pixels
_FAR_OUT = 4000.0  # canvas pixels; corners farther out are moved to this, before OpenCV overflows
_NEAR = 0.3  # metres; nearer corners are moved to this depth
_TILE = 128  # side of the textures in pixels

Box = tuple[float, ...]  # x0, y0, x1, y1
_Shape = tuple[np.ndarray, Colour | None]  # corners in fixed point, colour in the light


class Camera(NamedTuple):
    """A level camera."""

    width: int  # of the image, pixels
    height: int  # of the image, pixels
    focal: float  # focal length, pixels
    horizon: float  # row of the horizon, pixels
    centre: float  # column of the principal point, pixels
    eye: float  # height above the ground, metres

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project points ``(N, 3)`` of the view frame to pixels ``(N, 2)`` as (column, row)."""
        scale = self.focal / np.maximum(points[:, 2], _NEAR)
        columns = self.centre + points[:, 0] * scale
        return np.stack((columns, self.horizon + (self.eye - points[:, 1]) * scale), axis=1)


class Light(NamedTuple):
    """Colour and direction of the light."""

    tint: Colour  # factors of red, green and blue
    sun: float  # share of directed light, 0 to 1; the rest comes from everywhere
    toward: tuple[float, float, float]  # unit vector to the sun, in the view frame
    sky: tuple[Colour, Colour]  # overhead, and at the horizon
    shadow: float  # how much darker shadows are, 0 to 1
    clouds: float  # share of the sky that is covered


class Item(NamedTuple):
    """One object of a scene, with an id of its own."""

    kind: str  # a key of KINDS
    parts: list[Part]
    place: tuple[float, float, float]  # of its origin in the view frame, metres
    heading: float = 0.0  # radians; 0 points its x axis to the right, positive ones turn it away
    reach: float = 0.0  # radius of its shadow on the ground, metres
    layer: float = 0.0  # metres by which it is painted as if it were nearer


class Strip(NamedTuple):
    """Ground from the last strip's border to ``high`` metres."""

    kind: str
    high: float
    colour: Colour
    grain: float  # contrast of the texture


class Scene(NamedTuple):
    """All that rendering needs."""

    name: str
    camera: Camera
    light: Light
    strips: tuple[Strip, ...]  # in order of the coordinate across them; in a room floor and wall
    angle: float  # of the axis across the strips, from the right to the depth, radians
    wobble: float  # amplitude of the strips' borders, metres
    walls: tuple[tuple[float, float], ...]  # (angle, distance) of a room's walls; none outdoors
    ridge: tuple[str, tuple[float, ...]]  # kind, and heights over the horizon as a share of it
    items: tuple[Item, ...]
    seed: int  # of textures and noise


@dataclass(frozen=True, slots=True)
class Picture:
    """A rendered scene."""

    image: np.ndarray  # RGB (H, W, 3) uint8
    ids: np.ndarray  # (H, W) uint16, the index into ``kinds`` of what each pixel shows
    kinds: tuple[str, ...]  # what each id is, a key of KINDS
    # Per id the box (x0, y0, x1, y1) in pixels that the object would fill without occlusion and
    # beyond the border; None for sky and ground.
    extents: tuple[Box | None, ...]
    full_masks: tuple[np.ndarray, ...] = ()  # per id (H, W) bool without occlusion, on request


def render(scene: Scene, *, full_masks: bool = False) -> Picture:
    """Paint a scene from far to near, with masks without occlusion if requested."""
    camera, rng = scene.camera, np.random.default_rng(scene.seed)
    image, ids = _background(scene, rng)
    kinds = ["sky", scene.ridge[0], *(strip.kind for strip in scene.strips)]
    surfaces, extents = len(kinds), list[Box | None]([None] * len(kinds))
    masks = [ids[::_OVER, ::_OVER] == k for k in range(len(kinds))] if full_masks else []
    _cast_shadows(scene, image)
    for item in sorted(scene.items, key=lambda item: item.layer - item.place[2]):
        shapes = _project(item, camera, scene.light)
        for corners, colour in shapes:
            if colour is not None:
                cv2.fillPoly(image, [corners], colour, cv2.LINE_AA, _SHIFT)
            cv2.fillPoly(ids, [corners], len(kinds), cv2.LINE_8, _SHIFT)
        if full_masks:
            alone = np.zeros(ids.shape, np.uint8)
            for corners, _ in shapes:
                cv2.fillPoly(alone, [corners], 1, cv2.LINE_8, _SHIFT)
            masks.append(alone[::_OVER, ::_OVER] > 0)
        kinds.append(item.kind)
        extents.append(_extent(shapes) if shapes else None)
    small = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    thin = ids[::_OVER, ::_OVER].copy()
    developed = _develop(small, thin, surfaces, rng)
    return Picture(developed, thin, tuple(kinds), tuple(extents), tuple(masks))


def _project(item: Item, camera: Camera, light: Light) -> list[_Shape]:
    """Return an item's parts on the canvas, groups from far to near, no faces that look away."""
    cos, sin = math.cos(item.heading), math.sin(item.heading)
    # Rows: the object's x, y and z axes in the view frame.
    axes = np.array(((cos, 0.0, sin), (0.0, 1.0, 0.0), (sin, 0.0, -cos)))
    points = np.concatenate([part.points for part in item.parts]) @ axes + item.place
    pixels = camera.project(points) * _OVER - 0.5
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
    outside = min(right, bottom) < 0 or left > camera.width * _OVER or top > camera.height * _OVER
    if outside or points[:, 2].max() < _NEAR:
        return []
    corners = np.rint(pixels.clip(-_FAR_OUT, _FAR_OUT) * (1 << _SHIFT)).astype(np.int32)
    stops = np.cumsum([len(part.points) for part in item.parts])
    starts = np.concatenate(((0,), stops[:-1]))
    normals = np.array([part.normal for part in item.parts]) @ axes
    away = (normals * (points[starts] - (0.0, camera.eye, 0.0))).sum(axis=1) > 0
    flat = ~normals.any(axis=1)
    lit = np.where(flat, 0.5, np.maximum(0.0, normals @ np.array(light.toward)))
    level = (1.0 - light.sun + light.sun * lit).tolist()
    middle = points[starts, 2] + points[(starts + stops) // 2, 2]  # twice the depth of a face
    groups = np.array([part.group for part in item.parts])
    depths = np.bincount(groups, middle) / np.maximum(np.bincount(groups), 1)
    fade = 1.0 - math.exp(-max(item.place[2], 0.0) / 150.0)
    shapes = []
    for k in np.argsort(-depths[groups], kind="stable"):
        if not away[k]:
            colour = item.parts[k].colour
            painted = colour and _lit(colour, light, level[k], fade)
            shapes.append((corners[starts[k] : stops[k]], painted))
    return shapes


def _lit(colour: Colour, light: Light, level: float = 1.0, fade: float = 0.0) -> Colour:
    """Return a paint's colour in the light, mixed with the horizon's by ``fade``, 0 to 1."""
    return tuple(
        min(255.0, value * tint * level * (1 - fade) + haze * fade)
        for value, tint, haze in zip(colour, light.tint, light.sky[1], strict=True)
    )


def _extent(shapes: list[_Shape]) -> Box:
    points = (np.concatenate([corners for corners, _ in shapes]) / (1 << _SHIFT) + 0.5) / _OVER
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


@functools.cache
def _tiles() -> np.ndarray:
    """Return seamless textures ``(5, 128, 128)``: grain, blotches, stripes of two kinds, checks."""
    noise = np.random.default_rng(97).standard_normal((_TILE, _TILE))
    soft = cv2.GaussianBlur(np.tile(noise, (3, 3)), (0, 0), 3.0)[_TILE : 2 * _TILE, _TILE:-_TILE]
    rows, columns = np.indices((_TILE, _TILE)) % 4 < 2
    tiles = np.stack((noise, soft, rows, columns, rows ^ columns)).astype(np.float32)
    tiles -= tiles.mean(axis=(1, 2), keepdims=True)
    return tiles / tiles.std(axis=(1, 2), keepdims=True)


def _background(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return canvases of sky (id 0), ridge (id 1) and strips (ids from 2)."""
    camera, light = scene.camera, scene.light
    image = np.empty((camera.height * _OVER, camera.width * _OVER, 3), np.uint8)
    ids = np.zeros(image.shape[:2], np.uint16)
    rows = (np.arange(ids.shape[0], dtype=np.float32)[:, None] + 0.5) / _OVER
    slope = (np.arange(ids.shape[1], dtype=np.float32) + 0.5) / _OVER - camera.centre
    slope = (slope / camera.focal).astype(np.float32)
    first = math.ceil(camera.horizon * _OVER)
    if scene.walls:
        reach = [d / np.maximum(slope * math.cos(a) + math.sin(a), 1e-3) for a, d in scene.walls]
        depth = np.min(reach, axis=0)
        low = camera.horizon + camera.focal * camera.eye / depth
        stripes = scene.strips[-1].grain * np.sign(np.sin(rng.uniform(8, 20) * slope * depth))
        gain = (1 + stripes) * np.array((1.0, rng.uniform(0.75, 0.9)))[np.argmin(reach, axis=0)]
        high, number, paint = np.full(len(slope), -1.0), 3, _lit(scene.strips[-1].colour, light)
    else:
        kind, steps = scene.ridge
        where = np.linspace(0, len(steps) - 1.001, len(slope))
        where = np.floor(where) if kind == "skyline" else where
        high = camera.horizon * (1 - np.interp(where, np.arange(len(steps)), steps))
        low, gain, number = np.full(len(slope), camera.horizon + 0.5), np.ones(len(slope)), 1
        paint = _lit((128, 128, 134) if kind == "skyline" else (74, 98, 66), light, fade=0.45)
        _paint_sky(light, image[:first], rng)
    _paint_ground(scene, (image[first:], ids[first:], rows[first:], slope), rng)
    standing = (rows >= high) & (rows < low)
    image[standing] = np.outer(gain, paint).clip(0, 255).astype(np.uint8)[standing.nonzero()[1]]
    ids[standing] = number
    return image, ids


def _paint_sky(light: Light, sky: np.ndarray, rng: np.random.Generator) -> None:
    size = (sky.shape[1], sky.shape[0])
    top, low = np.array(light.sky, np.float32)
    colours = top + (low - top) * np.linspace(0, 1, size[1], dtype=np.float32)[:, None, None]
    cover = np.full(size[::-1], 1.6 * light.clouds - 0.9, np.float32)
    for shape, weight in (((4, 7), 0.9), ((8, 16), 0.45)):
        cover += weight * cv2.resize(rng.standard_normal(shape).astype(np.float32), size)
    cloud = 0.35 * low + 160.0 * np.array(light.tint, np.float32)
    sky[:] = cv2.convertScaleAbs(colours + (cloud - colours) * np.clip(cover, 0, 0.9)[..., None])


def _paint_ground(scene: Scene, canvas: tuple[np.ndarray, ...], rng: np.random.Generator) -> None:
    """Paint image and ids in perspective, by where the rays (rows, slopes) meet the ground."""
    camera, strips, (image, ids, rows, slope) = scene.camera, scene.strips, canvas
    depth = camera.focal * camera.eye / np.maximum(rows - camera.horizon, np.float32(0.05))
    right, shift = slope * depth, rng.uniform(0, 99)
    cos, sin = np.float32(math.cos(scene.angle)), np.float32(math.sin(scene.angle))
    along, across = depth * cos - right * sin, depth * sin + right * cos
    line = across + scene.wobble * np.sin(0.45 * along + shift) if scene.wobble else across
    zone = np.zeros(line.shape, np.uint8)
    for strip in strips[:-1]:
        zone += line > strip.high
    ids[:] = zone + np.uint8(2)
    half, texture = (slice(None, None, 2), slice(None, None, 2)), 0.0
    for tile, density in zip(_tiles(), (7.0, 1.7), strict=False):
        u, v = (density * axis[half] + shift for axis in (along, across))
        texture += tile[u.astype(np.int32) & (_TILE - 1), v.astype(np.int32) & (_TILE - 1)]
    gain = 1 + np.array([strip.grain for strip in strips], np.float32)[zone[half]] * texture
    paint = np.array([_lit(strip.colour, scene.light) for strip in strips], np.float32)
    colours = paint[zone] * cv2.resize(gain, zone.shape[::-1])[..., None]
    if scene.name == "street":
        start, stop = strips[1].high, strips[2].high
        aside = np.abs(across - (start + stop) / 2)
        dashes = (aside < 0.09) & ((along + shift) % 5.0 < 2.6)
        colours[dashes | (np.abs(aside - (stop - start) / 2 + 0.4) < 0.06)] += 90.0
    image[:] = cv2.convertScaleAbs(colours)


def _cast_shadows(scene: Scene, image: np.ndarray) -> None:
    """Darken the ground below objects, away from the sun."""
    camera, light = scene.camera, scene.light
    dark = np.zeros(image.shape[:2], np.uint8)
    for item in scene.items:
        x, _, z = item.place
        if item.reach == 0 or z < 1.0:
            continue
        foot = np.array([(x - 0.4 * item.reach * light.toward[0], 0.0, z)])
        (u, v), size = camera.project(foot)[0] * _OVER, item.reach * camera.focal / z * _OVER
        axes = (int(min(size, 999)), int(min(size * camera.eye / z, 999)) + 1)
        cv2.ellipse(dark, (int(u), int(v)), axes, 0, 0, 360, 255, -1)
    first = math.ceil(camera.horizon * _OVER)
    keep = 1 - cv2.blur(dark[first:], (5, 5)).astype(np.float32) * np.float32(light.shadow / 255)
    image[first:] = (image[first:] * keep[..., None]).astype(np.uint8)


def _develop(
    image: np.ndarray, ids: np.ndarray, surfaces: int, rng: np.random.Generator
) -> np.ndarray:
    """Add textures of the objects after the surfaces, uneven light, softness and grain."""
    num_ids = int(ids.max()) + 1
    contrast = rng.uniform(0, 0.09, num_ids).astype(np.float32)
    contrast[:surfaces] = 0.0
    tile = rng.choice(5, num_ids, p=(0.15, 0.45, 0.15, 0.15, 0.1))
    rows, columns = np.indices(ids.shape) + rng.integers(0, _TILE, 2)[:, None, None]
    gain = 1 + contrast[ids] * _tiles()[tile[ids], rows & (_TILE - 1), columns & (_TILE - 1)]
    x, y = (np.linspace(-1, 1, side, dtype=np.float32) for side in ids.shape[::-1])
    dx, dy, edge, bright = rng.uniform((-1, -1, -1, 0.88), (1, 1, 1, 1.12)).astype(np.float32)
    ramp = dx * x[None, :] + dy * y[:, None]
    gain *= bright * (1 + np.float32(0.1) * ramp)
    if rng.random() < 0.25:  # the shadow of something outside the picture
        gain *= 1 - np.float32(0.3) * np.clip((ramp - edge) * 12, 0, 1)
    blur, grain = rng.uniform((0.0, 0.5), (0.5, 3.0))
    if blur > 0.25:
        image = cv2.GaussianBlur(image, (3, 3), blur)
    noise = np.float32(grain) * _tiles()[0][(rows + 37) & (_TILE - 1), (columns + 91) & (_TILE - 1)]
    return np.clip(image * gain[..., None] + noise[..., None], 0, 255).astype(np.uint8)
