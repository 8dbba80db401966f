"""LARS and LARC against their formulas, and the weight decay of each kind of parameter."""

import copy

import pytest
import torch
from torch import nn

from mls_d2.config.defaults import get_cfg
from pretrain.batchnorm import split_batchnorm
from pretrain.optim import LARC, LARS, build_optimizer

LR, MOMENTUM, DECAY, TRUST = 0.3, 0.9, 0.02, 1e-3


def problem() -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(4, 3), (2, 3, 3, 3), (5,)]
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


def gradients(weights: list[torch.Tensor], step: int) -> list[torch.Tensor]:
    return [torch.sin(weight.detach() * (step + 1)) for weight in weights]


@pytest.mark.parametrize("kind", [LARS, LARC])
def test_an_optimizer_takes_the_steps_of_its_formula(kind: type):
    weights = problem()
    expected = [weight.detach().clone() for weight in weights]
    velocity = [torch.zeros_like(weight) for weight in expected]
    optimizer = kind(weights, LR, momentum=MOMENTUM, weight_decay=DECAY, trust=TRUST)
    for step in range(5):
        for weight, gradient in zip(weights, gradients(weights, step), strict=True):
            weight.grad = gradient
        optimizer.step()
        for i, gradient in enumerate(gradients(expected, step)):
            slope = gradient + DECAY * expected[i]
            size = expected[i].pow(2).sum().sqrt()
            if kind is LARC:
                slope = slope * TRUST * size / (gradient.pow(2).sum().sqrt() + DECAY * size)
            elif expected[i].ndim > 1:
                slope = slope * TRUST * size / slope.pow(2).sum().sqrt()
            velocity[i] = MOMENTUM * velocity[i] + slope
            expected[i] = expected[i] - LR * velocity[i]
    for weight, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), value, rtol=1e-12, atol=1e-14)


def test_the_first_step_of_a_matrix_does_not_depend_on_the_size_of_its_gradient():
    moved = []
    for scale in (1.0, 1e6):
        weight = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
        weight.grad = scale * torch.arange(6.0, dtype=torch.float64).view(3, 2)
        LARS([weight], LR).step()
        moved.append(weight.detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-12, atol=0)
    assert not torch.equal(moved[0], torch.ones_like(moved[0]))


@pytest.mark.parametrize(("kind", "decay"), [(LARS, 0.0), (LARC, 0.1)])
def test_weights_or_gradients_of_zero_stay_finite(kind: type, decay: float):
    zero = torch.zeros(2, 2, requires_grad=True)
    zero.grad = torch.ones(2, 2)
    flat = torch.ones(2, 2, requires_grad=True)
    flat.grad = torch.zeros(2, 2)
    kind([zero, flat], lr=0.5, weight_decay=decay).step()
    torch.testing.assert_close(zero.detach(), torch.full((2, 2), -0.5))
    torch.testing.assert_close(flat.detach(), torch.ones(2, 2))


def test_a_resumed_lars_goes_on_as_an_uninterrupted_one():
    weights = problem()
    optimizer = LARS(weights, LR)
    for step in range(4):
        for weight, gradient in zip(weights, gradients(weights, step), strict=True):
            weight.grad = gradient
        optimizer.step()
        if step == 1:
            copies = [weight.detach().clone().requires_grad_() for weight in weights]
            resumed = LARS(copies, LR)
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in (2, 3):
        for weight, gradient in zip(copies, gradients(copies, step), strict=True):
            weight.grad = gradient
        resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))


@pytest.mark.parametrize("bad", [{"lr": 0}, {"momentum": 1}, {"weight_decay": -1}, {"trust": 0}])
def test_values_out_of_range_are_refused(bad: dict):
    with pytest.raises(ValueError, match="LARS needs"):
        LARS(problem(), **{"lr": LR, **bad})


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("lars", LARS), ("larc", LARC)]
)
def test_norms_and_biases_have_their_own_weight_decay(name: str, kind: type):
    cfg = get_cfg()
    cfg.PRETRAIN.OPTIMIZER = name
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 1e-4, 1e-5
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).requires_grad_(False))
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is kind
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[key]: value for key, value in decay.items()} == {
        "0.weight": 1e-4,
        "0.bias": 0.0,
        "1.weight": 1e-5,
        "1.bias": 0.0,
    }


def test_split_batchnorms_have_the_weight_decay_of_norms():
    cfg = get_cfg()
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 1e-4, 1e-5
    split = split_batchnorm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), 2)
    decay = {
        id(p): g["weight_decay"]
        for g in build_optimizer(cfg, split).param_groups
        for p in g["params"]
    }
    assert [decay[id(p)] for p in split.parameters()] == [1e-4, 1e-4, 1e-5, 1e-5]
