"""Rendering hand-made scenes, whose pixels follow from the camera, and properties of drawn ones."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mls_d2.scenes.camera import Camera
from mls_d2.scenes.layout import compose
from mls_d2.scenes.parts import Part, Sketch, Solid, rectangle
from mls_d2.scenes.render import Picture, render
from mls_d2.scenes.scene import Item, Scene

RED, BLUE = (230.0, 20.0, 20.0), (20.0, 20.0, 230.0)


def empty_scene(*items: Item) -> Scene:
    """A real scene's ground and light; the camera looks along ``s`` from (0, 0), 64 x 64 pixels."""
    scene = compose(np.random.default_rng(5), (64, 64), "street")
    camera = Camera(64, 64, focal=64.0, horizon=24.0, eye=2.0, yaw=0.0, across=0.0)
    light = replace(scene.light, tint=(1.0, 1.0, 1.0), haze=1e6)
    return replace(scene, camera=camera, light=light, items=items)


def board(kind: str, depth: float, colour: tuple[float, float, float], half: float = 0.5) -> Item:
    """A flat square on the ground, 2 * half metres wide and high, facing the camera."""
    sketch = Sketch()
    sketch.polygon(rectangle(-half, half, 0, 2 * half), colour)
    return Item(kind, sketch.parts, (depth, 0.0, 0.0), heading=math.pi / 2)


def box_of(picture: Picture, number: int) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(picture.ids == number)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_a_board_fills_the_pixels_that_the_camera_says():
    picture = render(empty_scene(board("person", 8.0, RED)))
    number = len(picture.kinds) - 1
    assert picture.kinds[number] == "person"
    # 8 pixels for a metre at 8 m: 8 wide around column 32, feet 2 m below the horizon.
    x0, y0, x1, y1 = box_of(picture, number)
    np.testing.assert_allclose((x0, y0, x1, y1), (28, 32, 36, 40), atol=1)
    np.testing.assert_allclose(picture.extents[number], (28, 32, 36, 40), atol=0.1)
    red, green, blue = picture.image[34:38, 30:34].reshape(-1, 3).mean(axis=0)
    assert red > 100 > 3 * max(green, blue)


def test_the_near_hides_the_far():
    far, near = board("car", 8.0, RED, half=2.0), board("person", 4.0, BLUE, half=0.75)
    picture = render(empty_scene(far, near), full_masks=True)
    car, person = len(picture.kinds) - 2, len(picture.kinds) - 1
    full_car, full_person = picture.full_masks[car], picture.full_masks[person]
    assert (full_car & full_person).sum() > 10
    np.testing.assert_array_equal(picture.ids == person, full_person)
    np.testing.assert_array_equal(picture.ids == car, full_car & ~full_person)


def test_every_pixel_shows_the_last_thing_painted_there():
    # The oracle paints the full masks one over the other; streets overlap a lot.
    for seed in range(4):
        scene = compose(np.random.default_rng(seed), (96, 64), "street")
        picture = render(scene, full_masks=True)
        expected = np.full(picture.ids.shape, -1)
        for number, mask in enumerate(picture.full_masks):
            expected[mask] = number
        np.testing.assert_array_equal(picture.ids, expected)


def test_an_item_twice_as_far_is_half_as_large():
    sizes = []
    for depth in (4.0, 8.0):
        x0, y0, x1, y1 = render(empty_scene(board("person", depth, RED))).extents[-1]
        sizes.append((x1 - x0, y1 - y0))
    np.testing.assert_allclose(sizes[0], 2 * np.array(sizes[1]), atol=0.2)


def test_faces_that_look_away_are_not_drawn():
    solid = Solid(rectangle(-1.0, 1.0, 0.0, 1.0), 1.0, RED)
    front = Part(solid.parts[0].points, BLUE, solid.parts[0].normal, masked=False)
    # Heading pi/2 turns the side +z to the camera and -z away.
    toward = Item("car", [*solid.parts, front], (8.0, 0.0, 0.0), heading=math.pi / 2)
    away = replace(toward, heading=-math.pi / 2)
    blue = [render(empty_scene(item)).image[36:38, 28:36, 2].mean() for item in (toward, away)]
    assert blue[0] > 2 * blue[1]


def test_what_is_not_masked_is_drawn_but_not_marked():
    item = board("kite", 6.0, RED)
    string = replace(item.parts[0], masked=False)
    picture = render(empty_scene(replace(item, parts=[string])))
    assert (picture.ids == len(picture.kinds) - 1).sum() == 0
    assert picture.extents[-1] is None
    bare = render(empty_scene())
    assert np.abs(picture.image.astype(int) - bare.image).max() > 60


def test_what_is_masked_without_a_colour_is_marked_but_not_drawn():
    item = board("bicycle", 6.0, RED)
    air = replace(item.parts[0], colour=None)
    picture = render(empty_scene(replace(item, parts=[air])))
    assert (picture.ids == len(picture.kinds) - 1).sum() > 50
    np.testing.assert_array_equal(picture.image, render(empty_scene()).image)


@pytest.mark.parametrize("place", [(-5.0, 0.0, 0.0), (5.0, 0.0, 90.0)])
def test_what_is_behind_or_beside_the_view_leaves_no_trace(place: tuple[float, float, float]):
    picture = render(empty_scene(replace(board("person", 5.0, RED), place=place)))
    assert (picture.ids == len(picture.kinds) - 1).sum() == 0


def test_a_thing_that_reaches_behind_the_camera_is_cut_there():
    # A wall along the street, from 20 m behind to 20 m ahead, 2 m to the right, 1 m high.
    wall = Item(
        "wall", Solid(rectangle(-20, 20, 0, 1), 0.1, RED).parts, (0.0, 0.0, 2.1), heading=0.0
    )
    picture = render(empty_scene(wall))
    mask = picture.ids == len(picture.kinds) - 1
    # Its foot is 2 m to the right: at depth Z in column 32 + 64 * 2 / Z and row 24 + 64 * 2 / Z.
    for column in (40, 48, 60):
        rows = np.flatnonzero(mask[:, column])
        depth = 128 / (column + 0.5 - 32)
        np.testing.assert_allclose(rows.max() + 1, 24 + 128 / depth, atol=1.5)
        np.testing.assert_allclose(rows.min(), 24 + 64 / depth, atol=1.5)
    assert not mask[:, :34].any()


def test_haze_draws_far_things_towards_the_sky():
    light = replace(empty_scene().light, sky_low=(200.0, 200.0, 200.0), haze=10.0)
    greys = []
    for depth in (5.0, 40.0):
        scene = replace(empty_scene(board("person", depth, (0.0, 0.0, 0.0), half=4.0)), light=light)
        greys.append(render(scene).image[20:23, 31:33].mean())
    # At 40 m and a haze of 10 m, 98 % of the colour is the sky's; contrast moves it by up to 12 %.
    assert greys[0] < 120
    assert greys[1] > 170


def test_images_have_texture_everywhere():
    # Flat fills would make any crop of a surface the same; the grain is what a crop can differ by.
    picture = render(compose(np.random.default_rng(1), (128, 128), "park"))
    blurred = cv2.GaussianBlur(picture.image, (7, 7), 2).astype(int)
    roughness = np.abs(picture.image.astype(int) - blurred).mean(axis=2)
    blocks = roughness.reshape(8, 16, 8, 16).mean(axis=(1, 3))
    assert (blocks > 0.3).all()
