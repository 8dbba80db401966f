"""Encoders and their EMA copies against the closed form of the recursion."""

import torch
from torch import nn

from pretrain.encoder import Encoder, momentum_copy, move_towards


class TinyBackbone(nn.Module):
    """One convolution with BatchNorm, with a Detectron2 backbone's output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res4": images, "res5": self.norm(self.conv(images)).relu()}


def test_after_n_moves_the_copy_is_the_closed_form():
    encoder = Encoder(TinyBackbone(), nn.Linear(4, 2))
    average = momentum_copy(encoder)
    start = average.projector.weight.clone()
    torch.testing.assert_close(start, encoder.projector.weight)
    with torch.no_grad():
        encoder.projector.weight.fill_(2.0)
    torch.testing.assert_close(average.projector.weight, start)
    for _ in range(5):
        move_towards(average, encoder, 0.9)
    torch.testing.assert_close(average.projector.weight, 0.9**5 * start + (1 - 0.9**5) * 2.0)
    assert not any(p.requires_grad for p in average.parameters())


def test_batch_norm_statistics_of_the_copy_come_from_its_own_forward():
    encoder = Encoder(TinyBackbone(), nn.Linear(4, 2))
    average = momentum_copy(encoder)
    encoder(torch.randn(4, 3, 8, 8))
    before = average.backbone.norm.running_mean.clone()
    move_towards(average, encoder, 0.5)
    torch.testing.assert_close(average.backbone.norm.running_mean, before)
    average(torch.randn(4, 3, 8, 8) + 3)
    assert not torch.allclose(average.backbone.norm.running_mean, before)


def test_the_feature_is_the_mean_over_the_last_map():
    encoder, view = Encoder(TinyBackbone(), nn.Linear(4, 2)), torch.randn(2, 3, 8, 8)
    g, z = encoder(view)
    feature = encoder.backbone(view)["res5"]
    torch.testing.assert_close(g, feature.sum(dim=(2, 3)) / 36)
    torch.testing.assert_close(z, encoder.projector(g))
