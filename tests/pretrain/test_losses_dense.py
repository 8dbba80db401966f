"""Losses of positions, regions and slots against slow loops and closed forms, in float64."""

import math

import pytest
import torch

from pretrain.losses import info_nce
from pretrain.losses_dense import (
    grouping_loss,
    object_loss,
    pixel_contrast_loss,
    pixel_propagation_loss,
    region_similarity_loss,
    set_similarity_loss,
    slot_loss,
)
from tests.pretrain import loops
from tests.pretrain.loops import cosine, normal

TAU = 0.2


def pairs(*shape: int, share: float = 0.4, seed: int = 0) -> torch.Tensor:
    """Return a bool mask whose last image has no positive and whose first has an empty row."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share
    mask[-1] = False
    mask[0, 1] = False
    return mask


def propagation_loops(y, x, mask):
    total = 0.0
    for n in range(len(y)):
        found, count = 0.0, 0
        for i in range(y.shape[1]):
            for j in range(x.shape[1]):
                if mask[n, i, j]:
                    found += cosine(y[n, i].tolist(), x[n, j].tolist())
                    count += 1
        total += -2 * found / (count + 1e-6)
    return total / len(y)


def contrast_loops(q, k, mask, tau):
    total = 0.0
    for n in range(len(q)):
        terms = []
        for i in range(q.shape[1]):
            e = [math.exp(cosine(q[n, i].tolist(), row) / tau) for row in k[n].tolist()]
            own = sum(value for value, chosen in zip(e, mask[n, i], strict=True) if chosen)
            if own:
                terms.append(-math.log(own / sum(e)))
        total += sum(terms) / len(terms) if terms else 0.0
    return total / len(q)


def set_loops(q, k, mask, queue, tau):
    total = 0.0
    for n in range(len(q)):
        terms = []
        for i in range(q.shape[1]):
            row = q[n, i].tolist()
            c = [cosine(row, k[n, j].tolist()) / tau for j in range(k.shape[1]) if mask[n, i, j]]
            if c:
                below = sum(map(math.exp, c))
                below += sum(math.exp(cosine(row, u) / tau) for u in queue.tolist())
                terms.append(-sum(v - math.log(below) for v in c) / len(c))
        total += sum(terms) / len(terms) if terms else 0.0
    return total / len(q)


def slot_loops(q, k, c, tau, counted, valid):
    terms = []
    for i in range(len(q)):
        if counted[i]:
            own = math.exp(cosine(q[i].tolist(), k[i].tolist()) / tau)
            every = sum(
                math.exp(cosine(q[i].tolist(), row.tolist()) / tau)
                for row, there in zip(c, valid, strict=True)
                if there
            )
            terms.append(-2 * tau * math.log(own / every))
    return sum(terms) / len(terms)


def region_loops(q, k, negatives, tau, valid):
    terms = []
    share = len(q) // len(negatives)
    for n in range(len(q)):
        for r in range(q.shape[1]):
            if valid[n, r]:
                row = q[n, r].tolist()
                terms.append(
                    loops.info_nce(row, k[n, r].tolist(), negatives[n // share].tolist(), tau)
                )
    return sum(terms) / len(terms)


def grouping_loops(s, t, c, tau_s, tau_t):
    terms = []
    for n in range(len(s)):
        for p in range(s.shape[2]):
            a = [math.exp((v - m) / tau_t) for v, m in zip(t[n, :, p].tolist(), c, strict=True)]
            b = [math.exp(v / tau_s) for v in s[n, :, p].tolist()]
            terms.append(-sum(x / sum(a) * math.log(y / sum(b)) for x, y in zip(a, b, strict=True)))
    return sum(terms) / len(terms)


# PixPro's loss of pixels and SoCo's of boxes are one formula.
MATCHED = pytest.mark.parametrize("loss", [pixel_propagation_loss, object_loss])


@MATCHED
def test_the_loss_of_matched_pairs_equals_its_loop_in_both_orders(loss):
    y, x, mask = normal(4, 5, 6), normal(4, 5, 6, seed=1), pairs(4, 5, 5)
    assert loss(y, x, mask).item() == pytest.approx(propagation_loops(y, x, mask), abs=1e-12)
    torch.testing.assert_close(loss(x, y, mask.mT), loss(y, x, mask))


@MATCHED
def test_it_is_minus_two_where_all_agree_and_lengths_do_not_matter(loss):
    y, mask = normal(1, 1, 6).expand(3, 5, 6), torch.ones(3, 5, 5, dtype=torch.bool)
    assert loss(y, 3 * y, mask).item() == pytest.approx(-2, abs=1e-6)


def test_pixel_contrast_equals_its_loop():
    q, k, mask = normal(4, 5, 6), normal(4, 5, 6, seed=1), pairs(4, 5, 5)
    expected = contrast_loops(q, k, mask, TAU)
    assert pixel_contrast_loss(q, k, mask, TAU).item() == pytest.approx(expected, abs=1e-12)


def test_pixel_contrast_of_equal_cosines_is_a_logarithm():
    one = normal(1, 1, 6).expand(2, 8, 6)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[..., :3] = True
    assert pixel_contrast_loss(one, one, mask, TAU).item() == pytest.approx(math.log(8 / 3))


def test_the_set_loss_equals_its_loop():
    q, k, mask = normal(4, 5, 6), normal(4, 5, 6, seed=1), pairs(4, 5, 5)
    queue = torch.nn.functional.normalize(normal(7, 6, seed=2), dim=1)
    expected = set_loops(q, k, mask, queue, TAU)
    assert set_similarity_loss(q, k, mask, queue, TAU).item() == pytest.approx(expected, abs=1e-12)


def test_the_set_loss_of_equal_cosines_is_a_logarithm():
    one = torch.nn.functional.normalize(normal(1, 1, 6), dim=2).expand(2, 8, 6)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[..., :3] = True
    loss = set_similarity_loss(one, one, mask, one[0, :4], TAU)
    assert loss.item() == pytest.approx(math.log(3 + 4))


def test_the_set_loss_of_single_positives_is_infonce():
    q, k = normal(2, 4, 6), normal(2, 4, 6, seed=1)
    queue = torch.nn.functional.normalize(normal(7, 6, seed=2), dim=1)
    rows = [torch.nn.functional.normalize(part.flatten(0, 1), dim=1) for part in (q, k)]
    mask = torch.eye(4, dtype=torch.bool).expand(2, 4, 4)
    torch.testing.assert_close(
        set_similarity_loss(q, k, mask, queue, TAU), info_nce(*rows, queue, TAU)
    )


def test_the_slot_loss_equals_its_loop():
    q, k, c = normal(6, 5), normal(6, 5, seed=1), normal(9, 5, seed=2)
    counted = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    valid = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1], dtype=torch.bool)
    got = slot_loss(q, k, c, TAU, counted=counted, valid=valid)
    assert got.item() == pytest.approx(slot_loops(q, k, c, TAU, counted, valid), abs=1e-12)
    everything = slot_loss(q, k, c, TAU)
    expected = slot_loops(q, k, c, TAU, [True] * 6, [True] * 9)
    assert everything.item() == pytest.approx(expected, abs=1e-12)
    same = q[:1].expand(6, 5)
    assert slot_loss(same, same, same, TAU).item() == pytest.approx(2 * TAU * math.log(6))


def test_slots_of_two_processes_have_the_mean_loss_of_all():
    q, k, c = normal(6, 5), normal(6, 5, seed=1), normal(9, 5, seed=2)
    counted = torch.tensor([1, 0, 0, 1, 1, 1], dtype=torch.bool)
    whole = slot_loss(q, k, c, TAU, counted=counted)
    parts = [
        slot_loss(q[part], k[part], c, TAU, counted=counted[part], count=torch.tensor(2.0))
        for part in (slice(3), slice(3, 6))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_the_region_loss_equals_its_loop_with_shared_and_with_own_negatives():
    q, k, valid = normal(4, 3, 5), normal(4, 3, 5, seed=1), pairs(4, 3)
    for negatives in (normal(1, 8, 5, seed=2), normal(2, 8, 5, seed=3), normal(4, 8, 5, seed=4)):
        got = region_similarity_loss(q, k, negatives, TAU, valid=valid)
        assert got.item() == pytest.approx(region_loops(q, k, negatives, TAU, valid), abs=1e-12)
    flat = region_similarity_loss(q, k, negatives[0], TAU)
    expected = region_loops(q, k, negatives[:1], TAU, torch.ones(4, 3))
    assert flat.item() == pytest.approx(expected, abs=1e-12)
    same = normal(1, 1, 5).expand(2, 3, 5)
    assert region_similarity_loss(same, same, same[0], TAU).item() == pytest.approx(math.log(4))


def test_regions_of_two_processes_have_the_mean_loss_of_all():
    q, k, valid, cells = normal(4, 3, 5), normal(4, 3, 5, seed=1), pairs(4, 3), normal(8, 5, seed=2)
    whole = region_similarity_loss(q, k, cells, TAU, valid=valid)
    count = valid.sum() / 2
    parts = [
        region_similarity_loss(q[p], k[p], cells, TAU, valid=valid[p], count=count)
        for p in (slice(2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_the_grouping_loss_equals_its_loop():
    s, t, c = normal(3, 4, 5), normal(3, 4, 5, seed=1), normal(4, seed=2) / 10
    got = grouping_loss(s, t, c, student_temperature=0.1, teacher_temperature=0.07)
    expected = grouping_loops(s, t, c.tolist(), 0.1, 0.07)
    assert got.item() == pytest.approx(expected, rel=1e-9)
    flat = grouping_loss(0 * s, t, c, student_temperature=0.1, teacher_temperature=0.07)
    assert flat.item() == pytest.approx(math.log(4))


NAMES = ("propagation", "object", "contrast", "set", "slot", "region")


def call_all(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return every loss of rows ``(N, P, d)`` with a mask ``(N, P, P)``, of which rows count."""
    some = mask.any(dim=2)
    queue = torch.nn.functional.normalize(normal(3, q.shape[2]), dim=1).to(q.dtype)
    flat = [rows.flatten(0, 1) for rows in (q, k)]
    return {
        "propagation": pixel_propagation_loss(q, k, mask),
        "object": object_loss(q, k, mask),
        "contrast": pixel_contrast_loss(q, k, mask, TAU),
        "set": set_similarity_loss(q, k, mask, queue, TAU),
        "slot": slot_loss(*flat, flat[1], TAU, counted=some.flatten(), valid=some.flatten()),
        "region": region_similarity_loss(q, k, queue, TAU, valid=some),
    }


@pytest.mark.parametrize("name", NAMES)
def test_without_anything_to_compare_the_loss_is_zero_with_a_graph(name):
    q, k = normal(2, 4, 6).requires_grad_(), normal(2, 4, 6, seed=1).requires_grad_()
    loss = call_all(q, k, torch.zeros(2, 4, 4, dtype=torch.bool))[name]
    assert loss.item() == 0
    loss.backward()
    for rows in (q, k):
        assert rows.grad is None or torch.equal(rows.grad, torch.zeros_like(rows))
    assert q.grad is not None


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_right_and_reach_rows_that_count_alone(name):
    q, k, mask = normal(2, 3, 4), normal(2, 3, 4, seed=1), pairs(2, 3, 3, share=0.8)
    mask[0, 0, 0] = False  # A row of positives alone has nothing to contrast.
    q.requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: call_all(rows, k, mask)[name], (q,))
    call_all(q, k, mask)[name].backward()
    reached = q.grad.abs().sum(dim=2) > 0
    assert torch.equal(reached, mask.any(dim=2))


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_in_float32_under_autocast(name):
    q, k, mask = normal(2, 4, 6).float(), normal(2, 4, 6, seed=1).float(), pairs(2, 4, 4)
    plain = call_all(q, k, mask)[name]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = call_all(q, k, mask)[name]
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: pixel_propagation_loss(q, q, torch.ones(2, 4, 3) > 0), r"\(2, 4, 3\)"),
        (lambda q: pixel_propagation_loss(q, q, torch.ones(2, 4, 4)), "torch.float32"),
        (lambda q: object_loss(q, q[:, :3], torch.ones(2, 4, 3) > 0), r"\(2, 3, 6\)|\(2, 4, 3\)"),
        (lambda q: pixel_contrast_loss(q, q, torch.ones(2, 4, 4) > 0, 0.0), "must be > 0, got 0"),
        (
            lambda q: set_similarity_loss(q, q, torch.ones(2, 4, 4) > 0, q[0, :, :2], 1.0),
            r"queue \(D, d\).*got \(4, 2\)",
        ),
        (lambda q: slot_loss(q[0], q[1], q[0, :, :2], 1.0), r"candidates \(C, d\)"),
        (lambda q: region_similarity_loss(q, q, normal(3, 5, 6), 1.0), "G a divisor"),
        (
            lambda q: grouping_loss(
                q, q, q[0, 0], student_temperature=1.0, teacher_temperature=1.0
            ),
            r"centre \(K,\)",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(2, 4, 6))
