"""BYOL against its Eq. 2 in loops."""

import pytest
import torch
from torch import nn

from pretrain.methods.byol import BYOL


@pytest.fixture
def method(backbone) -> BYOL:
    made = BYOL(backbone, nn.Linear(6, 4), nn.Linear(4, 4), momentum=0.75).double()
    with torch.no_grad():
        for weight in (
            *made.pair.momentum_backbone.parameters(),
            *made.pair.momentum_projector.parameters(),
        ):
            weight.add_(torch.randn_like(weight))
    return made


def test_the_loss_is_eq_2_in_both_orders(method, views, cosine):
    online = [method.predictor(method.pair.online(view)[1]).tolist() for view in views]
    target = [method.pair.keys(view)[1].tolist() for view in views]
    total = 0.0
    for i in range(4):
        total += 2 - 2 * cosine(online[0][i], target[1][i])
        total += 2 - 2 * cosine(online[1][i], target[0][i])
    output = method(*views, epoch=0.0)
    assert output.losses["loss_byol"].item() == pytest.approx(total / 4, abs=1e-12)
    assert output.keys == {}
    assert output.metrics["positive_similarity"].item() == pytest.approx(1 - total / 16)


def test_the_target_moves_after_the_optimizers_step_and_not_in_the_forward_pass(method, views):
    online, target = method.pair.projector.weight, method.pair.momentum_projector.weight
    before = target.clone()
    method(*views, epoch=0.0)
    torch.testing.assert_close(target, before)
    with torch.no_grad():
        online.add_(1.0)  # The optimizer's step.
    method.after_optimizer_step()
    torch.testing.assert_close(target, 0.75 * before + 0.25 * online)


def test_the_targets_are_the_momentum_copies(method, views):
    base = method(*views, epoch=0.0).losses["loss_byol"]
    with torch.no_grad():
        method.pair.momentum_projector.weight.add_(1.0)
    assert (method(*views, epoch=0.0).losses["loss_byol"] - base).abs() > 1e-2


def test_no_gradient_is_that_of_a_target(method, views):
    method(*views, epoch=0.0).losses["loss_byol"].backward()
    got = method.pair.projector.weight.grad.clone()
    targets = [method.pair.keys(view)[1].clone() for view in views]
    method.zero_grad()
    predictions = [method.predictor(method.pair.online(view)[1]) for view in views]
    for prediction, target in zip(predictions, reversed(targets), strict=True):
        (-2 * torch.cosine_similarity(prediction, target).mean()).backward()
    torch.testing.assert_close(got, method.pair.projector.weight.grad)


def test_the_same_prediction_and_target_cost_nothing(backbone, views):
    method = BYOL(backbone, nn.Linear(6, 4), nn.Identity(), momentum=0.9).double()
    loss = method(views[0], views[0], epoch=0.0).losses["loss_byol"]
    assert loss.item() == pytest.approx(0, abs=1e-12)
