"""Boxes of objects: which are taken, where views show them, and what a pair of views gets."""

import itertools

import numpy as np
import pytest

from pretrain.views import Crop
from pretrain.views.boxes import ObjectBoxes, eligible_boxes, jittered_boxes, shown_boxes

HEIGHT, WIDTH = 200, 300


class Fixed:
    """The same boxes for every image."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.found = np.array(boxes, np.float32).reshape(-1, 4)

    def boxes(self, place: int) -> np.ndarray:
        return self.found


def random_boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    corner = rng.uniform(-20, 250, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 250, (count, 2))], axis=1)


def ladder(boxes: np.ndarray) -> list[list[float]]:
    """Return the boxes that SoCo's rules leave, one by one."""
    cut = [[max(0, x0), max(0, y0), min(WIDTH, x1), min(HEIGHT, y1)] for x0, y0, x1, y1 in boxes]
    kept: list[list[list[float]]] = [[], [], []]
    for x0, y0, x1, y1 in cut:
        w, h = x1 - x0, y1 - y0
        if w >= 32 and h >= 32:
            kept[2].append([x0, y0, x1, y1])
            if max(w, h) / min(w, h) <= 3:
                kept[1].append([x0, y0, x1, y1])
                if 0.3 <= (w * h) ** 0.5 / (WIDTH * HEIGHT) ** 0.5 <= 0.8:
                    kept[0].append([x0, y0, x1, y1])
    return next((part for part in kept if part), [])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
def test_eligible_boxes_are_those_of_the_rules(count):
    for seed in range(30):
        boxes = random_boxes(count, np.random.default_rng(seed))
        expected = np.array(ladder(boxes)).reshape(-1, 4)
        np.testing.assert_allclose(eligible_boxes(boxes, HEIGHT, WIDTH), expected)


@pytest.mark.parametrize(
    ("boxes", "kept"),
    [
        ([[0, 0, 100, 99], [0, 0, 60, 60], [0, 0, 40, 150]], [0]),  # one of middle size
        ([[0, 0, 60, 60], [0, 0, 300, 190], [0, 0, 40, 150]], [0, 1]),  # too small, too large
        ([[0, 0, 40, 150], [0, 0, 31, 150]], [0]),  # too long
        ([[0, 0, 31, 150], [5, 5, 5, 5], [90, 90, 20, 20]], []),  # narrow, empty, inverted
        ([[-500, 0, -100, 100], [0, 900, 100, 990]], []),  # outside of the image
        ([[0, 0, np.nan, 100], [0, 0, np.inf, 100], [0, 0, 100, 99]], [2]),
    ],
)
def test_the_rules_give_way_one_after_the_other(boxes, kept):
    got = eligible_boxes(np.array(boxes, np.float32), HEIGHT, WIDTH)
    np.testing.assert_allclose(got, np.array(boxes)[kept].reshape(-1, 4))


def test_a_box_of_exactly_the_limits_is_taken():
    for box in ([0, 0, 32, 96], [0, 0, 96, 32]):
        assert len(eligible_boxes(np.array([box]), 100, 100)) == 1
    for side, share in ((100, 0.3), (100, 0.8)):
        box = np.array([[0, 0, share * side * 2, share * side * 2], [0, 0, 33, 99]])
        assert len(eligible_boxes(box, 200, 200)) == 1


@pytest.mark.parametrize("flipped", [False, True])
def test_boxes_are_shown_where_their_pixels_are(flipped):
    crop = Crop(30, 20, 100, 80, flipped)
    box = np.array([[50, 10, 70, 60], [0, 0, 20, 20], [0, 0, 300, 200]])
    expected = np.array([[0.2, 0, 0.4, 0.5], [0, 0, 0, 0], [0, 0, 1, 1]])
    if flipped:
        expected = np.array([[0.6, 0, 0.8, 0.5], [1, 0, 1, 0], [0, 0, 1, 1]])
    np.testing.assert_allclose(shown_boxes(box, crop), expected, atol=1e-12)
    # The pixels of a box are where the flipped picture has them.
    picture = np.zeros((HEIGHT, WIDTH))
    picture[10:60, 50:70] = 1
    view = picture[20:100, 30:130][:, :: -1 if flipped else 1]
    x0, y0, x1, y1 = (shown_boxes(box, crop)[0] * [100, 80, 100, 80]).round().astype(int)
    assert view[y0:y1, x0:x1].all()
    assert view.sum() == (y1 - y0) * (x1 - x0)


def test_jitter_moves_and_resizes_by_up_to_a_tenth_within_the_image():
    rng = np.random.default_rng(0)
    boxes = np.tile([[100.0, 50, 180, 110]], (4000, 1))
    moved = jittered_boxes(boxes, HEIGHT, WIDTH, 1.0, rng)
    shift = (moved[:, :2] - boxes[:, :2]) / [80, 60]
    growth = (moved[:, 2:] - moved[:, :2]) / [80, 60] - 1
    for part in (shift, growth):
        assert np.abs(part).max() <= 0.1
        np.testing.assert_allclose(part.mean(axis=0), 0, atol=0.005)
        np.testing.assert_allclose(part.std(axis=0), 0.1 / 3**0.5, rtol=0.05)
    # Nothing depends on anything else.
    correlation = np.corrcoef(np.concatenate([shift, growth], axis=1).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.06
    some = jittered_boxes(boxes, HEIGHT, WIDTH, 0.5, rng)
    assert (some == boxes).all(axis=1).mean() == pytest.approx(0.5, abs=0.03)
    whole = jittered_boxes(np.array([[0.0, 0, WIDTH, HEIGHT]] * 50), HEIGHT, WIDTH, 1.0, rng)
    assert whole.min() >= 0
    assert (whole.max(axis=0) <= [WIDTH, HEIGHT] * 2).all()
    np.testing.assert_array_equal(jittered_boxes(boxes, HEIGHT, WIDTH, 0.0, rng), boxes)


# Four boxes that both crops below show, and one that the second does not.
SOURCE = Fixed(
    (0, 0, 100, 100),
    (60, 60, 160, 150),
    (20, 30, 140, 120),
    (100, 0, 220, 90),
    (210, 100, 299, 199),
)
FIRST, SECOND = Crop(0, 0, WIDTH, HEIGHT, True), Crop(10, 10, 180, 150, False)


def make(count: int, jitter: float = 0.0, source: Fixed = SOURCE) -> ObjectBoxes:
    return ObjectBoxes(source, count=count, jitter_prob=jitter)


def test_a_pair_gets_different_objects_that_both_views_show():
    seen = set()
    for seed in range(300):
        got = make(3)(0, (HEIGHT, WIDTH), [FIRST, SECOND], np.random.default_rng(seed))
        assert got.shape == (1, 2, 3, 5)
        assert got.dtype == np.float32
        numbers = got[0, :, :, 4].astype(int)
        np.testing.assert_array_equal(numbers[0], numbers[1])
        assert len(set(numbers[0])) == 3
        seen.add(tuple(numbers[0]))
        for view, crop in enumerate((FIRST, SECOND)):
            expected = shown_boxes(SOURCE.found[numbers[0]], crop)
            np.testing.assert_allclose(got[0, view, :, :4], expected, atol=1e-6)
    # All of those that both show, in every order, and no other.
    assert seen == set(itertools.permutations(range(4), 3))


def test_copies_fill_the_places_of_missing_objects():
    got = make(9)(0, (HEIGHT, WIDTH), [FIRST, SECOND], np.random.default_rng(1))[0]
    assert set(got[0, :4, 4]) == {0, 1, 2, 3}
    assert set(got[0, 4:, 4]) <= {0, 1, 2, 3}
    assert len(set(got[0, 4:, 4])) > 1
    for view in got:
        for row in view[4:]:
            original = view[view[:4, 4].tolist().index(row[4])]
            np.testing.assert_array_equal(row, original)


def test_the_first_views_boxes_alone_are_jittered():
    rng = np.random.default_rng(0)
    got = make(4, jitter=1.0)(0, (HEIGHT, WIDTH), [FIRST, SECOND], rng)[0]
    found = SOURCE.found[got[0, :, 4].astype(int)]
    np.testing.assert_allclose(got[1, :, :4], shown_boxes(found, SECOND), atol=1e-6)
    assert (got[0, :, :4] != shown_boxes(found, FIRST).astype(np.float32)).any(axis=1).all()


def test_pairs_of_several_views_draw_by_themselves():
    crops = [FIRST, SECOND, SECOND]
    pairs = [
        make(2, jitter=0.5)(0, (HEIGHT, WIDTH), crops, np.random.default_rng(seed))
        for seed in range(20)
    ]
    assert pairs[0].shape == (2, 2, 2, 5)
    assert sum((one[0] != one[1]).any() for one in pairs) > 15


@pytest.mark.parametrize(
    "source",
    [Fixed(), Fixed((0, 0, 10, 10)), Fixed((210, 100, 299, 199)), Fixed((-90, -90, -10, -10))],
    ids=["none", "too small", "not in the crop", "outside of the image"],
)
def test_without_an_object_the_whole_image_is_one(source):
    got = make(3, source=source)(0, (HEIGHT, WIDTH), [FIRST, SECOND], np.random.default_rng(0))
    np.testing.assert_array_equal(got, np.tile([0, 0, 1, 1, -1], (1, 2, 3, 1)))


def test_an_image_of_one_pixel_has_boxes():
    dot = Crop(0, 0, 1, 1, False)
    got = make(2, jitter=1.0, source=Fixed())(0, (1, 1), [dot, dot], np.random.default_rng(0))
    assert np.isfinite(got).all()
    assert ((got[..., 2:4] - got[..., :2]) > 0.5).all()
