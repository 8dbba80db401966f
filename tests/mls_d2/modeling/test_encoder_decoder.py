"""Losses, predictions and sliding windows of the segmentation network."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn
from torch.nn import functional as F

from mls_d2.modeling.encoder_decoder import (
    EncoderDecoder,
    pixel_cross_entropy,
    slide,
    window_starts,
)

MEAN, STD = (100.0, 110.0, 120.0), (50.0, 55.0, 60.0)


class Halve(nn.Module):
    """A backbone that averages 2×2 pixels, under two names."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        small = F.avg_pool2d(images, 2)
        return {"res4": small, "res5": small * 2}

    def output_shape(self):
        return {name: ShapeSpec(channels=3, stride=2) for name in ("res4", "res5")}


class Times(nn.Module):
    """A head whose logits are a multiple of the features."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, features):
        return features * self.factor


def network(**changes):
    arguments = {
        "backbone": Halve(),
        "head": Times(1.5),
        "in_feature": "res5",
        "auxiliary_head": Times(-2.0),
        "auxiliary_feature": "res4",
        "auxiliary_weight": 0.4,
        "pixel_mean": MEAN,
        "pixel_std": STD,
        "ignore_value": 255,
        "align_corners": False,
        "window": (0, 0),
        "stride": (2, 2),
    }
    return EncoderDecoder(**(arguments | changes))


def image(height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def normalised(pixels):
    return (pixels.float() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_cross_entropy_is_the_sum_over_labelled_pixels_by_all_pixels():
    logits = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    labels = torch.tensor([[[0, 2], [255, 1]], [[255, 255], [255, 0]]])
    total = 0.0
    for n in range(2):
        for y in range(2):
            for x in range(2):
                if labels[n, y, x] != 255:
                    scores = logits[n, :, y, x].exp()
                    total -= math.log(scores[labels[n, y, x]] / scores.sum())
    assert pixel_cross_entropy(logits, labels, 255).item() == pytest.approx(total / 8)


def test_a_batch_without_labels_costs_nothing_and_is_finite():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 2, 2), 255), 255)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("align_corners", [False, True])
def test_both_losses_are_of_logits_upsampled_to_the_labels(align_corners):
    model = network(align_corners=align_corners)
    pixels, labels = image(6, 8), torch.randint(0, 3, (6, 8), dtype=torch.uint8)
    labels[0, :3] = 255
    losses = model([{"image": pixels, "sem_seg": labels}])
    small = F.avg_pool2d(normalised(pixels)[None], 2)
    for name, factor, weight in (("loss_sem_seg", 3.0, 1.0), ("loss_auxiliary", -2.0, 0.4)):
        logits = F.interpolate(small * factor, (6, 8), mode="bilinear", align_corners=align_corners)
        expected = weight * pixel_cross_entropy(logits, labels[None].long(), 255)
        torch.testing.assert_close(losses[name], expected)


def test_small_images_are_surrounded_by_the_mean_colour():
    model = network()
    sizes = ((4, 6), (6, 2))
    labels = torch.zeros(6, 6, dtype=torch.uint8)
    model([{"image": image(*size), "sem_seg": labels} for size in sizes])
    (batch,) = model.backbone.seen
    assert batch.shape == (2, 3, 6, 6)
    for row, (height, width) in zip(batch, sizes, strict=True):
        torch.testing.assert_close(row[:, :height, :width], normalised(image(height, width)))
        assert row[:, height:].abs().sum() + row[:, :, width:].abs().sum() == 0


def test_predictions_have_the_size_that_is_asked_for():
    model = network().eval()
    pixels = image(4, 6)
    whole, scaled = model([{"image": pixels}, {"image": pixels, "height": 8, "width": 12}])
    expected = F.interpolate(F.avg_pool2d(normalised(pixels)[None], 2) * 3, (4, 6), mode="bilinear")
    torch.testing.assert_close(whole["sem_seg"], expected[0])
    twice = F.interpolate(expected, (8, 12), mode="bilinear")
    torch.testing.assert_close(scaled["sem_seg"], twice[0])


def test_windows_are_used_when_they_are_asked_for():
    model = network(window=(4, 4), stride=(2, 2)).eval()
    model([{"image": image(6, 8)}])
    assert [tuple(part.shape[2:]) for part in model.backbone.seen] == [(4, 4)] * 6


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (2049, 769, 513, [0, 513, 1026, 1280]),  # the paper's: the last one ends at the border
        (1025, 769, 513, [0, 256]),
        (769, 769, 513, [0]),
        (500, 769, 513, [0]),
        (12, 4, 4, [0, 4, 8]),
    ],
)
def test_windows_start_where_they_should(length, window, stride, starts):
    assert window_starts(length, window, stride) == starts


def test_logits_are_the_mean_over_the_windows_that_cover_a_pixel():
    image = torch.rand(1, 3, 7, 9, dtype=torch.float64)
    seen = []

    def predict(part):
        # The logits depend on the window, so that a mean differs from those of any window.
        seen.append(tuple(part.shape[2:]))
        return part[:, :2] * len(seen)

    out = slide(predict, image, (4, 5), (3, 2))
    total, count, number = torch.zeros(2, 7, 9, dtype=torch.float64), torch.zeros(7, 9), 0
    for top in (0, 3):
        for left in (0, 2, 4):
            number += 1
            for y in range(top, top + 4):
                for x in range(left, left + 5):
                    total[:, y, x] += image[0, :2, y, x] * number
                    count[y, x] += 1
    assert seen == [(4, 5)] * 6
    torch.testing.assert_close(out[0], total / count)
