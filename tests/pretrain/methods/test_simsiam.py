"""SimSiam against its Eq. 4 in loops, and its stopped gradient."""

import pytest
import torch
from torch import nn

from pretrain.methods.simsiam import SimSiam


@pytest.fixture
def method(backbone) -> SimSiam:
    return SimSiam(backbone, nn.Linear(6, 4), nn.Linear(4, 4)).double()


def encoded(method: SimSiam, views) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    z = [method.encoder.online(view)[1] for view in views]
    return z, [method.predictor(rows) for rows in z]


def test_the_loss_is_eq_4(method, views, cosine):
    z, p = ([rows.tolist() for rows in both] for both in encoded(method, views))
    total = 0.0
    for i in range(4):
        total -= cosine(p[0][i], z[1][i]) / 2
        total -= cosine(p[1][i], z[0][i]) / 2
    loss = method(*views, epoch=0.0).losses["loss_simsiam"]
    assert loss.item() == pytest.approx(total / 4, abs=1e-12)


def test_the_gradient_is_that_of_the_predictions_alone(method, views):
    method(*views, epoch=0.0).losses["loss_simsiam"].backward()
    got = method.encoder.projector.weight.grad.clone()
    gradients = []
    for stop in (True, False):
        method.zero_grad()
        z, p = encoded(method, views)
        targets = [rows.detach() if stop else rows for rows in reversed(z)]
        for prediction, target in zip(p, targets, strict=True):
            (-torch.cosine_similarity(prediction, target).mean() / 2).backward(retain_graph=True)
        gradients.append(method.encoder.projector.weight.grad.clone())
    torch.testing.assert_close(got, gradients[0])
    assert (got - gradients[1]).abs().max() > 1e-3


def test_a_collapsed_embedding_shows_in_its_spread(method, views):
    assert method(*views, epoch=0.0).metrics["embedding_std"] > 0.1
    with torch.no_grad():
        method.encoder.projector.weight.zero_()
    assert method(*views, epoch=0.0).metrics["embedding_std"] < 1e-6
