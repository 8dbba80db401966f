"""From a scene to pixels: an RGB image, and an id map that says which object each pixel shows."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from mls_d2.scenes.background import paint_background
from mls_d2.scenes.camera import NEAR, Camera, clip_near
from mls_d2.scenes.palette import Light
from mls_d2.scenes.parts import Part
from mls_d2.scenes.scene import Item, Scene

_OVER = 2  # canvas pixels for one image pixel along each axis
_SHIFT = 4  # OpenCV's fixed-point bits for corners between pixels
# Corners further out than this many pixels are pulled in, where OpenCV would overflow.
_FAR_OUT = 4000.0
_NOISE_SIDE = 509  # a prime, so that repeats never line up with anything


@dataclass(frozen=True, slots=True)
class Picture:
    """A rendered scene.

    Args:
        image: RGB ``(H, W, 3)`` uint8.
        ids: ``(H, W)`` uint16, the index into ``kinds`` of what each pixel shows.
        kinds: what each id is, a key of :data:`mls_d2.scenes.labels.KINDS`.
        extents: for each id the box (x0, y0, x1, y1) in pixels that it would fill without occlusion
            and without the image's border; None for sky and ground.
        full_masks: for each id the mask ``(H, W)`` bool that it would have with nothing before it;
            empty where they were not asked for.
    """

    image: np.ndarray
    ids: np.ndarray
    kinds: tuple[str, ...]
    extents: tuple[tuple[float, float, float, float] | None, ...]
    full_masks: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, slots=True)
class _Shape:
    """A part in the image: corners on the canvas in fixed point, and its colour in the light."""

    corners: list[np.ndarray]
    colour: tuple[float, float, float] | None
    masked: bool


def render(scene: Scene, *, full_masks: bool = False) -> Picture:
    """Paint a scene, far things first.

    Args:
        scene: what to paint.
        full_masks: whether to return the masks without occlusion as well.
    """
    camera = scene.camera
    image = np.empty((camera.height * _OVER, camera.width * _OVER, 3), np.uint8)
    ids = np.empty(image.shape[:2], np.uint16)
    kinds = paint_background(scene, image, ids, _OVER)
    extents: list[tuple[float, float, float, float] | None] = [None] * len(kinds)
    background = _thinned(ids)
    masks = [background == number for number in range(len(kinds))] if full_masks else []
    _paint_shadows(scene, image)
    for item in scene.items:
        shapes = _project(item, camera, scene.light)
        for shape in shapes:
            if shape.colour is not None:
                cv2.fillPoly(image, shape.corners, shape.colour, cv2.LINE_AA, _SHIFT)
            if shape.masked:
                cv2.fillPoly(ids, shape.corners, len(kinds), cv2.LINE_8, _SHIFT)
        if full_masks:
            masks.append(_full_mask(shapes, ids.shape))
        kinds.append(item.kind)
        extents.append(_extent(shapes))
    small = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    return Picture(
        image=_develop(small, scene.render_seed),
        ids=_thinned(ids),
        kinds=tuple(kinds),
        extents=tuple(extents),
        full_masks=tuple(masks),
    )


def _thinned(canvas: np.ndarray) -> np.ndarray:
    """Return a canvas of ids at the image's resolution."""
    return canvas[::_OVER, ::_OVER].copy()


def _full_mask(shapes: list[_Shape], size: tuple[int, ...]) -> np.ndarray:
    canvas = np.zeros(size, np.uint8)
    for shape in shapes:
        if shape.masked:
            cv2.fillPoly(canvas, shape.corners, 1, cv2.LINE_8, _SHIFT)
    return _thinned(canvas) > 0


def _project(item: Item, camera: Camera, light: Light) -> list[_Shape]:
    """Turn an item's parts into shapes on the canvas, without what faces away or lies behind."""
    cos, sin = math.cos(item.heading), math.sin(item.heading)
    s0, y0, t0 = item.place
    depth = camera.depth_of(s0, t0)
    fade = light.fade(max(depth, 0.0))
    # The camera in the item's frame, for telling which faces are turned to it.
    ds, dt = -s0, camera.across - t0
    eye = (ds * cos + dt * sin, camera.eye - y0, -ds * sin + dt * cos)
    parts = [part for part in item.parts if _faces(part, eye)]
    if not parts:
        return []
    flat = np.concatenate([part.points.reshape(-1, 3) for part in parts])
    world = np.empty_like(flat)
    world[:, 0] = s0 + flat[:, 0] * cos - flat[:, 2] * sin
    world[:, 1] = y0 + flat[:, 1]
    world[:, 2] = t0 + flat[:, 0] * sin + flat[:, 2] * cos
    points = camera.to_camera(world)
    canvas = _to_canvas(camera, points)
    behind = points[:, 2] < NEAR
    cut = bool(behind.any())
    if not cut and not _on_canvas(canvas, camera):
        return []
    shapes, start = [], 0
    for part in parts:
        count, size = part.points.shape[:2]
        stop = start + count * size
        corners = list(canvas[start:stop].reshape(count, size, 2))
        if cut:
            hidden = behind[start:stop].reshape(count, size)
            corners = _clipped(camera, points[start:stop].reshape(count, size, 3), corners, hidden)
        start = stop
        if corners:
            shapes.append(_Shape(corners, _lit(part, item.heading, light, fade), part.masked))
    return shapes


def _on_canvas(canvas: np.ndarray, camera: Camera) -> bool:
    low, high = canvas.min(axis=0), canvas.max(axis=0)
    unit = _OVER << _SHIFT
    return bool(
        (high >= 0).all() and low[0] <= camera.width * unit and low[1] <= camera.height * unit
    )


def _clipped(
    camera: Camera, points: np.ndarray, corners: list[np.ndarray], behind: np.ndarray
) -> list[np.ndarray]:
    """Return the polygons' corners on the canvas, cut at the near plane."""
    kept = []
    for polygon, ready, hidden in zip(points, corners, behind, strict=True):
        if not hidden.any():
            kept.append(ready)
        elif not hidden.all():
            kept.append(_to_canvas(camera, clip_near(polygon)))
    return kept


def _faces(part: Part, eye: tuple[float, float, float]) -> bool:
    """Whether a part is seen from a point in its own frame; flat parts always are."""
    if part.normal is None:
        return True
    x, y, z = part.points[0, 0]
    nx, ny, nz = part.normal
    return bool(nx * (eye[0] - x) + ny * (eye[1] - y) + nz * (eye[2] - z) > 0)


def _to_canvas(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Project camera points to canvas corners in OpenCV's fixed point (pixel centres are whole)."""
    pixels = camera.to_image(points) * _OVER - 0.5
    return np.rint(pixels.clip(-_FAR_OUT, _FAR_OUT) * (1 << _SHIFT)).astype(np.int32)


def _lit(
    part: Part, heading: float, light: Light, fade: float
) -> tuple[float, float, float] | None:
    if part.colour is None:
        return None
    level = (
        light.ambient + 0.5 * light.sun
        if part.normal is None
        else light.shade(part.normal, heading)
    )
    (red, green, blue), tint, low, keep = part.colour, light.tint, light.sky_low, level * (1 - fade)
    return (
        min(255.0, red * tint[0] * keep + low[0] * fade),
        min(255.0, green * tint[1] * keep + low[1] * fade),
        min(255.0, blue * tint[2] * keep + low[2] * fade),
    )


def _extent(shapes: list[_Shape]) -> tuple[float, float, float, float] | None:
    corners = [polygon for shape in shapes if shape.masked for polygon in shape.corners]
    if not corners:
        return None
    points = np.concatenate(corners) / (1 << _SHIFT)
    low, high = (points.min(axis=0) + 0.5) / _OVER, (points.max(axis=0) + 0.5) / _OVER
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _paint_shadows(scene: Scene, image: np.ndarray) -> None:
    """Darken the ground under and beside what stands on it, away from the sun."""
    camera, light = scene.camera, scene.light
    dark = np.zeros(image.shape[:2], np.uint8)
    for item in scene.items:
        if item.reach == 0:
            continue
        lean = 0.35 * item.reach
        s = item.place[0] - lean * math.cos(light.sun_heading)
        t = item.place[2] - lean * math.sin(light.sun_heading)
        depth = camera.depth_of(s, t)
        if depth < 1.0:
            continue
        centre = camera.to_image(camera.to_camera(np.array([[s, 0.0, t]])))[0] * _OVER
        across = item.reach * camera.focal / depth * _OVER
        axes = (across, max(1.0, across * camera.eye / depth * 0.8))
        cv2.ellipse(
            dark,
            (int(centre[0]), int(centre[1])),
            (int(min(axes[0], 999)), int(min(axes[1], 999))),
            0, 0, 360, 255, -1,
        )  # fmt: skip
    first_row = max(0, math.ceil(camera.horizon * _OVER))
    soft = cv2.blur(dark[first_row:], (5, 5))[..., None]
    ground = image[first_row:]
    keep = 255 - (soft * np.float32(light.shadow)).astype(np.uint8)
    cv2.multiply(ground, np.broadcast_to(keep, ground.shape).copy(), dst=ground, scale=1 / 255)


def _develop(image: np.ndarray, seed: int) -> np.ndarray:
    """Give the image a camera's softness, contrast and grain."""
    rng = np.random.default_rng(seed + 1)
    blur, contrast, grain = rng.uniform(0.0, 0.4), rng.uniform(0.93, 1.07), rng.uniform(0.5, 2.0)
    if blur > 0.25:
        image = cv2.GaussianBlur(image, (3, 3), blur)
    noise = np.float32(grain) * _noise(image.shape[0], image.shape[1], rng)
    noise += np.float32(118.0 * (1 - contrast))
    toned = cv2.addWeighted(image, contrast, noise, 1.0, 0.0, dtype=cv2.CV_32F)
    return np.clip(toned, 0, 255).astype(np.uint8)


@functools.cache
def _noise_tile() -> np.ndarray:
    rng = np.random.default_rng(97)
    return rng.standard_normal((_NOISE_SIDE, _NOISE_SIDE, 3), dtype=np.float32)


def _noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Cut white noise ``(height, width, 3)`` from a tile at a random place: cheaper than new."""
    rows = (np.arange(height) + rng.integers(_NOISE_SIDE)) % _NOISE_SIDE
    columns = (np.arange(width) + rng.integers(_NOISE_SIDE)) % _NOISE_SIDE
    return _noise_tile()[rows[:, None], columns[None, :]]
