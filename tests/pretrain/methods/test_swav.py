"""SwAV against its equations in loops: codes, the swapped loss, prototypes and queue."""

import math

import pytest
import torch
from torch import nn

from pretrain.losses_clustering import sinkhorn, swapped_prediction_loss
from pretrain.methods.swav import prototype_spread
from tests.pretrain.loops import softmax
from tests.pretrain.methods.tiny import make_batch, make_method

SMALL = {"num_prototypes": 6, "freeze_steps": 0}


def sinkhorn_in_loops(scores: list[list[float]], epsilon: float, iterations: int) -> list:
    """Return N · Q of Algorithm 1, where Q sums to 1."""
    count, prototypes = len(scores), len(scores[0])
    q = [[math.exp(score / epsilon) for score in row] for row in scores]
    total = sum(map(sum, q))
    q = [[value / total for value in row] for row in q]
    for _ in range(iterations):
        shares = [sum(row[k] for row in q) for k in range(prototypes)]
        q = [[value / shares[k] / prototypes for k, value in enumerate(row)] for row in q]
        q = [[value / sum(row) / count for value in row] for row in q]
    return [[count * value for value in row] for row in q]


def swapped_in_loops(scores: torch.Tensor, codes: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for image, targets in zip(scores.tolist(), codes.tolist(), strict=True):
        for t, target in enumerate(targets):
            others = [view for v, view in enumerate(image) if v != t]
            for view in others:
                predicted = softmax([score / temperature for score in view])
                terms = [q * math.log(p) for q, p in zip(target, predicted, strict=True)]
                total -= sum(terms) / len(others) / len(targets) / len(scores)
    return total


@pytest.mark.parametrize(("count", "prototypes"), [(7, 4), (3, 8), (1, 5)])
def test_codes_are_those_of_algorithm_1(count, prototypes):
    scores = 2 * torch.rand(count, prototypes, dtype=torch.float64) - 1
    codes = sinkhorn(scores, 0.3, 3)
    expected = sinkhorn_in_loops(scores.tolist(), 0.3, 3)
    for got, row in zip(codes.tolist(), expected, strict=True):
        assert got == pytest.approx(row, rel=1e-10)


def test_codes_share_the_prototypes_and_every_image_out():
    scores = 2 * torch.rand(12, 4, dtype=torch.float64) - 1
    codes = sinkhorn(scores, 0.3, 200)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(12).double())
    torch.testing.assert_close(codes.sum(dim=0), torch.full((4,), 3.0).double())
    assert not sinkhorn(scores.requires_grad_()).requires_grad
    torch.testing.assert_close(sinkhorn(torch.ones(5, 4)), torch.full((5, 4), 0.25))


def test_a_small_epsilon_overflows_nothing():
    scores = torch.tensor([[1.0, -1.0], [0.9, -1.0], [0.8, -1.0]])
    codes = sinkhorn(scores, 1e-4, 3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(3))
    assert sinkhorn(scores.half()).dtype == torch.float32


@pytest.mark.parametrize("num_views", [2, 5])
def test_the_loss_is_eq_2_over_all_pairs_of_views(num_views):
    scores = torch.randn(3, num_views, 4, dtype=torch.float64)
    codes = torch.rand(3, 2, 4, dtype=torch.float64).softmax(dim=2)
    expected = swapped_in_loops(scores, codes, 0.7)
    assert swapped_prediction_loss(scores, codes, 0.7).item() == pytest.approx(expected, rel=1e-12)


def test_at_collapse_the_loss_is_log_k_and_codes_have_no_gradient():
    scores = torch.ones(3, 4, 3000, requires_grad=True)
    codes = torch.rand(3, 2, 3000).softmax(dim=2).requires_grad_()
    loss = swapped_prediction_loss(scores, codes)
    assert loss.item() == pytest.approx(8.006, abs=1e-3)
    loss.backward()
    assert codes.grad is None
    with torch.autocast("cpu", torch.bfloat16):
        assert swapped_prediction_loss(scores.bfloat16(), codes).dtype == torch.float32


@pytest.mark.parametrize(
    ("scores", "codes", "temperature"),
    [
        ((3, 1, 4), (3, 1, 4), 0.1),
        ((3, 2, 4), (3, 3, 4), 0.1),
        ((3, 2, 4), (2, 2, 4), 0.1),
        ((3, 2, 4), (3, 2, 5), 0.1),
        ((3, 4), (3, 4), 0.1),
        ((3, 2, 4), (3, 2, 4), 0.0),
    ],
)
def test_bad_input_is_refused(scores, codes, temperature):
    with pytest.raises(ValueError, match="expected|temperature"):
        swapped_prediction_loss(torch.zeros(scores), torch.zeros(codes), temperature)
    with pytest.raises(ValueError, match="expected (scores|epsilon)"):
        sinkhorn(torch.zeros(scores), 0.0)


def scores_by_hand(method, views) -> torch.Tensor:
    """Return the cosines ``(N, V, K)``; the projector has no BatchNorm."""
    z = [nn.functional.normalize(method.encoder(view)[1].float(), dim=1) for view in views]
    return torch.stack(z, dim=1) @ method.prototypes.weight.float().T


@pytest.fixture
def method():
    made = make_method("swav", **SMALL, queue_size=8, queue_start=2.0)
    made.encoder.projector = nn.Linear(6, 4).double()
    made.before_step(0)
    return made


def test_a_step_swaps_the_codes_of_the_first_two_views(method, views):
    local = [torch.randn(4, 3, 1, 1, dtype=torch.float64) for _ in range(3)]
    output = method(make_batch([*views, *local]))
    scores = scores_by_hand(method, [*views, *local])
    codes = [sinkhorn_in_loops(scores[:, view].tolist(), 0.05, 3) for view in range(2)]
    expected = swapped_in_loops(scores, torch.tensor(codes).transpose(0, 1), 0.1)
    assert output.losses["loss_swav"].item() == pytest.approx(expected, rel=1e-4)


def test_prototypes_have_length_1_in_every_step_and_wait_at_first(views):
    method = make_method("swav", num_prototypes=6, freeze_steps=2)
    method.before_step(1)
    torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(6).double())
    for iteration in (1, 2):
        method.before_step(iteration)
        method(make_batch(views)).losses["loss_swav"].backward()
        method.before_optimizer_step()
        assert (method.prototypes.weight.grad is None) == (iteration == 1)
        assert method.encoder.backbone.weight.grad is not None


def test_the_queue_starts_late_and_serves_once_it_is_full(method, views):
    def loss_of(epoch: float) -> float:
        return method(make_batch(views, epoch=epoch)).losses["loss_swav"].item()

    alone = loss_of(0.0)
    method.enqueue(method(make_batch(views, epoch=1.9)).keys)
    assert not method.queue["view1"].any()
    for expected in (alone, alone):  # With 0 and 4 of 8 rows.
        assert loss_of(2.0) == pytest.approx(expected, rel=1e-6)
        # Of other images than those of the batch.
        method.enqueue(method(make_batch([-view for view in views], epoch=2.0)).keys)
    scores = scores_by_hand(method, views)
    codes = []
    for view, name in enumerate(("view1", "view2")):
        earlier = method.queue[name].float() @ method.prototypes.weight.float().T
        rows = torch.cat([scores[:, view], earlier]).tolist()
        codes.append(sinkhorn_in_loops(rows, 0.05, 3)[:4])
    expected = swapped_in_loops(scores, torch.tensor(codes).transpose(0, 1), 0.1)
    assert loss_of(2.0) == pytest.approx(expected, rel=1e-4)
    assert abs(expected - alone) > 1e-4


def test_a_resumed_queue_is_the_same(method, views):
    for _ in range(2):
        method.enqueue(method(make_batch(views, epoch=2.0)).keys)
    other = make_method("swav", **SMALL, queue_size=8, queue_start=2.0)
    other.encoder.projector = nn.Linear(6, 4).double()
    other.load_state_dict(method.state_dict())
    losses = [made(make_batch(views, epoch=2.0)).losses["loss_swav"] for made in (method, other)]
    assert torch.equal(*losses)


def test_the_share_of_prototypes_that_are_chosen():
    codes = torch.tensor([[[0.9, 0.1, 0.0], [0.6, 0.4, 0.0]], [[0.2, 0.8, 0.0], [0.9, 0.1, 0.0]]])
    assert prototype_spread(codes).item() == pytest.approx(2 / 3)
    assert prototype_spread(codes[:1]).item() == pytest.approx(1 / 2)
