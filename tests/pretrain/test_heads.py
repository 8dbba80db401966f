"""Projectors and predictors: which layers, with which parameters."""

import pytest
import torch
from torch import nn

from pretrain.heads import contrast_projector, mlp


def test_without_a_norm_it_is_two_affine_maps_with_relu_between():
    head, rows = mlp(5, 7, 3, norm=""), torch.randn(4, 5)
    first, second = head[0], head[2]
    hidden = (rows @ first.weight.T + first.bias).clamp_min(0)
    torch.testing.assert_close(head(rows), hidden @ second.weight.T + second.bias)


def test_with_a_norm_every_hidden_layer_has_one_and_no_bias_before_it():
    kinds = [type(layer).__name__ for layer in mlp(5, 7, 7, 3)]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [layer.bias is None for layer in mlp(5, 7, 7, 3) if type(layer) is nn.Linear] == [
        True,
        True,
        False,
    ]


def test_a_last_norm_normalises_the_output_over_the_batch():
    head = mlp(5, 7, 3, last_norm=nn.BatchNorm1d(3, affine=False))
    out = head(torch.randn(64, 5))
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(dim=0, unbiased=False), torch.ones(3), atol=1e-2, rtol=0)
    assert head[-2].bias is None
    assert not list(head[-1].parameters())


def test_the_norm_of_the_contrast_projector_removes_what_a_batch_has_in_common():
    rows, shift = torch.randn(16, 5), torch.tensor([3.0, 0, 0, 0, -2.0])
    head = contrast_projector(5, 7, 3, norm="BN")
    torch.testing.assert_close(head(rows + shift), head(rows), atol=1e-5, rtol=0)
    torch.testing.assert_close(head(rows).mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["", "BN"])
@pytest.mark.parametrize("last", [False, True])
def test_a_dense_head_is_the_projector_of_every_position(norm, last):
    norms = (nn.BatchNorm2d(3), nn.BatchNorm1d(3)) if last else (None, None)
    dense = mlp(5, 7, 3, norm=norm, last_norm=norms[0], dense=True)
    head = mlp(5, 7, 3, norm=norm, last_norm=norms[1])
    values = {
        name: value.flatten(1) if value.ndim == 4 else value
        for name, value in dense.state_dict().items()
    }
    head.load_state_dict(values)
    maps = torch.randn(4, 5, 2, 3)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, 5)
    expected = head(rows).view(4, 2, 3, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(dense(maps), expected)


def test_what_cannot_be_is_refused():
    for make in (mlp, contrast_projector):
        with pytest.raises(ValueError, match="the norm must be '' or 'BN', got 'LN'"):
            make(5, 7, 3, norm="LN")
    with pytest.raises(ValueError, match=r"widths of input and output, got \(5,\)"):
        mlp(5)
