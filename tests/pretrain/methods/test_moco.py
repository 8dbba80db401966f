"""MoCo-v2: what it contrasts, and how its monitors are defined."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretrain.losses import info_nce
from pretrain.methods.base import contrast_metrics
from pretrain.methods.moco import MoCo


class MeanColour(nn.Module):
    """A backbone whose feature is the mean colour, scaled by one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": images * self.scale.view(1, 3, 1, 1)}


def make_moco() -> MoCo:
    return MoCo(
        MeanColour(),
        nn.Linear(3, 4),
        embedding_dim=4,
        dictionary_size=8,
        temperature=0.2,
        momentum=0.5,
    )


def test_the_key_encoder_moves_before_it_encodes_the_keys():
    method = make_moco()
    with torch.no_grad():
        method.pair.projector.weight.add_(1.0)
    expected = (method.pair.projector.weight + method.pair.momentum_projector.weight).detach() / 2
    view = torch.rand(2, 3, 4, 4)
    keys = method(view, view, epoch=0.0).keys["z"]
    z = view.mean(dim=(2, 3)) @ expected.T + method.pair.projector.bias
    torch.testing.assert_close(keys, F.normalize(z, dim=1))


def test_the_loss_is_info_nce_of_normalised_embeddings():
    method = make_moco()
    view1, view2 = torch.rand(4, 3, 4, 4), torch.rand(4, 3, 4, 4)
    loss = method(view1, view2, epoch=0.0).losses["loss_nce"]
    _, z1 = method.pair.online(view1)
    _, z2 = method.pair.keys(view2)
    expected = info_nce(F.normalize(z1, dim=1), F.normalize(z2, dim=1), method.dictionary["z"], 0.2)
    torch.testing.assert_close(loss, expected)


def test_monitors_by_hand():
    positive = torch.tensor([0.9, 0.1])
    negative = torch.tensor([[0.5, 0.7], [0.3, -0.1]])
    feature = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    got = contrast_metrics(positive, negative, feature)
    assert got["nce_accuracy"].item() == 0.5
    assert got["positive_similarity"].item() == pytest.approx(0.5)
    assert got["negative_similarity"].item() == pytest.approx(0.35)
    # Each channel holds 1 and 0: standard deviation sqrt(1/2), times sqrt(2) channels.
    assert got["feature_std"].item() == pytest.approx(math.sqrt(0.5) * math.sqrt(2))


def test_a_collapsed_feature_has_no_spread():
    feature = torch.randn(1, 16).expand(8, -1)
    got = contrast_metrics(torch.zeros(8), torch.zeros(8, 4), feature)
    assert got["feature_std"].item() == pytest.approx(0, abs=1e-6)
