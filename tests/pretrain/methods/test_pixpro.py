"""PixPro and PixContrast against loops over pixels."""

import math

import pytest
import torch
from torch import nn

from pretrain.batch import Batch
from pretrain.encoder import zero_last_norms
from pretrain.methods.pixpro import propagated
from tests.pretrain.loops import cosine, positions
from tests.pretrain.methods.tiny import (
    FLIPS,
    RECTANGLES,
    SIZES,
    apart,
    make_frozen,
    make_method,
    scene_batch,
    swapped,
)


@pytest.fixture
def batch() -> Batch:
    return scene_batch(2)


def centres(n: int, view: int, side: int) -> tuple[list[tuple[float, float]], float]:
    """Return the centres of cells in the unit square of the image, and a cell's diagonal."""
    (x, y, w, h), (height, width) = RECTANGLES[view, n].tolist(), SIZES[n].tolist()
    x0, x1 = x / (width - 1), (x + w - 1) / (width - 1)
    if FLIPS[view, n]:
        x0, x1 = x1, x0
    y0, y1 = y / (height - 1), (y + h - 1) / (height - 1)
    dx, dy = (x1 - x0) / side, (y1 - y0) / side
    cells = [(x0 + (u + 0.5) * dx, y0 + (v + 0.5) * dy) for v in range(side) for u in range(side)]
    return cells, math.hypot(dx, dy)


def is_positive(n: int, views: tuple[int, int], i: int, j: int, threshold: float) -> bool:
    (one, d1), (other, d2) = (centres(n, view, 2) for view in views)
    return math.dist(one[i], other[j]) / max(d1, d2) < threshold


def propagated_loop(x, g, gamma):
    """Return y of one image from its pixels and their values."""
    unit = [[a / math.sqrt(sum(b * b for b in row)) for a in row] for row in g]
    out = []
    for query in x:
        weights = [max(cosine(query, other), 0) ** gamma for other in x]
        out.append(
            [
                sum(w * row[c] for w, row in zip(weights, unit, strict=True))
                for c in range(len(unit[0]))
            ]
        )
    return out


def test_propagation_equals_a_loop():
    x, g = torch.randn(3, 5, 2, 2).double(), torch.randn(3, 4, 2, 2).double()
    for gamma, tolerance in ((2.0, 1e-12), (1.0, 1e-12), (0.5, 1e-2)):
        got = propagated(x, g, gamma)
        for n in range(3):
            expected = propagated_loop(positions(x[n]), positions(g[n]), gamma)
            for row, values in zip(positions(got[n]), expected, strict=True):
                assert row == pytest.approx(values, abs=tolerance)


def test_the_root_of_orthogonal_pixels_has_a_finite_gradient():
    x = torch.eye(4).view(1, 4, 2, 2).requires_grad_()
    propagated(x, torch.ones(1, 3, 2, 2), 0.5).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_loss_is_that_of_the_paper_in_both_orders(batch, layers):
    method = make_frozen("pixpro", transform_layers=layers, sharpness=2.0, threshold=0.9)
    online = [method.encoder(view)[1] for view in batch.views]
    target = [method.keys(view)[1] for view in batch.views]
    values = [method.transform(x) for x in online]
    total, positives = 0.0, 0
    for a, b in ((0, 1), (1, 0)):
        for n in range(4):
            y = propagated_loop(positions(online[a][n]), positions(values[a][n]), 2.0)
            found = [
                cosine(y[i], positions(target[b][n])[j])
                for i in range(4)
                for j in range(4)
                if is_positive(n, (a, b), i, j, 0.9)
            ]
            total += -2 * sum(found) / (len(found) + 1e-6) / 4
            positives += len(found)
    output = method(batch)
    assert output.losses["loss_pixel"].item() == pytest.approx(total, abs=1e-9)
    assert output.metrics["positive_pairs"].item() == pytest.approx(positives / 2 / 64)
    assert output.metrics["unmatched_images"].item() == 0.25  # The third, whose views are apart.
    assert set(output.losses) == {"loss_pixel"}


def test_the_contrast_is_that_of_pixcontrast(batch):
    method = make_frozen("pixpro", loss="contrast", temperature=0.4, threshold=0.9)
    online = [method.encoder(view)[1] for view in batch.views]
    target = [method.keys(view)[1] for view in batch.views]
    total = 0.0
    for a, b in ((0, 1), (1, 0)):
        for n in range(4):
            terms = []
            for i in range(4):
                query, keys = positions(online[a][n])[i], positions(target[b][n])
                e = [math.exp(cosine(query, key) / 0.4) for key in keys]
                own = [e[j] for j in range(4) if is_positive(n, (a, b), i, j, 0.9)]
                if own:
                    terms.append(-math.log(sum(own) / sum(e)))
            total += sum(terms) / len(terms) / 4 if terms else 0.0
    assert method(batch).losses["loss_pixel"].item() == pytest.approx(total, abs=1e-12)
    assert not hasattr(method, "transform")


def test_the_instance_branch_averages_after_the_predictor(batch):
    method = make_frozen("pixpro", instance_weight=0.5)
    total = 0.0
    for a, b in ((0, 1), (1, 0)):
        online = method.instance_predictor(method.encoder(batch.views[a])[2]).mean(dim=(2, 3))
        target = method.keys(batch.views[b])[2].mean(dim=(2, 3))
        total += sum(
            -2 * cosine(p, t) for p, t in zip(online.tolist(), target.tolist(), strict=True)
        )
    output = method(batch)
    assert output.losses["loss_instance"].item() == pytest.approx(total / 4, abs=1e-12)
    assert output.weights == {"loss_instance": 0.5}


@pytest.mark.parametrize("loss", ["propagation", "contrast"])
def test_the_order_of_the_views_does_not_matter(batch, loss):
    method = make_frozen("pixpro", loss=loss, instance_weight=1.0, threshold=0.9)
    got = method(swapped(batch)).losses
    for name, value in method(batch).losses.items():
        torch.testing.assert_close(got[name], value)


@pytest.mark.parametrize("options", [{"loss": "contrast"}, {"instance_weight": 1.0}])
def test_gradients_reach_every_online_weight_and_no_other(batch, options):
    method = make_method("pixpro", **options)
    sum(method(batch).losses.values()).backward()
    for name, weight in method.named_parameters():
        reached = weight.grad is not None
        assert reached == ("momentum_encoder" not in name), name
    assert method.encoder.backbone.weight.grad.abs().sum() > 0


def test_without_positives_the_loss_is_zero_with_a_graph(batch):
    method = make_method("pixpro", threshold=1e-9)
    output = method(apart(batch))
    assert output.losses["loss_pixel"].item() == 0
    assert output.metrics["unmatched_images"].item() == 1
    output.losses["loss_pixel"].backward()
    assert all(
        weight.grad.isfinite().all()
        for name, weight in method.named_parameters()
        if "momentum_encoder" not in name
    )


def test_a_backbone_without_residual_blocks_has_no_norm_to_zero():
    norm = nn.BatchNorm2d(3)
    zero_last_norms(nn.Sequential(norm))
    assert norm.weight.eq(1).all()
