"""LEWEL against loops over positions, maps and groups of channels."""

import math

import pytest
import torch

from mls_d2.config.loading import load_cfg
from pretrain.methods import build_method
from pretrain.methods.lewel import aligned_vectors, alignment_maps
from tests.pretrain.loops import cosine, normal, softmax
from tests.pretrain.methods.tiny import disturb, make_batch, make_frozen, make_method

WEIGHT, SCALE = 0.3, 0.5


def maps_loop(rows: list[list[float]], scale: float) -> list[list[float]]:
    """Return the maps ``d x P`` of the projected positions ``P x d`` of an image."""
    unit = [[x / math.sqrt(sum(y * y for y in row)) / scale for x in row] for row in rows]
    return [softmax(list(column)) for column in zip(*unit, strict=True)]


def aligned_loop(rows: list[list[float]], maps: list[list[float]], groups: int) -> list:
    """Return the aligned vectors of an image's positions ``P x d_g``."""
    width, count = len(rows[0]) // groups, len(maps) // groups
    return [
        [
            sum(
                maps[(channel // width) * count + j][p] * row[channel] for p, row in enumerate(rows)
            )
            for channel in range(len(rows[0]))
        ]
        for j in range(count)
    ]


@pytest.fixture
def lewel():
    method = make_frozen("lewel", instance_weight=WEIGHT, temperature=SCALE, groups=2)
    disturb(method)
    return method


def test_maps_and_vectors_equal_their_loops():
    projected, features = normal(3, 5, 8), normal(3, 5, 6, seed=1)
    maps = alignment_maps(projected, SCALE)
    for groups in (1, 2):
        vectors = aligned_vectors(features, maps, groups)
        assert vectors.shape == (3, 8 // groups, 6)
        for n in range(3):
            expected = maps_loop(projected[n].tolist(), SCALE)
            torch.testing.assert_close(maps[n].T, torch.tensor(expected, dtype=torch.float64))
            rows = aligned_loop(features[n].tolist(), expected, groups)
            torch.testing.assert_close(vectors[n], torch.tensor(rows, dtype=torch.float64))


def test_vectors_are_means_of_positions_in_any_order():
    projected, features = normal(2, 5, 4), normal(2, 5, 6, seed=1)
    maps = alignment_maps(projected, SCALE)
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(2, 4, dtype=torch.float64))
    order = [3, 1, 4, 0, 2]
    mixed = aligned_vectors(features[:, order], alignment_maps(projected[:, order], SCALE), 2)
    torch.testing.assert_close(mixed, aligned_vectors(features, maps, 2))
    # Equal projections give the mean, the same vector K times; so do equal positions.
    flat = alignment_maps(torch.ones(2, 5, 4, dtype=torch.float64), SCALE)
    mean = features.mean(dim=1, keepdim=True).expand(2, 2, 6)
    torch.testing.assert_close(aligned_vectors(features, flat, 2), mean)
    torch.testing.assert_close(aligned_vectors(mean[:, :1].expand(2, 5, 6), maps, 2), mean)


def test_gradients_are_right_and_reach_both_inputs():
    projected, features = normal(2, 3, 4).requires_grad_(), normal(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, x: aligned_vectors(x, alignment_maps(a, SCALE), 2), (projected, features)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: alignment_maps(x, 0.0), "must be > 0, got 0"),
        (lambda x: aligned_vectors(x, x[:, :3], 2), r"\(2, 5, 4\) and \(2, 3, 4\)"),
        (lambda x: aligned_vectors(x, x, 3), "3 groups"),
        (lambda x: aligned_vectors(x, x[0], 2), r"\(5, 4\)"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(2, 5, 4))


def test_everything_is_in_float32_under_autocast():
    projected, features = normal(2, 5, 4).float(), normal(2, 5, 6, seed=1).float()
    plain = aligned_vectors(features, alignment_maps(projected, SCALE), 2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = aligned_vectors(features, alignment_maps(projected, SCALE), 2)
    torch.testing.assert_close(mixed, plain)


def encoded(encoder, view):
    """Return z and o of a view: one projector for the mean and every position, one for vectors."""
    features = encoder.backbone(view)["res5"].flatten(2).mT
    columns = torch.cat([features.mean(dim=1, keepdim=True), features], dim=1)
    projected = encoder.projector[0](columns.flatten(0, 1)).unflatten(0, columns.shape[:2])
    vectors = [
        aligned_loop(x.tolist(), maps_loop(a[1:].tolist(), SCALE), 2)
        for x, a in zip(features, projected, strict=True)
    ]
    rows = torch.tensor(vectors, dtype=torch.float64)
    return projected[:, 0], encoder.projector[1](rows.flatten(0, 1)).unflatten(0, rows.shape[:2])


def test_the_losses_are_those_of_the_paper_in_both_orders(lewel, views):
    online = [encoded(lewel.encoder, view) for view in views]
    target = [encoded(lewel.momentum_encoder, view) for view in views]
    instance = aligned = 0.0
    for one, other in ((0, 1), (1, 0)):
        (z, o), (z_target, o_target) = online[one], target[other]
        p, q = lewel.predictor(z), lewel.aligned_predictor(o.flatten(0, 1)).view(o.shape)
        for n in range(4):
            instance += (2 - 2 * cosine(p[n].tolist(), z_target[n].tolist())) / 4
            for j in range(2):
                aligned += (2 - 2 * cosine(q[n, j].tolist(), o_target[n, j].tolist())) / 8
    output = lewel(make_batch(views))
    assert output.losses["loss_instance"].item() == pytest.approx(instance, abs=1e-9)
    assert output.losses["loss_aligned"].item() == pytest.approx(aligned, abs=1e-9)
    assert output.weights == pytest.approx({"loss_instance": WEIGHT, "loss_aligned": 1 - WEIGHT})
    assert output.metrics["positive_similarity"].item() == pytest.approx(1 - instance / 4)


def test_the_maps_learn_through_the_aligned_vectors_alone(lewel, views):
    first = lewel.encoder.projector[0][0].weight
    lewel(make_batch(views)).losses["loss_aligned"].backward()
    assert first.grad.abs().sum() > 0
    lewel.zero_grad()
    lewel(make_batch(views)).losses["loss_instance"].backward()
    assert all(weight.grad is None for weight in lewel.encoder.projector[1].parameters())


def test_the_heads_have_no_biases():
    layers = [
        layer for layer in make_method("lewel").modules() if isinstance(layer, torch.nn.Linear)
    ]
    assert all(layer.bias is None for layer in layers)


def test_groups_divide_the_channels_of_the_backbone(refuses):
    words = ["MODEL.DEVICE", "cpu", "BYOL.OUT_DIM", "6", "LEWEL.GROUPS", "3"]
    with refuses("bad-value", "LEWEL.GROUPS must divide the backbone's 512 channels, got 3"):
        build_method(load_cfg("pretrain/configs/lewel_quick.yaml", words))
