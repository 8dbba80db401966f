"""What scenes say: things stand where they belong, in fitting company, as large as they are."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from mls_d2.scenes.labels import KINDS
from mls_d2.scenes.layout import SCENE_KINDS, compose
from mls_d2.scenes.render import render
from mls_d2.scenes.scene import Scene

NUM_SCENES = 60


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [compose(np.random.default_rng(seed), (96, 96)) for seed in range(NUM_SCENES)]


def things(scene: Scene) -> list[str]:
    return [item.kind for item in scene.items if KINDS[item.kind].coco]


def strip_under(scene: Scene, across: float) -> str:
    return next(strip.kind for strip in scene.ground.strips if across < strip.high)


def test_all_kinds_of_scenes_and_things_appear(scenes: list[Scene]):
    assert {scene.name for scene in scenes} == set(SCENE_KINDS)
    seen = {kind for scene in scenes for kind in things(scene)}
    assert seen == {kind for kind, labels in KINDS.items() if labels.coco}


def test_scenes_have_company(scenes: list[Scene]):
    counts = [len(things(scene)) for scene in scenes]
    assert 4 <= np.mean(counts) <= 12


@pytest.mark.parametrize(
    ("kind", "grounds"),
    [
        ("boat", {"water", "pond"}),
        ("car", {"road"}),
        ("bus", {"road"}),
        ("truck", {"road"}),
        ("motorcycle", {"road"}),
        ("surfboard", {"sand", "wet sand"}),
        ("traffic light", {"sidewalk"}),
        ("traffic sign", {"sidewalk"}),
        ("bench", {"sidewalk", "path", "grass"}),
    ],
)
def test_things_stand_on_their_ground(scenes: list[Scene], kind: str, grounds: set[str]):
    found = {
        strip_under(scene, item.place[2])
        for scene in scenes
        for item in scene.items
        if item.kind == kind
    }
    assert found
    assert found <= grounds


def test_company_tells_the_place(scenes: list[Scene]):
    for scene in scenes:
        present = set(things(scene))
        if present & {"car", "bus", "truck", "traffic light", "traffic sign"}:
            assert scene.name == "street"
        if present & {"surfboard"}:
            assert scene.name == "beach"
        if "kite" in present:
            assert scene.name in ("park", "beach")


def test_umbrellas_are_planted_on_beaches_and_held_elsewhere(scenes: list[Scene]):
    for scene in scenes:
        for item in scene.items:
            if item.kind != "umbrella":
                continue
            lowest = min(part.points[..., 1].min() for part in item.parts)
            if scene.name == "beach" and lowest < 0.5:
                assert strip_under(scene, item.place[2]) == "sand"
            else:
                # Somebody stands right below it.
                holders = [other for other in scene.items if other.kind == "person"]
                assert any(math.dist(item.place, other.place) < 0.01 for other in holders)


def test_riders_sit_on_something(scenes: list[Scene]):
    for scene in scenes:
        seats = [item.place for item in scene.items if item.kind in ("bicycle", "motorcycle")]
        riders = [item.place for item in scene.items if item.kind == "rider"]
        assert set(riders) <= set(seats)


def test_kites_fly_and_people_stand(scenes: list[Scene]):
    for scene in scenes:
        for item in scene.items:
            assert (item.place[1] > 0) == (item.kind == "kite") or item.kind == "bird"


def test_vehicles_do_not_stand_in_one_another(scenes: list[Scene]):
    for scene in scenes:
        vehicles = [item for item in scene.items if item.kind in ("car", "bus", "truck")]
        for number, one in enumerate(vehicles):
            for other in vehicles[number + 1 :]:
                same_lane = abs(one.place[2] - other.place[2]) < 1.5
                assert not same_lane or abs(one.place[0] - other.place[0]) > 4.5


def test_painters_order_is_far_to_near(scenes: list[Scene]):
    for scene in scenes:
        depths = [
            scene.camera.depth_of(item.place[0], item.place[2])
            for item in scene.items
            if item.kind not in ("building", "wall", "fence")
        ]
        # Layers within a group move a thing by 0.2 m at most.
        assert all(far > near - 0.41 for far, near in zip(depths, depths[1:], strict=False))


def test_the_row_of_the_feet_tells_the_height_of_a_person(scenes: list[Scene]):
    # On flat ground the eye height is the distance from feet to horizon, so the pixels between
    # measure metres: nobody is taller than 1.9 m, with an arm raised 2.4 m.
    tallest = 0.0
    for scene in scenes:
        picture = render(scene)
        for kind, extent in zip(picture.kinds, picture.extents, strict=True):
            if kind != "person" or extent is None:
                continue
            _, top, _, feet = extent
            metres = (feet - top) * scene.camera.eye / (feet - scene.camera.horizon)
            tallest = max(tallest, metres)
            assert metres < 2.6
    assert tallest > 1.6


def test_one_class_has_many_looks():
    # The same class must not have the same pixels: colours of cars spread over the colour cube.
    paints = []
    for seed in range(40):
        scene = compose(np.random.default_rng(seed), (96, 96), "street")
        for item in scene.items:
            if item.kind == "car":
                colours = Counter(part.colour for part in item.parts)
                paints.append(colours.most_common(1)[0][0])
    assert len(set(paints)) == len(paints)
    assert (np.std(np.array(paints), axis=0) > 40).all()
