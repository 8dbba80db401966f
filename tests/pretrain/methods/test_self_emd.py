"""Self-EMD against Sinkhorn's algorithm in loops, and against the exact distance."""

import itertools
import math

import pytest
import torch

from pretrain.losses_clustering import transport_plan
from pretrain.losses_dense import transport_loss
from tests.pretrain.loops import cosine, normal, positions
from tests.pretrain.methods.tiny import disturb, make_batch, make_method

EPSILON, ROUNDS = 0.3, 4


def plan_loop(cost: list, rows: list, columns: list, epsilon: float, rounds: int) -> list:
    """Return the plan of one image: powers, and sums of columns and rows in turn."""
    count = range(len(rows))
    a, b = ([mass / sum(masses) for mass in masses] for masses in (rows, columns))
    plan = [[math.exp(-cost[i][j] / epsilon) for j in count] for i in count]
    for _ in range(rounds):
        sums = [sum(plan[i][j] for i in count) for j in count]
        plan = [[plan[i][j] * b[j] / sums[j] for j in count] for i in count]
        sums = [sum(row) for row in plan]
        plan = [[plan[i][j] * a[i] / sums[i] for j in count] for i in count]
    return plan


def distance_loop(p: list, t: list) -> float:
    """Return the distance of two lists of positions, masses by cross reference."""

    def masses(one: list, other: list) -> list[float]:
        mean = [sum(column) / len(other) for column in zip(*other, strict=True)]
        return [max(sum(a * b for a, b in zip(row, mean, strict=True)), 1e-30) for row in one]

    cost = [[1 - cosine(x, y) for y in t] for x in p]
    plan = plan_loop(cost, masses(p, t), masses(t, p), EPSILON, ROUNDS)
    return sum(plan[i][j] * cost[i][j] for i in range(len(p)) for j in range(len(t)))


def test_the_plan_is_that_of_sinkhorns_algorithm():
    cost, a, b = normal(2, 5, 5).abs(), normal(2, 5, seed=1).abs(), normal(2, 5, seed=2).abs()
    plan = transport_plan(cost, a, b, EPSILON, ROUNDS)
    for n in range(2):
        lists = [values[n].tolist() for values in (cost, a, b)]
        expected = torch.tensor(plan_loop(*lists, EPSILON, ROUNDS), dtype=torch.float64)
        torch.testing.assert_close(plan[n], expected)


def test_rows_have_their_masses_and_columns_have_them_in_the_end():
    cost, a, b = normal(2, 5, 5).abs(), normal(2, 5, seed=1).abs(), normal(2, 5, seed=2).abs()
    a, b = (masses / masses.sum(dim=1, keepdim=True) for masses in (a, b))
    torch.testing.assert_close(transport_plan(cost, 7 * a, b, 0.05, 1).sum(dim=2), a)
    torch.testing.assert_close(transport_plan(cost, a, 7 * b, EPSILON, 300).sum(dim=1), b)
    # Nothing to choose between: every row sends its mass in the columns' shares.
    torch.testing.assert_close(transport_plan(0 * cost, a, b), a.unsqueeze(2) * b.unsqueeze(1))


def test_a_position_without_mass_is_left_out_and_a_map_without_any_has_equal_masses():
    cost, some = normal(1, 3, 3).abs(), torch.tensor([[0.0, 1.0, 3.0]], dtype=torch.float64)
    plan = transport_plan(cost, some, some, EPSILON, 50)
    assert plan.isfinite().all()
    assert plan[0, 0].abs().max() < 1e-12
    assert plan[0, :, 0].abs().max() < 1e-12
    torch.testing.assert_close(
        transport_plan(cost, 0 * some, some), transport_plan(cost, 0 * some + 1, some)
    )


def test_with_a_small_epsilon_it_is_the_exact_distance():
    cost = normal(1, 4, 4).abs()
    equal = torch.ones(1, 4, dtype=torch.float64)
    plan = transport_plan(cost, equal, equal, 1e-3, 5000)
    least = min(
        sum(cost[0, i, j].item() for i, j in enumerate(order)) / 4
        for order in itertools.permutations(range(4))
    )
    assert (plan * cost).sum().item() == pytest.approx(least, rel=1e-3)


def test_the_loss_is_the_mean_distance_of_the_images():
    p, t = normal(3, 5, 4), normal(3, 5, 4, seed=1)
    expected = sum(distance_loop(p[n].tolist(), t[n].tolist()) for n in range(3)) / 3
    assert transport_loss(p, t, EPSILON, ROUNDS).item() == pytest.approx(expected, abs=1e-12)
    # Lengths of maps do not matter; neither does the order of positions, in the end.
    torch.testing.assert_close(transport_loss(3 * p, t / 7), transport_loss(p, t))
    mixed = transport_loss(p, t[:, [2, 0, 1, 4, 3]], EPSILON, 300)
    torch.testing.assert_close(mixed, transport_loss(p, t, EPSILON, 300))


def test_equal_positions_have_the_distance_0_and_opposite_ones_2():
    p = normal(2, 1, 4).expand(2, 5, 4)
    assert transport_loss(p, 2 * p).item() == pytest.approx(0, abs=1e-12)
    assert transport_loss(p, -p).item() == pytest.approx(2)


def test_the_gradient_is_that_of_the_costs_under_a_fixed_plan():
    p, t = normal(2, 4, 3).requires_grad_(), normal(2, 4, 3, seed=1)
    transport_loss(p, t, EPSILON, ROUNDS).backward()
    unit = torch.nn.functional.normalize
    fixed = p.detach()
    cost = 1 - unit(fixed, dim=2) @ unit(t, dim=2).mT
    rows = (fixed * t.mean(dim=1, keepdim=True)).sum(dim=2).clamp_min(0)
    columns = (t * fixed.mean(dim=1, keepdim=True)).sum(dim=2).clamp_min(0)
    plan = transport_plan(cost, rows, columns, EPSILON, ROUNDS)
    assert not plan.requires_grad
    other = fixed.clone().requires_grad_()
    (plan * (1 - unit(other, dim=2) @ unit(t, dim=2).mT)).sum().div(2).backward()
    torch.testing.assert_close(p.grad, other.grad)
    assert other.grad.abs().max() > 1e-3


def test_it_is_computed_in_float32_under_autocast():
    p, t = normal(2, 4, 6).float(), normal(2, 4, 6, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = transport_loss(p, t)
    torch.testing.assert_close(mixed, transport_loss(p, t))
    assert transport_loss(p.half(), t.half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: transport_loss(x, x[:, :3]), r"\(2, 4, 5\) and \(2, 3, 5\)"),
        (lambda x: transport_loss(x, x, 0.0), "got 0.0 and 10"),
        (lambda x: transport_loss(x, x, 0.1, 0), "got 0.1 and 0"),
        (lambda x: transport_plan(x, x[:, :, 0], x[:, :, 0]), r"masses .* got \(2, 4, 5\)"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(2, 4, 5))


def test_the_methods_loss_is_of_both_orders(views):
    method = make_method("self_emd", epsilon=EPSILON, iterations=ROUNDS)
    disturb(method)
    online = [method.predictor(method.encoder(view)[1]) for view in views]
    target = [method.keys(view)[1] for view in views]
    total = 0.0
    for n in range(4):
        for one, other in ((0, 1), (1, 0)):
            total += distance_loop(positions(online[one][n]), positions(target[other][n])) / 4
    assert method(make_batch(views)).losses["loss_emd"].item() == pytest.approx(total, abs=1e-9)
