"""A pinhole camera over a flat ground, and the frames that scenes are laid out in.

World frame, metres: ``s`` along the strips (road, path, shore), ``y`` up from the ground, ``t``
across the strips. Camera frame: ``X`` right, ``Y`` up from the ground, ``Z`` depth. Image frame,
pixels: ``u`` right, ``v`` down, continuous, with the centre of the first pixel at (0.5, 0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NEAR = 0.6
"""Depth of the near plane in metres; what lies before it is clipped."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A level camera that looks over the ground.

    Args:
        width: image width in pixels.
        height: image height in pixels.
        focal: focal length in pixels.
        horizon: image row of the horizon in pixels.
        eye: height over the ground in metres.
        yaw: direction of view in radians, 0 along ``s``, pi/2 along ``t``.
        across: the camera's ``t`` in metres (its ``s`` is 0).
    """

    width: int
    height: int
    focal: float
    horizon: float
    eye: float
    yaw: float
    across: float

    @property
    def nearest_ground(self) -> float:
        """Depth in metres of the ground seen in the lowest image row."""
        return self.focal * self.eye / (self.height - self.horizon)

    def to_camera(self, world: np.ndarray) -> np.ndarray:
        """Turn world points ``(N, 3)`` as (s, y, t) into camera points ``(N, 3)`` as (X, Y, Z)."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        along, across = world[:, 0], world[:, 2] - self.across
        points = np.empty_like(world)
        points[:, 0] = across * cos - along * sin
        points[:, 1] = world[:, 1]
        points[:, 2] = along * cos + across * sin
        return points

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Project camera points ``(N, 3)`` with ``Z > 0`` to pixels ``(N, 2)`` as (u, v)."""
        scale = self.focal / np.maximum(points[:, 2], 1e-6)
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.width / 2 + points[:, 0] * scale
        pixels[:, 1] = self.horizon + (self.eye - points[:, 1]) * scale
        return pixels

    def world_at(self, u: float, depth: float, up: float = 0.0) -> tuple[float, float, float]:
        """Return the point (s, y, t) seen in column ``u`` at a depth and a height in metres."""
        right = (u - self.width / 2) * depth / self.focal
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return depth * cos - right * sin, up, self.across + depth * sin + right * cos

    def depth_of(self, along: float, across: float) -> float:
        """Return the depth in metres of the ground point (``s``, ``t``)."""
        return along * math.cos(self.yaw) + (across - self.across) * math.sin(self.yaw)

    def facing_angle(self) -> float:
        """Return the heading of a flat figure turned to the camera, whose x axis points right."""
        return self.yaw + math.pi / 2


def clip_near(polygon: np.ndarray) -> np.ndarray:
    """Cut the part of a camera-frame polygon ``(N, 3)`` that lies before the near plane.

    Returns:
        The remaining polygon ``(M, 3)``; empty where nothing remains (Sutherland and Hodgman,
        1974).
    """
    kept: list[np.ndarray] = []
    for start, end in zip(np.roll(polygon, 1, axis=0), polygon, strict=True):
        if (start[2] >= NEAR) != (end[2] >= NEAR):
            fraction = (NEAR - start[2]) / (end[2] - start[2])
            kept.append(start + fraction * (end - start))
        if end[2] >= NEAR:
            kept.append(end)
    return np.array(kept).reshape(-1, 3)
