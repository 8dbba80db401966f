"""BYOL, SimSiam and Barlow Twins against their equations in loops."""

import statistics

import pytest
import torch
from torch import nn

from tests.pretrain.loops import cosine
from tests.pretrain.methods.tiny import disturb, make_batch, make_method


@pytest.fixture
def byol():
    method = make_method("byol", momentum=0.75)
    method.encoder.projector, method.predictor = nn.Linear(6, 4), nn.Linear(4, 4)
    method.set_encoder(method.encoder)
    disturb(method.momentum_encoder)
    return method.double()


def test_byols_loss_is_eq_2_in_both_orders(byol, views):
    online = [byol.predictor(byol.encoder(view)[1]).tolist() for view in views]
    target = [byol.keys(view)[1].tolist() for view in views]
    total = 0.0
    for i in range(4):
        total += 2 - 2 * cosine(online[0][i], target[1][i])
        total += 2 - 2 * cosine(online[1][i], target[0][i])
    output = byol(make_batch(views))
    assert output.losses["loss_byol"].item() == pytest.approx(total / 4, abs=1e-12)
    assert output.metrics["positive_similarity"].item() == pytest.approx(1 - total / 16)


def test_byols_target_moves_after_the_optimizers_step_and_not_in_the_forward_pass(byol, views):
    online, target = byol.encoder.projector.weight, byol.momentum_encoder.projector.weight
    before = target.clone()
    byol(make_batch(views))
    torch.testing.assert_close(target, before)
    with torch.no_grad():
        online.add_(1.0)  # The optimizer's step.
    byol.after_optimizer_step()
    torch.testing.assert_close(target, 0.75 * before + 0.25 * online)


def test_no_gradient_is_that_of_byols_target(byol, views):
    byol(make_batch(views)).losses["loss_byol"].backward()
    got = byol.encoder.projector.weight.grad.clone()
    targets = [byol.keys(view)[1].clone() for view in views]
    byol.zero_grad()
    predictions = [byol.predictor(byol.encoder(view)[1]) for view in views]
    for prediction, target in zip(predictions, reversed(targets), strict=True):
        (-2 * torch.cosine_similarity(prediction, target).mean()).backward()
    torch.testing.assert_close(got, byol.encoder.projector.weight.grad)


@pytest.fixture
def simsiam():
    method = make_method("simsiam")
    method.encoder.projector, method.predictor = nn.Linear(6, 4), nn.Linear(4, 4)
    return method.double()


def encoded(method, views) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    z = [method.encoder(view)[1] for view in views]
    return z, [method.predictor(rows) for rows in z]


def test_simsiams_loss_is_eq_4(simsiam, views):
    z, p = ([rows.tolist() for rows in both] for both in encoded(simsiam, views))
    total = 0.0
    for i in range(4):
        total -= cosine(p[0][i], z[1][i]) / 2
        total -= cosine(p[1][i], z[0][i]) / 2
    loss = simsiam(make_batch(views)).losses["loss_simsiam"]
    assert loss.item() == pytest.approx(total / 4, abs=1e-12)


def test_simsiams_gradient_is_that_of_the_predictions_alone(simsiam, views):
    simsiam(make_batch(views)).losses["loss_simsiam"].backward()
    got = simsiam.encoder.projector.weight.grad.clone()
    gradients = []
    for stop in (True, False):
        simsiam.zero_grad()
        z, p = encoded(simsiam, views)
        targets = [rows.detach() if stop else rows for rows in reversed(z)]
        for prediction, target in zip(p, targets, strict=True):
            (-torch.cosine_similarity(prediction, target).mean() / 2).backward(retain_graph=True)
        gradients.append(simsiam.encoder.projector.weight.grad.clone())
    torch.testing.assert_close(got, gradients[0])
    assert (got - gradients[1]).abs().max() > 1e-3


def test_a_collapsed_embedding_shows_in_its_spread(simsiam, views):
    assert simsiam(make_batch(views)).metrics["embedding_std"] > 0.1
    with torch.no_grad():
        simsiam.encoder.projector.weight.zero_()
    assert simsiam(make_batch(views)).metrics["embedding_std"] < 1e-6


@pytest.fixture
def barlow():
    method = make_method("barlowtwins", redundancy_weight=0.25, scale=0.5)
    method.encoder.projector = nn.Linear(6, 3)
    return method.double()


def test_the_losses_of_barlow_twins(barlow, views):
    z1, z2 = (barlow.encoder(view)[1].T.tolist() for view in views)
    invariance = redundancy = trace = 0.0
    for i, one in enumerate(z1):
        for j, other in enumerate(z2):
            pairs = zip(one, other, strict=True)
            means = statistics.fmean(one), statistics.fmean(other)
            covariance = statistics.fmean((a - means[0]) * (b - means[1]) for a, b in pairs)
            deviations = [(statistics.pvariance(values) + 1e-5) ** 0.5 for values in (one, other)]
            correlation = covariance / deviations[0] / deviations[1]
            if i == j:
                invariance += (1 - correlation) ** 2
                trace += correlation / 3
            else:
                redundancy += correlation**2
    output = barlow(make_batch(views))
    assert output.losses["loss_invariance"].item() == pytest.approx(invariance)
    assert output.losses["loss_redundancy"].item() == pytest.approx(redundancy)
    assert output.weights == {"loss_invariance": 0.5, "loss_redundancy": 0.125}
    assert output.metrics["view_correlation"].item() == pytest.approx(trace)


def test_barlow_twins_does_not_depend_on_the_length_of_the_embeddings(barlow, views):
    before = barlow(make_batch(views)).losses
    with torch.no_grad():
        barlow.encoder.projector.weight.mul_(100)
        barlow.encoder.projector.bias.add_(7)
    after = barlow(make_batch(views)).losses
    for name, loss in before.items():
        torch.testing.assert_close(after[name], loss, rtol=5e-3, atol=1e-6)
