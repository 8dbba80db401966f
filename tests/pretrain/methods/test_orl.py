"""ORL: its losses against loops, its views, and a whole run that is interrupted everywhere."""

import numpy as np
import pytest
import torch
from PIL import Image

from mls_d2.config.loading import load_cfg
from mls_d2.data.images import BrokenImageError, open_image
from pretrain.data import ViewDataset
from pretrain.methods import METHODS
from pretrain.methods.orl import ORL
from pretrain.sources import FileSource
from pretrain.views import ViewGroup
from pretrain.views.boxes import overlaps
from pretrain.views.pairs import ObjectPairs, box_crop, jittered_box
from tests.pretrain.loops import cosine
from tests.pretrain.methods.tiny import make_batch, make_frozen, make_method


def six_views() -> list[torch.Tensor]:
    return list(torch.randn(6, 4, 3, 2, 2, dtype=torch.float64))


def test_each_loss_compares_its_own_pair_in_both_orders():
    method = make_frozen("orl")
    batch = make_batch(six_views())
    with torch.no_grad():
        got = method(batch).losses
        z = [method.encoder(view)[1] for view in batch.views]
        t = [method.momentum_encoder(view)[1].tolist() for view in batch.views]
    # Of the crops; of a box and the same, jittered; of a box and its counterpart.
    for name, (a, b) in {"image": (0, 1), "intra": (2, 4), "inter": (3, 5)}.items():
        expected = 0.0
        for one, other in ((a, b), (b, a)):
            rows = method.predictors[name](z[one]).tolist()
            terms = [2 - 2 * cosine(p, q) for p, q in zip(rows, t[other], strict=True)]
            expected += sum(terms) / len(terms)
        assert got[f"loss_{name}"].item() == pytest.approx(expected, rel=1e-9)
    assert method(batch).weights == {}


@pytest.mark.parametrize("name", ["image", "intra", "inter"])
def test_a_loss_reaches_the_encoder_and_its_own_predictor_alone(name):
    method = make_method("orl")
    method(make_batch(six_views())).losses[f"loss_{name}"].backward()
    assert all(p.grad is not None for p in method.encoder.parameters())
    assert all(p.grad is None for p in method.momentum_encoder.parameters())
    for other, predictor in method.predictors.items():
        assert all((p.grad is not None) == (other == name) for p in predictor.parameters())


class Objects:
    """Two images: the first with three boxes and two pairs, the second with one box."""

    all_boxes = (
        np.array([[0, 0, 40, 40], [50, 10, 90, 60], [20, 30, 80, 70]], float),
        np.array([[1, 2, 31, 42]], float),
    )

    def boxes(self, place: int) -> np.ndarray:
        return self.all_boxes[place] if place < 2 else np.zeros((0, 4))

    def neighbours(self, place: int) -> np.ndarray:
        return np.array([1, 1])

    def pairs(self, place: int) -> np.ndarray:
        return np.array([[[1, 0], [2, 0]], [[2, 0], [2, 0]]])


GROUPS = [ViewGroup(2, 32, (0.2, 1.0)), ViewGroup(4, 16, (1.0, 1.0))]


def corners(crop) -> list[int]:
    return [crop.x, crop.y, crop.x + crop.width, crop.y + crop.height]


def test_views_are_two_crops_a_box_twice_and_a_pair_with_a_neighbour():
    crops = ObjectPairs(GROUPS, 0.5, source=Objects())
    rng = np.random.default_rng(0)
    drawn = [crops.draw(0, 80, 100, rng) for _ in range(300)]
    boxes = Objects.all_boxes[0].tolist()
    own = np.array([boxes.index(corners(item[2])) for item in drawn])
    paired = np.array([boxes.index(corners(item[3])) for item in drawn])
    # Any box is a; b is a box with a counterpart, more often the one in three of the four pairs.
    assert np.bincount(own).tolist() == pytest.approx([100] * 3, abs=25)
    assert np.bincount(paired, minlength=3).tolist() == pytest.approx([0, 75, 225], abs=25)
    for item in drawn:
        assert [crop.place for crop in item] == [None] * 5 + [1]
        assert corners(item[5]) == [1, 2, 31, 42]
    flips = np.array([[crop.flipped for crop in item] for item in drawn])
    assert flips.mean(axis=0) == pytest.approx([0.5] * 6, abs=0.1)


def test_the_last_view_shows_the_neighbour_and_needs_it(tmp_path):
    colours = ([200, 0, 0], [0, 0, 200])
    for number, colour in enumerate(colours):
        Image.new("RGB", (100, 80), tuple(colour)).save(tmp_path / f"{number}.png")
    source = FileSource([str(tmp_path / f"{number}.png") for number in range(2)])
    crops = ObjectPairs(GROUPS, 0.5, source=Objects())
    large, small = ViewDataset(source, crops, seed=0)[0, 0]["groups"]
    assert (large.shape, small.shape) == ((2, 32, 32, 3), (4, 16, 16, 3))
    assert (large == colours[0]).all()
    assert (small[:3] == colours[0]).all()
    assert (small[3] == colours[1]).all()
    # Its boxes are of a larger image: it is another one now.
    Image.new("RGB", (1, 9)).save(tmp_path / "1.png")
    with pytest.raises(BrokenImageError, match="smaller than when its boxes were made"):
        crops(
            open_image(source.read(0)),
            np.random.default_rng(0),
            images=lambda place: open_image(source.read(place)),
        )


@pytest.mark.parametrize("source", [None, Objects()])
def test_an_image_without_boxes_is_its_own_only_object(source):
    crops = ObjectPairs(GROUPS, 0.0, source=source).draw(2, 80, 100, np.random.default_rng(0))
    for crop in (crops[2], crops[3], crops[5]):
        assert (corners(crop), crop.place) == ([0, 0, 100, 80], None)


def test_a_jittered_box_lies_in_the_image_and_overlaps_by_more_than_half():
    rng, box = np.random.default_rng(0), np.array([20.0, 30, 60, 60])
    drawn = np.array([jittered_box(box, 90, 100, rng) for _ in range(400)])
    assert (drawn[:, :2] >= 0).all()
    assert (drawn[:, 2:] <= [100, 90]).all()
    assert (overlaps(box, drawn) > 0.5).all()
    sides = drawn[:, 2:] - drawn[:, :2]
    ratio, area = sides[:, 0] / sides[:, 1], sides.prod(axis=1) / 1200
    # The bounds of both are absolute, whatever the box's form is.
    assert (ratio.min() > 0.5, ratio.max() < 2, area.min() > 0.5, area.max() < 2) == (True,) * 4
    assert (drawn != box).any(axis=1).all()


def test_a_box_without_room_for_another_is_kept():
    # So narrow that no form between 1:2 and 2:1 overlaps it by half.
    box = np.array([0.0, 0, 100, 4])
    assert jittered_box(box, 4, 100, np.random.default_rng(0)) is box


def test_a_crop_of_a_box_has_whole_pixels_and_one_at_least():
    crop = box_crop(np.array([3.4, 4.6, 3.4, 9.0]), place=7)
    assert (crop.x, crop.y, crop.width, crop.height, crop.place) == (3, 5, 1, 4, 7)


def test_the_recipe_is_the_authors(request):
    path = request.config.rootpath / "pretrain/configs/orl_coco_800ep.yaml"
    cfg = load_cfg(str(path))
    first = ORL.first_stage(cfg)
    METHODS.get("byol").check_config(first)
    byol = load_cfg(str(path.with_name("byol_coco_800ep.yaml")))
    for key in ("SOLVER", "BYOL", "MOCO", "MODEL"):
        assert first[key] == byol[key] == cfg[key]
    for key in ("EPOCHS", "METHOD", "BATCH_NORM", "WARMUP_EPOCHS", "OPTIMIZER"):
        assert first.PRETRAIN[key] == byol.PRETRAIN[key]
    assert first.OUTPUT_DIR == "output/paper/orl-800ep/first_stage"
    assert [(group.count, group.size) for group in ORL.crops(cfg).groups] == [(2, 224), (4, 96)]
