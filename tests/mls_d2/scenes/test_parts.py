"""Parts: shapes against closed forms, solids by the directions their faces look."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mls_d2.scenes.parts import Sketch, Solid, moved, rectangle

RED = (255.0, 0.0, 0.0)


def test_each_face_of_a_solid_looks_away_from_its_middle():
    profile = [(-2.0, 0.2), (2.0, 0.2), (2.2, 1.0), (0.5, 1.6), (-2.0, 1.0)]
    solid = Solid(profile, 0.9, RED)
    middle = np.array([0.0, 0.8, 0.0])
    for part in solid.parts:
        normal, corners = np.array(part.normal), part.points[0]
        assert np.linalg.norm(normal) == pytest.approx(1.0)
        assert normal @ (corners.mean(axis=0) - middle) > 0
        # All corners lie in one plane across the normal.
        np.testing.assert_allclose((corners - corners[0]) @ normal, 0, atol=1e-12)
    # Two sides and four edges: the edge that faces the ground is left out.
    assert len(solid.parts) == 6


def test_paint_on_an_edge_is_mirrored_unless_it_crosses_the_middle():
    solid = Solid(rectangle(-1, 1, 0, 2), 0.5, RED)
    solid.paint_edge(1, RED, along=(0.25, 0.75), across=(0.6, 1.0))
    solid.paint_edge(1, RED, along=(0.25, 0.75), across=(0.0, 0.6))
    lamps, window = solid.parts[-2].points, solid.parts[-1].points
    np.testing.assert_allclose(np.sort(np.unique(lamps[..., 2])), [-0.5, -0.3, 0.3, 0.5])
    np.testing.assert_allclose(np.unique(window[..., 2]), [-0.3, 0.3])
    # Edge 1 runs up the front, at x = 1.
    assert np.unique(lamps[..., 0]).tolist() == [1.0]
    assert np.unique(lamps[..., 1]).tolist() == [0.5, 1.5]


def test_paint_on_the_sides_stands_proud_of_both():
    solid = Solid(rectangle(-1, 1, 0, 2), 0.5, RED)
    solid.paint_sides([rectangle(0, 0.5, 1, 1.5)], RED, proud=0.02)
    assert [part.points[0, 0, 2] for part in solid.parts[-2:]] == [0.52, -0.52]
    assert [part.normal for part in solid.parts[-2:]] == [(0, 0, 1), (0, 0, -1)]


def test_a_limb_reaches_half_a_width_beyond_both_ends():
    sketch = Sketch()
    sketch.limb((1.0, 2.0), (4.0, 6.0), (0.6, 0.2), RED)  # 5 long, along (0.6, 0.8)
    along = sketch.parts[0].points[0, :, :2] @ [0.6, 0.8] - (1 * 0.6 + 2 * 0.8)
    across = sketch.parts[0].points[0, :, :2] @ [-0.8, 0.6] - (-1 * 0.8 + 2 * 0.6)
    assert along.min() == pytest.approx(-0.3)
    assert along.max() == pytest.approx(5.1)
    assert across.max() == pytest.approx(0.3)
    assert across.min() == pytest.approx(-0.3)


def test_moved_scales_turns_shifts_and_then_flips():
    sketch = Sketch()
    sketch.polygon([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)], RED)
    (part,) = moved(sketch.parts, scale=2, turn=math.pi / 2, shift=(0.5, 3), flip=True)
    # (1, 0) -> (2, 0) -> (0, 2) -> (0.5, 5) -> (-0.5, 5), and
    # (0, 1) -> (0, 2) -> (-2, 0) -> (-1.5, 3) -> (1.5, 3)
    expected = [[-0.5, 5, 0], [1.5, 3, 0], [-0.5, 3, 0]]
    np.testing.assert_allclose(part.points[0], expected, atol=1e-12)
