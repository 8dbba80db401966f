"""The EMA pair against the closed form of its recursion."""

import pytest
import torch
from torch import nn

from pretrain.momentum import MomentumPair


class TinyBackbone(nn.Module):
    """One convolution with BatchNorm, with a Detectron2 backbone's output."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": self.norm(self.conv(images)).relu()}


def make_pair(momentum: float = 0.9) -> MomentumPair:
    return MomentumPair(TinyBackbone(), nn.Linear(4, 2), momentum=momentum)


def test_after_n_updates_the_copy_is_the_closed_form():
    pair = make_pair()
    start = pair.momentum_projector.weight.clone()
    with torch.no_grad():
        pair.projector.weight.fill_(2.0)
    for _ in range(5):
        pair.update()
    expected = 0.9**5 * start + (1 - 0.9**5) * 2.0
    torch.testing.assert_close(pair.momentum_projector.weight, expected)


def test_the_copies_start_equal_and_share_no_memory():
    pair = make_pair()
    for a, b in zip(pair.backbone.parameters(), pair.momentum_backbone.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_keys_come_from_the_momentum_copies_without_gradient():
    pair = make_pair()
    view = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        pair.projector.weight.zero_()
        pair.projector.bias.zero_()
    _, online = pair.online(view)
    _, keys = pair.keys(view)
    assert online.abs().max() == 0
    assert keys.abs().max() > 0
    assert not keys.requires_grad
    assert all(not p.requires_grad for p in pair.momentum_backbone.parameters())


def test_batch_norm_statistics_of_the_copy_come_from_its_own_forward():
    pair = make_pair()
    pair.online(torch.randn(4, 3, 8, 8))
    before = pair.momentum_backbone.norm.running_mean.clone()
    pair.update()
    torch.testing.assert_close(pair.momentum_backbone.norm.running_mean, before)
    pair.keys(torch.randn(4, 3, 8, 8) + 3)
    assert not torch.allclose(pair.momentum_backbone.norm.running_mean, before)


def test_the_feature_is_the_mean_over_the_map():
    pair = make_pair()
    view = torch.randn(2, 3, 8, 8)
    g, _ = pair.online(view)
    feature = pair.backbone(view)["res5"]
    torch.testing.assert_close(g, feature.sum(dim=(2, 3)) / 36)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5])
def test_a_momentum_outside_its_range_is_refused(momentum):
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        make_pair(momentum)
