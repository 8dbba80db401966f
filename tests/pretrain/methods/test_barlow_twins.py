"""Barlow Twins against its Eqs. 1 and 2 in loops."""

import statistics

import pytest
import torch
from torch import nn

from pretrain.methods.barlow_twins import BarlowTwins

LAMBDA, SCALE = 0.25, 0.5


@pytest.fixture
def method(backbone) -> BarlowTwins:
    made = BarlowTwins(backbone, nn.Linear(6, 3), redundancy_weight=LAMBDA, scale=SCALE)
    return made.double()


def test_the_losses_are_those_of_the_paper(method, views):
    z1, z2 = (method.encoder.online(view)[1].T.tolist() for view in views)
    invariance = redundancy = trace = 0.0
    for i, one in enumerate(z1):
        for j, other in enumerate(z2):
            pairs = zip(one, other, strict=True)
            means = statistics.fmean(one), statistics.fmean(other)
            covariance = statistics.fmean((a - means[0]) * (b - means[1]) for a, b in pairs)
            spread = [(statistics.pvariance(values) + 1e-5) ** 0.5 for values in (one, other)]
            correlation = covariance / spread[0] / spread[1]
            if i == j:
                invariance += (1 - correlation) ** 2
                trace += correlation / 3
            else:
                redundancy += correlation**2
    output = method(*views, epoch=0.0)
    assert output.losses["loss_invariance"].item() == pytest.approx(SCALE * invariance)
    assert output.losses["loss_redundancy"].item() == pytest.approx(SCALE * LAMBDA * redundancy)
    assert output.metrics["view_correlation"].item() == pytest.approx(trace)


def test_it_does_not_depend_on_the_length_of_the_embeddings(method, views):
    before = method(*views, epoch=0.0).losses
    with torch.no_grad():
        method.encoder.projector.weight.mul_(100)
        method.encoder.projector.bias.add_(7)
    after = method(*views, epoch=0.0).losses
    for name, loss in before.items():
        torch.testing.assert_close(after[name], loss, rtol=1e-3, atol=1e-6)


def test_gradients_flow_through_both_views(method, views):
    detached = method.encoder.online
    method(*views, epoch=0.0).losses["loss_invariance"].backward()
    both = method.encoder.projector.weight.grad.clone()
    method.zero_grad()
    calls = []

    def second_without_gradient(view):
        calls.append(view)
        g, z = detached(view)
        return (g, z) if len(calls) == 1 else (g, z.detach())

    method.encoder.online = second_without_gradient
    method(*views, epoch=0.0).losses["loss_invariance"].backward()
    assert (both - method.encoder.projector.weight.grad).abs().max() > 1e-3
