"""Revisiting Contrastive Methods: its neighbour loss on a hand-made state."""

import math

import pytest
import torch
from torch import nn

from pretrain.methods.moco import MoCo
from pretrain.methods.revisiting import Revisiting

SIZE, K, TAU, WEIGHT = 8, 3, 0.2, 0.4
SHARED = {"embedding_dim": 4, "dictionary_size": SIZE, "temperature": TAU, "momentum": 0.9}


@pytest.fixture
def method(backbone) -> Revisiting:
    options = {"feature_dim": 6, "num_neighbors": K, "loss_weight": WEIGHT}
    return Revisiting(backbone, nn.Linear(6, 4), **SHARED, **options).double()


def test_the_losses_are_those_of_the_paper(method, views, cosine):
    method.pair.momentum = 1.0
    (g1, z1), (_, z2) = method.pair.online(views[0]), method.pair.keys(views[1])
    table_g, table_z = (method.dictionary[name].tolist() for name in ("g", "z"))
    nce = knn = 0.0
    for g, query, key in zip(g1.tolist(), z1.tolist(), z2.tolist(), strict=True):
        exponentials = [math.exp(cosine(query, row) / TAU) for row in table_z]
        own = math.exp(cosine(query, key) / TAU)
        nce -= math.log(own / (own + sum(exponentials))) / 4
        near = sorted(range(SIZE), key=lambda i, g=g: -cosine(g, table_g[i]))[:K]
        # All rows are in the denominator, the other neighbours too, and the key is not.
        knn -= sum(math.log(exponentials[i] / sum(exponentials)) for i in near) / K / 4
    losses = method(*views, epoch=0.0).losses
    assert losses["loss_nce"].item() == pytest.approx(nce, abs=1e-6)
    assert losses["loss_knn"].item() == pytest.approx(WEIGHT * knn, abs=1e-6)


def test_with_weight_zero_its_gradients_are_mocos(method, backbone, views):
    moco = MoCo(backbone, nn.Linear(6, 4), **SHARED).double()
    method.loss_weight = 0.0
    moco.pair.load_state_dict(method.pair.state_dict())
    moco.dictionary["z"].copy_(method.dictionary["z"])
    gradients = []
    for made in (method, moco):
        made.zero_grad()
        sum(made(*views, epoch=0.0).losses.values()).backward()
        gradients.append(made.pair.projector.weight.grad.clone())
    torch.testing.assert_close(*gradients)
