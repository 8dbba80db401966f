"""The camera against closed forms: what is where in the image follows from similar triangles."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mls_d2.scenes.camera import NEAR, Camera, clip_near


def camera(yaw: float = 0.4) -> Camera:
    return Camera(width=128, height=96, focal=110.0, horizon=40.0, eye=2.5, yaw=yaw, across=-1.5)


def project(cam: Camera, point: tuple[float, float, float]) -> np.ndarray:
    return cam.to_image(cam.to_camera(np.array([point])))[0]


@pytest.mark.parametrize("yaw", [0.0, 0.7, math.pi / 2, 2.5])
def test_a_point_is_seen_where_it_was_taken_from(yaw: float):
    cam = camera(yaw)
    u, v = project(cam, cam.world_at(100.0, depth=7.0, up=0.5))
    assert u == pytest.approx(100.0)
    # Two metres below the eye at 7 m.
    assert v == pytest.approx(40.0 + 110.0 * 2.0 / 7.0)


def test_what_is_at_eye_height_is_on_the_horizon_at_any_depth():
    cam = camera()
    for depth in (1.0, 5.0, 80.0):
        assert project(cam, cam.world_at(30.0, depth, up=cam.eye))[1] == pytest.approx(cam.horizon)


def test_the_nearest_ground_is_in_the_lowest_row():
    cam = camera()
    v = project(cam, cam.world_at(64.0, cam.nearest_ground))[1]
    assert v == pytest.approx(cam.height)


def test_yaw_zero_looks_along_s_with_t_to_the_right():
    cam = camera(yaw=0.0)
    assert cam.depth_of(9.0, -1.5) == pytest.approx(9.0)
    assert project(cam, (9.0, 0.0, -1.5))[0] == pytest.approx(64.0)
    assert project(cam, (9.0, 0.0, 0.0))[0] == pytest.approx(64.0 + 110.0 * 1.5 / 9.0)


def test_twice_as_far_is_half_as_large():
    cam = camera()
    heights = []
    for depth in (4.0, 8.0):
        feet = project(cam, cam.world_at(64.0, depth))[1]
        head = project(cam, cam.world_at(64.0, depth, up=1.8))[1]
        heights.append(feet - head)
    assert heights[0] == pytest.approx(110.0 * 1.8 / 4.0)
    assert heights[1] == pytest.approx(heights[0] / 2)


def test_clipping_cuts_edges_where_they_cross_the_near_plane():
    triangle = np.array([[0.0, 0.0, NEAR + 2], [4.0, 0.0, NEAR - 2], [0.0, 4.0, NEAR + 2]])
    kept = clip_near(triangle)
    expected = {(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 4.0)}
    assert {(round(x, 9), round(y, 9)) for x, y, _ in kept} == expected
    assert kept[:, 2].min() == pytest.approx(NEAR)


def test_clipping_keeps_all_in_front_and_nothing_behind():
    square = np.array([[0.0, 0, 3], [1, 0, 3], [1, 1, 3], [0, 1, 3]])
    np.testing.assert_array_equal(clip_near(square), square)
    assert clip_near(square - [0, 0, 3]).shape == (0, 3)
