"""SimCLR against its Eq. 1 in loops."""

import math

import pytest
import torch
from torch import nn

from pretrain.methods.simclr import SimCLR

TAU = 0.3


@pytest.fixture
def method(backbone) -> SimCLR:
    return SimCLR(backbone, nn.Linear(6, 4), temperature=TAU).double()


def test_the_loss_is_nt_xent_of_the_paper(method, views, cosine):
    z = torch.cat([method.encoder.online(view)[1] for view in views]).tolist()
    total = right = 0.0
    for i in range(8):
        partner = (i + 4) % 8
        exponentials = [0.0 if j == i else math.exp(cosine(z[i], z[j]) / TAU) for j in range(8)]
        total -= math.log(exponentials[partner] / sum(exponentials))
        right += exponentials[partner] == max(exponentials)
    output = method(*views, epoch=0.0)
    # z is normalised in float32 at least; here everything is float64 until there.
    assert output.losses["loss_nce"].item() == pytest.approx(total / 8, abs=1e-6)
    assert output.metrics["nce_accuracy"].item() == right / 8


def test_batch_norm_is_over_both_views_of_every_image(backbone, views):
    method = SimCLR(backbone, nn.BatchNorm1d(6), temperature=TAU).double()
    method(*views, epoch=0.0)
    g = torch.cat([method.encoder.backbone(view)["res5"].mean(dim=(2, 3)) for view in views])
    norm = method.encoder.projector
    torch.testing.assert_close(norm.running_mean, 0.1 * g.mean(dim=0))
    assert norm.num_batches_tracked == 1


def test_exchanging_the_views_changes_nothing(method, views):
    one, other = (method(*pair, epoch=0.0).losses["loss_nce"] for pair in (views, views[::-1]))
    torch.testing.assert_close(one, other)


def test_a_single_image_is_refused(method, views):
    with pytest.raises(ValueError, match="two images at least"):
        method(*(view[:1] for view in views), epoch=0.0)
