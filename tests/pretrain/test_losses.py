"""Losses against slow loops and closed forms, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretrain.losses import (
    barlow_terms,
    batch_similarities,
    cross_correlation,
    info_nce,
    info_nce_from_similarities,
    knn_softmax,
    multi_label_bce,
    multi_positive_softmax,
    negative_cosine,
    positive_bce,
    similarities,
)
from tests.pretrain import loops

TAU = 0.2


def unit_rows(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def bce_loops(logits, labels, temperature):
    total = 0.0
    for row, marks in zip(logits.tolist(), labels.tolist(), strict=True):
        for p, y in zip(row, marks, strict=True):
            sigma = 1 / (1 + math.exp(-p / temperature))
            total -= (math.log(sigma) if y else math.log(1 - sigma)) / len(row)
    return total / len(logits)


def positive_bce_loops(logits, labels, temperature):
    total = 0.0
    for row, marks in zip(logits.tolist(), labels.tolist(), strict=True):
        for p, y in zip(row, marks, strict=True):
            total -= y * math.log(1 / (1 + math.exp(-p / temperature))) / len(row)
    return total / len(logits)


def knn_loops(logits, labels, temperature):
    total = 0.0
    for row, marks in zip(logits.tolist(), labels.tolist(), strict=True):
        pairs = list(zip(row, marks, strict=True))
        negatives = sum(math.exp(p / temperature) for p, y in pairs if not y)
        for p, y in pairs:
            own = math.exp(p / temperature)
            total -= y * math.log(own / (own + negatives)) / sum(marks)
    return total / len(logits)


def multi_positive_loops(logits, labels, temperature):
    total = 0.0
    for row, marks in zip(logits.tolist(), labels.tolist(), strict=True):
        everything = sum(math.exp(p / temperature) for p in row)
        for p, y in zip(row, marks, strict=True):
            total -= y * math.log(math.exp(p / temperature) / everything) / sum(marks)
    return total / len(logits)


def cosines_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``(5, 12)`` in [-1, 1] and three labels a row."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.rand(5, 12, generator=generator, dtype=torch.float64) * 2 - 1
    order = torch.rand(5, 12, generator=generator).argsort(dim=1)
    return logits, order < 3


@pytest.mark.parametrize(("n", "d", "size"), [(1, 2, 1), (3, 5, 7), (4, 8, 16)])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_info_nce_equals_the_loops(n, d, size, temperature):
    q, k, rows = unit_rows(n, d, seed=1), unit_rows(n, d, seed=2), unit_rows(size, d, seed=3)
    got = info_nce(q, k, rows, temperature)
    pairs = zip(q.tolist(), k.tolist(), strict=True)
    expected = [loops.info_nce(*pair, rows.tolist(), temperature) for pair in pairs]
    assert got.item() == pytest.approx(sum(expected) / n, abs=1e-12)


@pytest.mark.parametrize("size", [1, 9, 1024])
def test_info_nce_is_log_d_plus_1_where_all_similarities_are_equal(size):
    q = F.normalize(torch.ones(4, 6, dtype=torch.float64), dim=1)
    assert info_nce(q, q, q[:1].expand(size, -1), TAU).item() == pytest.approx(math.log(size + 1))


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_multi_label_bce_equals_the_loops(temperature):
    logits = unit_rows(5, 4, seed=1) @ unit_rows(11, 4, seed=2).T
    labels = torch.rand(5, 11, generator=torch.Generator().manual_seed(3)) < 0.3
    got = multi_label_bce(logits, labels, temperature)
    assert got.item() == pytest.approx(bce_loops(logits, labels, temperature), abs=1e-12)


def test_multi_label_bce_of_zero_cosines_is_log_2():
    labels = torch.eye(3, 8, dtype=torch.bool)
    got = multi_label_bce(torch.zeros(3, 8, dtype=torch.float64), labels, TAU)
    assert got.item() == pytest.approx(math.log(2))


def test_multi_label_bce_gradient_is_sigmoid_minus_label():
    logits = torch.tensor([[0.5, -0.25, 1.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[True, False, False]])
    multi_label_bce(logits, labels, TAU).backward()
    expected = (torch.sigmoid(logits.detach() / TAU) - labels.double()) / (3 * TAU)
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_gives_the_float32_loss_of_the_same_numbers(dtype):
    q, k, rows = (unit_rows(8, 16, seed=s).to(dtype) for s in (1, 2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        half = info_nce(q, k, rows, 0.01)
        bce = multi_label_bce(q @ rows.T, torch.eye(8, dtype=torch.bool), 0.01)
    assert half.dtype == bce.dtype == torch.float32
    full = info_nce(q.float(), k.float(), rows.float(), 0.01)
    torch.testing.assert_close(half, full, rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    rows = unit_rows(4, 8, seed=1)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        info_nce(rows, rows, rows, temperature)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(4, 8\), \(4, 8\) and \(16, 7\)"):
        similarities(torch.ones(4, 8), torch.ones(4, 8), torch.ones(16, 7))


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize(
    ("loss", "loop"),
    [
        (positive_bce, positive_bce_loops),
        (knn_softmax, knn_loops),
        (multi_positive_softmax, multi_positive_loops),
    ],
)
def test_the_losses_of_neighbours_equal_the_loops(loss, loop, temperature):
    logits, labels = cosines_and_labels()
    expected = pytest.approx(loop(logits, labels, temperature), abs=1e-12)
    assert loss(logits, labels, temperature).item() == expected
    assert loss(logits, labels.double(), temperature).item() == expected


def test_the_losses_of_the_ablation_where_all_cosines_are_equal():
    labels = cosines_and_labels()[1]
    flat = torch.zeros(5, 12, dtype=torch.float64)
    assert positive_bce(flat, labels, TAU).item() == pytest.approx(3 / 12 * math.log(2))
    assert knn_softmax(flat + 0.7, labels, TAU).item() == pytest.approx(math.log(12 - 3 + 1))
    assert multi_positive_softmax(flat + 0.7, labels, TAU).item() == pytest.approx(math.log(12))


def test_one_neighbour_is_info_nce_with_the_other_rows_as_negatives():
    query, rows = unit_rows(1, 8, seed=5), unit_rows(9, 8, seed=6)
    label = torch.arange(9).unsqueeze(0) == 4
    others = torch.cat([rows[:4], rows[5:]])
    expected = info_nce(query, rows[4:5], others, TAU)
    torch.testing.assert_close(knn_softmax(query @ rows.T, label, TAU), expected)
    torch.testing.assert_close(multi_positive_softmax(query @ rows.T, label, TAU), expected)


@pytest.mark.parametrize(
    "loss", [multi_label_bce, positive_bce, knn_softmax, multi_positive_softmax]
)
def test_losses_of_labels_refuse_bad_input(loss):
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and labels \(2, 4\) differ in shape"):
        loss(torch.zeros(2, 3), torch.zeros(2, 4), TAU)
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3), 0)


def nt_xent(view1, view2, temperature):
    return info_nce_from_similarities(*batch_similarities(view1, view2), temperature)


@pytest.mark.parametrize(("n", "d"), [(2, 3), (5, 4), (8, 16)])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent_equals_the_loops(n, d, temperature):
    one, other = unit_rows(n, d, seed=1), unit_rows(n, d, seed=2)
    rows = torch.cat([one, other]).tolist()
    total = 0.0
    for i, row in enumerate(rows):
        partner = (i + n) % (2 * n)
        others = [rows[j] for j in range(2 * n) if j not in (i, partner)]
        total += loops.info_nce(row, rows[partner], others, temperature)
    assert nt_xent(one, other, temperature).item() == pytest.approx(total / (2 * n), abs=1e-12)


@pytest.mark.parametrize("count", [2, 16])
def test_nt_xent_of_equal_views_is_the_log_of_the_others(count):
    flat = unit_rows(1, 4, seed=1).expand(count, -1)
    assert nt_xent(flat, flat, TAU).item() == pytest.approx(math.log(2 * count - 1))


def test_the_negatives_of_a_batch_are_all_others_once():
    views = torch.eye(6, dtype=torch.float64)  # Products tell which rows met.
    weights = torch.diag(torch.arange(1.0, 7, dtype=torch.float64))
    _, others = batch_similarities(weights[:3], weights[3:] + views[:3])
    products = torch.cat([weights[:3], weights[3:] + views[:3]])
    products = products @ products.T
    for i in range(6):
        rest = [products[i, j].item() for j in range(6) if j not in (i, (i + 3) % 6)]
        assert sorted(others[i].tolist()) == sorted(rest)


def test_negative_cosine_by_hand():
    prediction = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, 0.0], [0.0, -5.0]], dtype=torch.float64)
    assert negative_cosine(prediction, target).item() == pytest.approx(-(0.6 - 1) / 2)
    assert negative_cosine(prediction, 7 * prediction).item() == pytest.approx(-1)


def test_cross_correlation_equals_the_loops():
    one, other = (torch.randn(7, 3, dtype=torch.float64) + 5 for _ in range(2))
    got = cross_correlation(one, other)
    for i, a in enumerate(one.T.tolist()):
        for j, b in enumerate(other.T.tolist()):
            means = sum(a) / 7, sum(b) / 7
            both = sum((x - means[0]) * (y - means[1]) for x, y in zip(a, b, strict=True))
            own = [
                sum((x - mean) ** 2 for x in values) / 7 + 1e-5
                for values, mean in zip((a, b), means, strict=True)
            ]
            assert got[i, j].item() == pytest.approx(both / 7 / math.sqrt(own[0] * own[1]))


def test_the_correlation_of_a_view_with_itself_and_of_a_constant_channel():
    rows = torch.randn(50, 3, dtype=torch.float64)
    rows[:, 2] = 4.0
    got = cross_correlation(rows, -rows)
    torch.testing.assert_close(
        got.diagonal(), torch.tensor([-1.0, -1, 0]).double(), atol=1e-4, rtol=0
    )
    assert got[2].abs().max() < 1e-6


def test_barlow_terms_by_hand():
    correlation = torch.tensor([[0.5, 0.1], [-0.2, 1.0]], dtype=torch.float64)
    invariance, redundancy = barlow_terms(correlation)
    assert invariance.item() == pytest.approx(0.25)
    assert redundancy.item() == pytest.approx(0.05)
    assert [term.item() for term in barlow_terms(torch.eye(4))] == [0, 0]


@pytest.mark.parametrize("loss", [batch_similarities, negative_cosine, cross_correlation])
def test_views_of_different_shapes_are_refused(loss):
    with pytest.raises(ValueError, match=r"expected \(N, d\) twice, got \(4, 3\) and \(4, 2\)"):
        loss(torch.ones(4, 3), torch.ones(4, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_two_views_are_taken_in_single_precision(dtype):
    one, other = (unit_rows(8, 16, seed=s).to(dtype) for s in (1, 2))
    for loss in (lambda a, b: nt_xent(a, b, 0.01), negative_cosine, cross_correlation):
        with torch.autocast("cpu", torch.bfloat16):
            half = loss(one, other)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, loss(one.float(), other.float()), rtol=1e-6, atol=1e-6)
