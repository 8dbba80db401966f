"""Pyramid pooling, masks and attention against loops over every position."""

import math

import pytest
import torch
from torch.nn import functional as F

from mls_d2.modeling.segmentation_heads import (
    PSABranch,
    PSAHead,
    PSPHead,
    attend,
    psa_mask,
    reachable,
    shrunk_size,
)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pooled_by_loops(features, cells):
    """Average over cells, with bounds rounded outwards."""
    height, width = features.shape[2:]
    out = features.new_zeros(*features.shape[:2], cells, cells)
    for i in range(cells):
        for j in range(cells):
            top, bottom = i * height // cells, math.ceil((i + 1) * height / cells)
            left, right = j * width // cells, math.ceil((j + 1) * width / cells)
            out[:, :, i, j] = features[:, :, top:bottom, left:right].mean((2, 3))
    return out


def source_position(index, length, cells, align_corners):
    """Return the cell and the share of the next one that bilinear upsampling reads."""
    if align_corners:
        place = index * (cells - 1) / (length - 1)
    else:
        place = max(0.0, (index + 0.5) * cells / length - 0.5)
    first = min(int(place), cells - 1)
    return first, min(first + 1, cells - 1), place - first


def upsampled_by_loops(maps, size, align_corners):
    out = maps.new_zeros(*maps.shape[:2], *size)
    for y in range(size[0]):
        top, bottom, down = source_position(y, size[0], maps.shape[2], align_corners)
        for x in range(size[1]):
            left, right, across = source_position(x, size[1], maps.shape[3], align_corners)
            upper = (1 - across) * maps[:, :, top, left] + across * maps[:, :, top, right]
            lower = (1 - across) * maps[:, :, bottom, left] + across * maps[:, :, bottom, right]
            out[:, :, y, x] = (1 - down) * upper + down * lower
    return out


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_pyramid_is_that_of_loops(align_corners):
    scales = (1, 2, 3, 6)
    head = PSPHead(
        5, 3, channels=2, pool_scales=scales, norm="", dropout=0.1, align_corners=align_corners
    ).double()
    features = random(2, 5, 7, 10)
    expected = [features]
    for scale, branch in zip(scales, head.branches, strict=True):
        cells = pooled_by_loops(features, scale)
        weight = branch.weight[:, :, 0, 0]
        reduced = torch.einsum("nchw,kc->nkhw", cells, weight) + branch.bias.view(-1, 1, 1)
        expected.append(upsampled_by_loops(reduced.clamp(min=0), (7, 10), align_corners))
    torch.testing.assert_close(head.pyramid(features), torch.cat(expected, 1))
    assert head(features).shape == (2, 3, 7, 10)


def attended_by_loops(features, mask, mode, size):
    """Weigh every pair of positions by its mask, with one softmax per receiving position."""
    count, channels, height, width = features.shape
    half = (size[0] - 1) // 2, (size[1] - 1) // 2
    places = [(h, w) for h in range(height) for w in range(width)]
    out = torch.zeros_like(features)
    for n in range(count):
        for h, w in places:
            logits = []
            for y, x in places:
                # The mask is that of the receiver (collect) or of the sender (distribute).
                centre, target = ((h, w), (y, x)) if mode == "collect" else ((y, x), (h, w))
                i, j = target[0] - centre[0] + half[0], target[1] - centre[1] + half[1]
                inside = 0 <= i < size[0] and 0 <= j < size[1]
                logits.append(mask[n, i * size[1] + j][centre].item() if inside else 0.0)
            weights = torch.tensor(logits, dtype=torch.float64).exp()
            weights /= weights.sum()
            for weight, (y, x) in zip(weights, places, strict=True):
                out[n, :, h, w] += weight * features[n, :, y, x]
    return out


@pytest.mark.parametrize("mode", ["collect", "distribute"])
@pytest.mark.parametrize("size", [(7, 5), (3, 3), (9, 7)])
def test_attention_is_that_of_loops(mode, size):
    features, mask = random(2, 3, 4, 3), random(2, size[0] * size[1], 4, 3)
    expected = attended_by_loops(features, mask, mode, size)
    torch.testing.assert_close(attend(features, psa_mask(mask, mode, size)), expected)


@pytest.mark.parametrize("mode", ["collect", "distribute"])
def test_offsets_out_of_reach_are_left_out_without_any_change(mode):
    branch = PSABranch(5, 4, (9, 3), mode, norm="").double()
    features, size = random(1, 5, 4, 8), (2, 4)
    reduced = F.interpolate(branch.reduce(features), size, mode="bilinear", align_corners=False)
    whole = attend(reduced, psa_mask(branch.mask(branch.attention(reduced)), mode, (9, 3)))
    torch.testing.assert_close(branch(features, size, False), whole)
    weight, reach = reachable(branch.mask.weight, (9, 3), size)
    assert reach == (3, 3)
    assert torch.equal(weight, branch.mask.weight.unflatten(0, (9, 3))[3:6].flatten(0, 1))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((97, 97), ((49, 49), True)), ((64, 128), ((32, 64), False)), ((5, 8), ((2, 4), False))],
)
def test_masks_work_on_maps_of_half_the_size(size, expected):
    assert shrunk_size(*size) == expected


def test_the_head_of_psanet_joins_both_directions_and_the_features():
    head = PSAHead(4, 3, channels=2, mask_size=(5, 5), norm="", dropout=0.1).double().eval()
    features = random(1, 4, 5, 5)
    both = [
        attended_by_loops(small, branch.mask(branch.attention(small)), mode, (5, 5))
        for mode, branch in (("collect", head.collect), ("distribute", head.distribute))
        # From odd sides every second position, corners included.
        for small in [branch.reduce(features)[..., ::2, ::2]]
    ]
    context = upsampled_by_loops(head.project(torch.cat(both, 1)), (5, 5), align_corners=True)
    expected = head.predictor(head.bottleneck(torch.cat((features, context), 1)))
    torch.testing.assert_close(head(features), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_heads_give_the_same_on_a_gpu(align_corners):
    shared = {"channels": 4, "norm": "", "dropout": 0.0}
    heads = (
        PSPHead(6, 3, pool_scales=(1, 2), align_corners=align_corners, **shared),
        PSAHead(6, 3, mask_size=(5, 9), **shared),
    )
    for head in heads:
        features = random(2, 6, 7, 10)
        expected = head.double()(features)
        torch.testing.assert_close(head.cuda()(features.cuda()).cpu(), expected)


def by_loops(mask: torch.Tensor, mode: str, size: tuple[int, int]) -> torch.Tensor:
    count, _, height, width = mask.shape
    out = torch.zeros(count, height * width, height, width, dtype=mask.dtype)
    for h in range(height):
        for w in range(width):
            for i in range(size[0]):
                for j in range(size[1]):
                    y, x = i + h - (size[0] - 1) // 2, j + w - (size[1] - 1) // 2
                    if 0 <= y < height and 0 <= x < width:
                        value = mask[:, i * size[1] + j, h, w]
                        if mode == "collect":
                            out[:, y * width + x, h, w] = value
                        else:
                            out[:, h * width + w, y, x] = value
    return out


@pytest.mark.parametrize("mode", ["collect", "distribute"])
@pytest.mark.parametrize(
    ("size", "height", "width"),
    [
        ((7, 5), 4, 3),  # over-complete: 2n - 1
        ((3, 3), 4, 5),  # smaller than the map
        ((1, 1), 3, 2),
        ((5, 1), 3, 4),
        ((9, 11), 2, 3),  # larger than 2n - 1
    ],
)
def test_every_entry_is_where_the_loops_put_it(mode, size, height, width):
    mask = random(2, size[0] * size[1], height, width)
    out = psa_mask(mask, mode, size)
    assert out.shape == (2, height * width, height, width)
    assert torch.equal(out, by_loops(mask, mode, size))


@pytest.mark.parametrize("mode", ["collect", "distribute"])
def test_gradients_are_those_of_finite_differences(mode):
    mask = random(1, 15, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: psa_mask(m, mode, (3, 5)), mask)
