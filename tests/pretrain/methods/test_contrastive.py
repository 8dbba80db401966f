"""MoCo-v2, Revisiting and SimCLR against their equations in loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretrain.losses import info_nce
from pretrain.methods.base import contrast_metrics, spread
from tests.pretrain import loops
from tests.pretrain.methods.tiny import make_batch, make_frozen, make_method


def test_mocos_loss_is_info_nce_of_unit_embeddings(views):
    method = make_frozen("mocov2")
    (_, z1), (_, z2) = method.encoder(views[0]), method.keys(views[1])
    unit = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    expected = info_nce(*unit, method.dictionary["z"], 0.2)
    got = method(make_batch(views)).losses["loss_nce"].double()
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_monitors_by_hand():
    positive = torch.tensor([0.9, 0.1])
    negative = torch.tensor([[0.5, 0.7], [0.3, -0.1]])
    got = contrast_metrics(positive, negative, torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    assert got["nce_accuracy"].item() == 0.5
    assert got["positive_similarity"].item() == pytest.approx(0.5)
    assert got["negative_similarity"].item() == pytest.approx(0.35)
    # Each channel holds 1 and 0: standard deviation sqrt(1/2), times sqrt(2) channels.
    assert got["feature_std"].item() == pytest.approx(1)


def test_the_spread_of_rows():
    even = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 4]])
    # A channel holds 1, 0, 0, 0: standard deviation 1/2, times the root of four channels.
    assert spread(even).item() == pytest.approx(1)
    assert spread(torch.randn(1, 3).expand(5, -1)).item() == pytest.approx(0, abs=1e-6)


def test_the_losses_of_revisiting(views):
    size, k, tau = 8, 3, 0.2
    method = make_frozen("revisiting", k=k)
    (g1, z1), (_, z2) = method.encoder(views[0]), method.keys(views[1])
    table_g, table_z = (method.dictionary[name].tolist() for name in ("g", "z"))
    nce = knn = 0.0
    for g, query, key in zip(g1.tolist(), z1.tolist(), z2.tolist(), strict=True):
        exponentials = [math.exp(loops.cosine(query, row) / tau) for row in table_z]
        nce += loops.info_nce(query, key, table_z, tau) / 4
        near = sorted(range(size), key=lambda i, g=g: -loops.cosine(g, table_g[i]))[:k]
        # All rows are in the denominator, the other neighbours too, and the key is not.
        knn -= sum(math.log(exponentials[i] / sum(exponentials)) for i in near) / k / 4
    output = method(make_batch(views))
    assert output.losses["loss_nce"].item() == pytest.approx(nce, abs=1e-6)
    assert output.losses["loss_knn"].item() == pytest.approx(knn, abs=1e-6)
    assert output.weights == {"loss_knn": 0.4}


def test_the_loss_of_simclr_is_nt_xent(views):
    method, tau = make_method("simclr", temperature=0.3), 0.3
    method.encoder.projector = nn.Linear(6, 4).double()
    z = torch.cat([method.encoder(view)[1] for view in views]).tolist()
    total = right = 0.0
    for i in range(8):
        partner = (i + 4) % 8
        exponentials = [
            0.0 if j == i else math.exp(loops.cosine(z[i], z[j]) / tau) for j in range(8)
        ]
        total -= math.log(exponentials[partner] / sum(exponentials))
        right += exponentials[partner] == max(exponentials)
    output = method(make_batch(views))
    assert output.losses["loss_nce"].item() == pytest.approx(total / 8, abs=1e-6)
    assert output.metrics["nce_accuracy"].item() == right / 8
    exchanged = method(make_batch(views[::-1])).losses["loss_nce"]
    torch.testing.assert_close(exchanged, output.losses["loss_nce"])


def test_simclrs_batch_norm_is_over_both_views_of_every_image(views):
    method = make_method("simclr")
    method.encoder.projector = norm = nn.BatchNorm1d(6).double()
    method(make_batch(views))
    g = torch.cat([method.encoder.backbone(view)["res5"].mean(dim=(2, 3)) for view in views])
    torch.testing.assert_close(norm.running_mean, 0.1 * g.mean(dim=0))
    assert norm.num_batches_tracked == 1
