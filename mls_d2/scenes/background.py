"""Sky, backdrop and ground: the textured surfaces that scenes stand on, painted per pixel."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

from mls_d2.scenes.camera import Camera
from mls_d2.scenes.palette import Light
from mls_d2.scenes.scene import Ground, Scene

_TILE = 128
_BACKDROP_DEPTH = 120.0
# How strongly each ground is mottled: fine grain, broad patches.
_GRAIN = {
    "road": (0.03, 0.02), "sidewalk": (0.03, 0.02), "grass": (0.1, 0.08), "yard": (0.05, 0.05),
    "path": (0.05, 0.03),
    "sand": (0.04, 0.03), "wet sand": (0.03, 0.03), "foam": (0.02, 0.01), "water": (0.08, 0.05),
    "pond": (0.05, 0.06),
}  # fmt: skip


@functools.cache
def _tile(sigma: float) -> np.ndarray:
    """Return a seamless tile of smooth noise ``(128, 128)`` float32, mean 0 and deviation 1."""
    noise = np.random.default_rng(20240607).standard_normal((_TILE, _TILE)).astype(np.float32)
    wrapped = cv2.GaussianBlur(np.tile(noise, (3, 3)), (0, 0), sigma)[
        _TILE : 2 * _TILE, _TILE : 2 * _TILE
    ]
    return (wrapped - wrapped.mean()) / wrapped.std()


def _look_up(tile: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return tile[rows.astype(np.int32) & (_TILE - 1), columns.astype(np.int32) & (_TILE - 1)]


def paint_background(scene: Scene, image: np.ndarray, ids: np.ndarray, over: int) -> list[str]:
    """Paint sky, backdrop and ground over a whole canvas.

    Args:
        scene: what to paint.
        image: RGB canvas ``(H * over, W * over, 3)`` uint8, filled in place.
        ids: id map ``(H * over, W * over)`` uint16, filled in place.
        over: canvas pixels for one image pixel along each axis.

    Returns:
        The kind of each id used: id k is the k-th kind.
    """
    kinds = [
        "sky",
        scene.ground.backdrop or "hills",
        *(strip.kind for strip in scene.ground.strips),
    ]
    first_row = max(0, math.ceil(scene.camera.horizon * over))
    _paint_sky(scene, image[:first_row])
    ids[:first_row] = 0
    if scene.ground.backdrop is not None:
        _paint_backdrop(scene, image, ids, over)
    _paint_ground(scene, image[first_row:], ids[first_row:], (first_row, over))
    return kinds


def _paint_sky(scene: Scene, sky: np.ndarray) -> None:
    light, rng = scene.light, np.random.default_rng(scene.render_seed)
    if len(sky) == 0:
        return
    # Clouds are soft: half the canvas's resolution is enough for them.
    rows, columns = max(1, sky.shape[0] // 2), sky.shape[1] // 2
    height = np.linspace(0, 1, rows, dtype=np.float32)[:, None] ** 1.3
    top, low = np.array(light.sky_top, np.float32), np.array(light.sky_low, np.float32)
    gradient = top + (low - top) * height[..., None]
    coarse = rng.standard_normal((5, 7)).astype(np.float32)
    fine = rng.standard_normal((9, 17)).astype(np.float32)
    billows = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    wisps = cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_CUBIC)
    cover = np.clip(0.9 * (billows + np.float32(0.5) * wisps) - 0.9 + 1.6 * light.clouds, 0, 0.9)[
        ..., None
    ]
    cloud = 0.35 * low + 0.65 * 246.0 * np.array(light.tint, np.float32)
    painted = cv2.convertScaleAbs(gradient + (cloud - gradient) * cover)
    sky[:] = cv2.resize(painted, sky.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _paint_backdrop(scene: Scene, image: np.ndarray, ids: np.ndarray, over: int) -> None:
    """Draw a ridge of hills or a skyline along the horizon, id 1."""
    camera, light, ground = scene.camera, scene.light, scene.ground
    rows = camera.horizon - np.array(ground.backdrop_heights) * camera.focal / _BACKDROP_DEPTH
    columns = np.linspace(-2, camera.width + 2, len(rows))
    if ground.backdrop == "skyline":
        columns, rows = np.repeat(columns, 2)[1:], np.repeat(rows, 2)[:-1]
    base = camera.horizon + 2
    outline = np.concatenate((np.stack((columns, rows), 1), [(camera.width + 2, base), (-2, base)]))
    paint = np.array((74, 98, 66) if ground.backdrop == "hills" else (128, 128, 134), np.float32)
    faded = paint * light.ambient * np.array(light.tint)
    faded += (np.array(light.sky_low) - faded) * min(0.8, light.fade(_BACKDROP_DEPTH * 0.55))
    corners = np.round(outline * over * 16).astype(np.int32)
    colour = tuple(float(value) for value in np.clip(faded, 0, 255))
    cv2.fillPoly(image, [corners], colour, cv2.LINE_AA, 4)
    cv2.fillPoly(ids, [corners], 1, cv2.LINE_8, 4)


def _paint_ground(
    scene: Scene, image: np.ndarray, ids: np.ndarray, origin: tuple[int, int]
) -> None:
    camera, light, ground = scene.camera, scene.light, scene.ground
    depth, along, across = _ground_points(camera, image.shape[0], image.shape[1], origin)
    line = across
    if ground.wobble:
        line = across + ground.wobble * (
            np.sin(0.45 * along + ground.phase) + 0.5 * np.sin(1.1 * along)
        )
    zone = np.zeros(across.shape, np.uint8)
    for strip in ground.strips[:-1]:
        zone += line > strip.high
    ids[:] = zone + np.uint8(2)
    paint = np.array([strip.colour for strip in ground.strips], np.float32)
    paint *= np.array(light.tint, np.float32) * (light.ambient + 0.8 * light.sun)
    colours = paint.take(zone, axis=0)
    # Grain is coarser than the canvas: every other pixel is enough for it.
    sparse = (depth[::2], along[::2, ::2], across[::2, ::2])
    texture = _texture(ground, zone[::2, ::2], sparse)
    colours *= cv2.resize(texture, zone.shape[::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    if scene.name == "street":
        _add_markings(ground, colours, (along, across))
    _blend(colours, _reflection(light), _mirroring(ground, zone, depth))
    _blend(
        colours, np.array(light.sky_low, np.float32), 1 - np.exp(-depth / np.float32(light.haze))
    )
    image[:] = cv2.convertScaleAbs(colours)


def _blend(colours: np.ndarray, other: np.ndarray, share: np.ndarray | None) -> None:
    """Mix a colour into ``(H, W, 3)`` in place, by a share that broadcasts to ``(H, W)``."""
    if share is not None:
        colours *= (1 - share)[..., None]
        colours += other * share[..., None]


def _ground_points(
    camera: Camera, rows: int, columns: int, origin: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return depth ``(rows, 1)``, ``s`` and ``t`` ``(rows, columns)`` of each pixel in metres."""
    first_row, over = origin
    v = (np.arange(first_row, first_row + rows, dtype=np.float32) + 0.5) / over
    u = (np.arange(columns, dtype=np.float32) + 0.5) / over
    depth = (camera.focal * camera.eye / np.maximum(v - camera.horizon, 0.05))[:, None]
    depth = depth.astype(np.float32)
    right = (u - camera.width / 2)[None, :] * depth / np.float32(camera.focal)
    cos, sin = np.float32(math.cos(camera.yaw)), np.float32(math.sin(camera.yaw))
    return depth, depth * cos - right * sin, camera.across + depth * sin + right * cos


def _texture(
    ground: Ground, zone: np.ndarray, points: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    depth, along, across = points
    shift = ground.texture_seed % 997
    grain = np.array([_GRAIN[strip.kind] for strip in ground.strips], np.float32)
    wet = np.array([strip.kind in ("water", "pond") for strip in ground.strips])
    # On water the grain is drawn out along the shore into waves.
    lengthwise, crosswise = np.where(wet, 0.8, 9.0), np.where(wet, 3.0, 9.0)
    if wet.any():
        fine = _look_up(
            _tile(1.0),
            along * lengthwise.astype(np.float32)[zone] + shift,
            across * crosswise.astype(np.float32)[zone],
        )
    else:
        fine = _look_up(_tile(1.0), along * 9.0 + shift, across * 9.0)
    broad = _look_up(_tile(3.0), along * 1.7 + shift, across * 1.7)
    near = np.minimum(1.0, 9.0 / depth)
    return 1.0 + grain[:, 0].take(zone) * fine * near + grain[:, 1].take(zone) * broad


def _add_markings(
    ground: Ground, colours: np.ndarray, points: tuple[np.ndarray, np.ndarray]
) -> None:
    """Paint a street's lines and kerbs."""
    road = next(strip for strip in ground.strips if strip.kind == "road")
    along, across = points
    half = (road.high - road.low) / 2
    aside = np.abs(across - (road.low + half))
    white = (aside < 0.09) & (_fraction((along + ground.phase) / 5.0) < 0.52)
    white |= np.abs(aside - (half - 0.4)) < 0.06
    if ground.crossing is not None:
        bars = (np.abs(along - ground.crossing) < 1.6) & (_fraction(across) < 0.5)
        white |= bars & (aside < half - 0.2)
    gain = np.where(
        white, np.float32(0.25), np.where(np.abs(aside - half - 0.12) < 0.12, 1.18, 1.0)
    )
    colours *= gain.astype(np.float32)[..., None]
    colours += np.where(white, np.float32(158.0), np.float32(0.0))[..., None]


def _fraction(values: np.ndarray) -> np.ndarray:
    return values - np.floor(values)


def _mirroring(ground: Ground, zone: np.ndarray, depth: np.ndarray) -> np.ndarray | None:
    """Return how much of the sky the water mirrors, more where it is seen flat; None on land."""
    wet = np.array([strip.kind in ("water", "pond") for strip in ground.strips], np.float32)
    return wet.take(zone) * np.clip(depth / 90.0, 0.12, 0.55) if wet.any() else None


def _reflection(light: Light) -> np.ndarray:
    return (np.array(light.sky_top, np.float32) + np.array(light.sky_low, np.float32)) / 2
