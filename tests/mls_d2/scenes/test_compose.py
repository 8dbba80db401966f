"""Rendering against closed forms, and what drawn scenes show: co-occurrence, sizes, colours."""

import math
from itertools import combinations

import cv2
import numpy as np
import pytest

from mls_d2.scenes.compose import LABELLED, SCENE_ODDS, compose, empty_scene
from mls_d2.scenes.layouts import KINDS, visible_things
from mls_d2.scenes.render import Camera, Item, Light, Picture, Scene, render
from mls_d2.scenes.sketch import Part, Sketch, rectangle

RED, BLUE = (230.0, 20.0, 20.0), (20.0, 20.0, 230.0)


def scene_with(*items: Item) -> Scene:
    """A street of 64 x 64 pixels in white light, seen from 2 m above the ground."""
    scene = empty_scene(Sketch(np.random.default_rng(5)), "street", (64, 64))
    light = Light((1, 1, 1), 0.5, (0, 0.6, -0.8), ((9, 9, 9), (9, 9, 9)), 0.3, 0.5)
    camera = Camera(64, 64, focal=64.0, horizon=24.0, centre=32.0, eye=2.0)
    return scene._replace(camera=camera, light=light, items=items)


def board(kind: str, depth: float, colour: tuple[float, float, float] | None, half: float) -> Item:
    """A square of 2 * half metres on the ground, facing the camera."""
    sketch = Sketch(np.random.default_rng(0))
    sketch.poly(rectangle(-half, half, 0, 2 * half), colour)
    return Item(kind, sketch.parts, (0.0, 0.0, depth))


def test_a_board_fills_the_pixels_that_similar_triangles_give():
    picture = render(scene_with(board("person", 8.0, RED, 0.5)))
    rows, columns = np.nonzero(picture.ids == len(picture.kinds) - 1)
    # 8 pixels per metre at 8 m: 8 wide around column 32, feet 2 m below the horizon.
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(box, (28, 32, 36, 40), atol=1)
    np.testing.assert_allclose(picture.extents[-1], (28, 32, 36, 40), atol=0.1)
    red, green, blue = picture.image[34:38, 30:34].reshape(-1, 3).mean(axis=0)
    assert red > 100 > 3 * max(green, blue)


def test_edges_are_antialiased():
    image = render(scene_with(board("person", 8.0, (255.0, 255.0, 255.0), 0.53))).image.astype(int)
    inside, outside = image[36, 32].mean(), image[36, 22].mean()
    edge = image[34:38, 27].mean()  # the board ends at column 27.76
    assert 0.1 < (edge - outside) / (inside - outside) < 0.7


def test_air_belongs_to_the_mask_and_is_not_painted():
    picture = render(scene_with(board("bicycle", 6.0, None, 0.5)))
    assert (picture.ids == len(picture.kinds) - 1).sum() > 50
    assert np.abs(picture.image.astype(int) - render(scene_with()).image).max() <= 90  # texture


def test_faces_that_look_away_are_not_drawn():
    sketch = Sketch(np.random.default_rng(0))
    sketch.solid(rectangle(-1, 1, 0, 1), -1.0, 1.0, RED)
    near = next(part for part in sketch.parts if part.normal == (0.0, 0.0, 1.0))
    sketch.parts.append(Part(near.points, BLUE, near.normal, near.group))
    blue = [
        render(scene_with(Item("car", sketch.parts, (0, 0, 8), heading))).image[36:38, 28:36, 2]
        for heading in (0.0, math.pi)
    ]
    assert blue[0].mean() > 2 * blue[1].mean()


@pytest.mark.parametrize("place", [(0.0, 0.0, -5.0), (90.0, 0.0, 5.0)])
def test_what_is_behind_or_beside_the_view_leaves_no_trace(place: tuple[float, float, float]):
    picture = render(scene_with(board("person", 5.0, RED, 0.5)._replace(place=place)))
    assert (picture.ids == len(picture.kinds) - 1).sum() == 0
    assert picture.extents[-1] is None


def test_a_wall_that_reaches_behind_the_camera_is_cut_there():
    # From 20 m behind to 20 m ahead, 2 m to the right, 1 m high.
    sketch = Sketch(np.random.default_rng(0))
    sketch.solid(rectangle(-20, 20, 0, 1), -0.1, 0.1, RED)
    picture = render(scene_with(Item("clutter", sketch.parts, (2.1, 0, 0), math.pi / 2)))
    mask = picture.ids == len(picture.kinds) - 1
    # Its foot is 2 m to the right: at depth Z in column 32 + 64 * 2 / Z and row 24 + 64 * 2 / Z.
    for column in (40, 48, 60):
        rows, depth = np.flatnonzero(mask[:, column]), 128 / (column + 0.5 - 32)
        np.testing.assert_allclose(rows.max() + 1, 24 + 128 / depth, atol=1.5)
        np.testing.assert_allclose(rows.min(), 24 + 64 / depth, atol=1.5)
    assert not mask[:, :34].any()


@pytest.mark.parametrize("name", SCENE_ODDS)
def test_every_pixel_shows_the_last_thing_painted_there(name: str):
    scene = compose(np.random.default_rng(1), (96, 64), name)
    picture = render(scene, full_masks=True)
    expected = np.full(picture.ids.shape, -1)
    for number, mask in enumerate(picture.full_masks):
        expected[mask] = number
    np.testing.assert_array_equal(picture.ids, expected)
    items = sorted(scene.items, key=lambda item: item.layer - item.place[2])  # far to near
    assert picture.kinds[-len(items) :] == tuple(item.kind for item in items)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, Picture]]:
    scenes = [compose(np.random.default_rng(seed), (96, 96)) for seed in range(180)]
    return [(scene, render(scene)) for scene in scenes]


def categories(picture: Picture) -> list[str]:
    return [str(KINDS[picture.kinds[number]][0]) for number, _, _ in visible_things(picture)]


def test_scenes_show_several_objects_of_every_category(drawn: list[tuple[Scene, Picture]]):
    counts = np.array([len(categories(picture)) for _, picture in drawn])
    assert 3.5 <= counts.mean() <= 5.5
    assert (counts >= 2).mean() > 0.97
    assert {scene.name for scene, _ in drawn} == set(SCENE_ODDS)
    images = {str(coco): 0 for coco, _, _ in KINDS.values() if coco}
    for _, picture in drawn:
        for name in set(categories(picture)):
            images[name] += 1
    assert len(images) == 16
    assert min(images.values()) >= 0.05 * len(drawn)
    sides = [math.sqrt(w * h) for _, p in drawn for _, _, (_, _, w, h) in visible_things(p)]
    assert 18 <= np.median(sides) <= 30  # 24 to 40 in 128 rows


def test_categories_occur_together_as_in_one_place(drawn: list[tuple[Scene, Picture]]):
    present = [set(categories(picture)) for _, picture in drawn]
    share = {name: np.mean([name in found for found in present]) for name in set().union(*present)}

    def lift(one: str, other: str) -> float:  # 1 if they were independent
        both = np.mean([one in found and other in found for found in present])
        return float(both / (share[one] * share[other]))

    assert min(lift("car", "motorcycle"), lift("tv", "couch"), lift("boat", "umbrella")) > 1.5
    assert max(lift("car", "tv"), lift("boat", "chair"), lift("bus", "couch")) == 0.0
    lifts = [lift(one, other) for one, other in combinations(sorted(share), 2)]
    assert np.mean(np.abs(np.log(np.maximum(lifts, 0.1)))) > 0.5


def test_objects_stand_on_their_ground(drawn: list[tuple[Scene, Picture]]):
    grounds = {role.kind: role.grounds.split() for role in LABELLED if role.kind != "person"}
    grounds = {kind: grounds[kind] for kind in ("car", "bus", "truck", "boat", "chair")}
    found = 0
    for scene, _ in drawn:
        for item in scene.items:
            if item.kind in grounds:
                x, _, z = item.place
                across = x * math.cos(scene.angle) + z * math.sin(scene.angle)
                strip = next(strip for strip in scene.strips if across < strip.high)
                assert strip.kind in grounds[item.kind]
                found += 1
    assert found > 60


def test_colours_alone_do_not_give_a_category_away(drawn: list[tuple[Scene, Picture]]):
    # Nearest centroid of colour histograms (4 x 4 x 4 bins, square roots) of the objects' pixels.
    histograms: dict[str, list[np.ndarray]] = {}
    for _, picture in drawn:
        for number, mask, _ in visible_things(picture):
            counts = cv2.calcHist(
                [picture.image], [0, 1, 2], mask.astype(np.uint8), [4] * 3, [0, 256] * 3
            )
            name = str(KINDS[picture.kinds[number]][0])
            histograms.setdefault(name, []).append(np.sqrt(counts.ravel() / counts.sum()))
    scores = []
    for pair in (("car", "bus"), ("bus", "truck"), ("cat", "dog"), ("chair", "couch"),
                 ("bicycle", "motorcycle"), ("boat", "umbrella"), ("car", "couch"),
                 ("bench", "chair"), ("dog", "bench"), ("person", "truck")):  # fmt: skip
        samples = [np.array(histograms[name]) for name in pair]
        centroids = [found[::2].mean(axis=0) for found in samples]
        right = []
        for label, found in enumerate(samples):
            distances = [((found[1::2] - centroid) ** 2).sum(axis=1) for centroid in centroids]
            right.append((distances[label] < distances[1 - label]).mean())
        scores.append(np.mean(right))
    assert np.mean(scores) < 0.75
    assert max(scores) < 0.9
