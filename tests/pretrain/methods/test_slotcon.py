"""SlotCon against loops over prototypes and positions, its crops, and its teacher."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from mls_d2.config.loading import load_cfg
from pretrain.batch import Batch
from pretrain.geometry import aligned_maps, overlap_boxes
from pretrain.methods import build_method
from pretrain.methods.slotcon import (
    Groups,
    OverlappingCrops,
    SlotCon,
    active_prototypes,
    pooled_slots,
    shared_area,
)
from pretrain.views import Crop, ViewGroup
from tests.pretrain.loops import cosine, positions, softmax
from tests.pretrain.methods.tiny import (
    FLIPS,
    RECTANGLES,
    apart,
    freeze,
    make_method,
    scene_batch,
    swapped,
)

K, TAU_S, TAU_T, TAU_C = 5, 0.1, 0.07, 0.2


def make(**options) -> SlotCon:
    made = make_method("slotcon", num_prototypes=K, **options)
    with torch.no_grad():  # The heads' own weights are so small that all pixels look alike.
        for weight in made.parameters():
            weight.copy_(torch.randn_like(weight))
        made.momentum_encoder.load_state_dict(made.encoder.state_dict())
    return made


def frozen() -> SlotCon:
    """Return a method with a teacher of its own, which stays, and a centre that is not 0."""
    made = make()
    freeze(made, 0.2)  # So little that both have slots in common.
    made.centre.copy_(torch.randn(K) / 10)
    return made


@pytest.fixture
def batch() -> Batch:
    return scene_batch(3)


def groups(method: SlotCon, batch: Batch) -> tuple[list[Groups], list[Groups]]:
    return [Groups(*method.encoder(view)) for view in batch.views], [
        Groups(*method.keys(view)) for view in batch.views
    ]


def slots_loop(view: Groups, n: int) -> list[list[float]]:
    pixels, dots = positions(view.x[n]), positions(view.dots[n])
    shares = [[a + 1e-6 for a in softmax([d / TAU_T for d in row])] for row in dots]
    return [
        [
            sum(a[k] * x[c] for a, x in zip(shares, pixels, strict=True))
            / sum(a[k] for a in shares)
            for c in range(4)
        ]
        for k in range(K)
    ]


def active_loop(view: Groups, n: int) -> set[int]:
    return {row.index(max(row)) for row in positions(view.dots[n])}


def test_dots_are_cosines_and_slots_are_weighted_means(batch):
    method = make()
    view = Groups(*method.encoder(batch.views[0]))
    slots = pooled_slots(view.x, view.dots, TAU_T)
    for n in range(4):
        for p, pixel in enumerate(positions(view.x[n])):
            expected = [cosine(pixel, name) for name in method.encoder.prototypes.tolist()]
            assert positions(view.dots[n])[p] == pytest.approx(expected)
        torch.testing.assert_close(slots[n], torch.tensor(slots_loop(view, n)).double())
        expected = active_loop(view, n)
        assert active_prototypes(view.dots)[n].nonzero().flatten().tolist() == sorted(expected)


def test_the_grouping_loss_is_that_of_the_paper(batch):
    method = frozen()
    student, teacher = groups(method, batch)
    boxes, overlap = overlap_boxes(RECTANGLES, FLIPS)
    assert overlap.tolist() == [True, True, False, True]
    total = 0.0
    for a, b in ((0, 1), (1, 0)):
        s = aligned_maps(student[a].dots, boxes[a], FLIPS[a], overlap)
        t = aligned_maps(teacher[b].dots, boxes[b], FLIPS[b], overlap)
        for n in range(4):
            for own, other in zip(positions(s[n]), positions(t[n]), strict=True):
                centred = [v - c for v, c in zip(other, method.centre.tolist(), strict=True)]
                target = softmax([v / TAU_T for v in centred])
                found = softmax([v / TAU_S for v in own])
                terms = zip(target, found, strict=True)
                total -= sum(x * math.log(y) for x, y in terms) / 36
    assert method(batch).losses["loss_grouping"].item() == pytest.approx(total)


def test_the_slot_loss_is_that_of_the_paper(batch):
    method = frozen()
    student, teacher = groups(method, batch)
    total = 0.0
    for a, b in ((0, 1), (1, 0)):
        keys = [slots_loop(teacher[b], n) for n in range(4)]
        asked = [
            (n, k)
            for n in range(4)
            for k in sorted(active_loop(student[a], n) & active_loop(teacher[b], n))
        ]
        candidates = [keys[n][k] for n in range(4) for k in active_loop(teacher[b], n)]
        rows = torch.tensor([slots_loop(student[a], n)[k] for n, k in asked]).double()
        for query, (n, k) in zip(method.predictor(rows).tolist(), asked, strict=True):
            every = sum(math.exp(cosine(query, c) / TAU_C) for c in candidates)
            own = math.exp(cosine(query, keys[n][k]) / TAU_C)
            total -= 2 * TAU_C * math.log(own / every) / len(asked)
    output = method(batch)
    assert output.losses["loss_slot"].item() == pytest.approx(total)
    assert output.weights == {"loss_grouping": 0.5, "loss_slot": 0.5}
    counts = [len(active_loop(student[0], n)) for n in range(4)]
    assert output.metrics["active_prototypes"].item() == pytest.approx(sum(counts) / 4)
    assert output.metrics["views_apart"].item() == 0.25


def test_the_centre_follows_the_teachers_whole_cosines_after_the_step(batch):
    method = frozen()
    _, teacher = groups(method, batch)
    before = method.centre.clone()
    output = method(batch)
    torch.testing.assert_close(method.centre, before)
    mean = torch.stack([view.dots for view in teacher]).mean(dim=(0, 1, 3, 4))
    # Rows of two processes, of which the other one's are twice as large.
    method.enqueue({"centre": torch.cat([output.keys["centre"], 2 * output.keys["centre"]])})
    torch.testing.assert_close(method.centre, 0.9 * before + 0.1 * 1.5 * mean)


def test_the_order_of_the_views_and_mirroring_an_image_do_not_matter(batch):
    method = frozen()
    expected = method(batch).losses
    mirrored = dataclasses.replace(batch, views=[v.flip(3) for v in batch.views], flips=~FLIPS)
    for other in (swapped(batch), mirrored):
        got = method(other).losses
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value)


def test_views_that_do_not_overlap_give_a_constant_without_gradient(batch):
    method = make()
    output = method(apart(batch))
    loss = output.losses["loss_grouping"]
    assert loss.item() == pytest.approx(2 * math.log(K))
    loss.backward()
    assert method.encoder.prototypes.grad.abs().sum() == 0
    assert output.metrics["views_apart"].item() == 1


def test_without_slots_in_common_the_slot_loss_is_zero_with_a_graph(batch):
    method = make()
    student, teacher = groups(method, batch)
    dots = torch.zeros(4, K, 3, 3, dtype=torch.float64)
    student = student[0]._replace(dots=student[0].dots * 0 + dots.index_fill(1, torch.tensor(0), 1))
    teacher = teacher[1]._replace(dots=dots.index_fill(1, torch.tensor(1), 1))
    loss = method.slots(student, teacher)
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in method.predictor.parameters())


def test_one_slot_in_common_is_enough_for_the_norms_of_the_predictor():
    method = make()
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    dots = torch.zeros(1, K, 3, 3, dtype=torch.float64)
    dots[:, 2] = 1
    view = Groups(x.mean(dim=(2, 3)), x, dots)
    loss = method.slots(view, view)
    # The only candidate is the key itself, so the loss is 0, to rounding.
    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_it_exports_the_teacher(batch):
    method = frozen()
    exported = method.export()["weight"]
    torch.testing.assert_close(exported, method.momentum_encoder.backbone.weight)
    assert not torch.equal(exported, method.encoder.backbone.weight)


def test_the_second_crop_is_drawn_again_until_a_hundredth_of_it_lies_in_the_first():
    crops = OverlappingCrops([ViewGroup(2, 32, (0.08, 0.2))], 0.5)
    rng = np.random.default_rng(0)
    drawn = [crops.draw(0, 480, 640, rng) for _ in range(300)]
    shares = [shared_area(a, b) / (b.width * b.height) for a, b in drawn]
    assert min(shares) >= 0.01
    flips = np.array([[a.flipped, b.flipped] for a, b in drawn])
    assert abs(np.corrcoef(flips.T)[0, 1]) < 0.15
    assert flips.mean() == pytest.approx(0.5, abs=0.06)


def test_after_ten_tries_it_takes_what_comes(monkeypatch):
    count = iter(range(100))

    def corner(height, width, scale, flip_prob, rng):
        return Crop(10 * next(count), 0, 5, 5, False)

    monkeypatch.setattr("pretrain.methods.slotcon.random_crop", corner)
    crops = OverlappingCrops([ViewGroup(2, 32, (0.1, 0.2))], 0.5)
    assert [crop.x for crop in crops.draw(0, 480, 640, np.random.default_rng(0))] == [0, 110]


def test_the_area_that_crops_share():
    one = Crop(0, 0, 10, 10, False)
    assert shared_area(one, Crop(5, 8, 10, 10, True)) == 10
    assert shared_area(one, Crop(10, 0, 5, 5, False)) == 0
    assert shared_area(one, Crop(20, 20, 5, 5, False)) == 0


def test_the_quick_config_builds_it_with_its_crops():
    cfg = load_cfg("pretrain/configs/slotcon_quick.yaml", ["MODEL.DEVICE", "cpu"])
    method = build_method(cfg)
    assert isinstance(SlotCon.crops(cfg), OverlappingCrops)
    assert method.export().keys() == method.encoder.backbone.state_dict().keys()
    assert method.predictor[0].weight.abs().max() < 2.0
    assert method.predictor[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert method.predictor[-1].bias.eq(0).all()
