"""MoCo-v3 against Algorithm 1, in loops."""

import math

import pytest
import torch
from torch import nn

from pretrain.losses import cross_similarities, info_nce_from_similarities
from tests.pretrain.loops import info_nce
from tests.pretrain.methods.tiny import disturb, make_batch, make_method


def contrast_in_loops(queries: list, keys: list, temperature: float) -> float:
    losses = [
        info_nce(query, keys[i], keys[:i] + keys[i + 1 :], temperature)
        for i, query in enumerate(queries)
    ]
    return sum(losses) / len(losses)


@pytest.fixture
def method():
    """Without BatchNorm, whose statistics would differ between the passes of test and method."""
    made = make_method("mocov3", temperature=0.5, momentum=0.75)
    made.encoder.projector, made.predictor = nn.Linear(6, 4), nn.Linear(4, 4)
    made.set_encoder(made.encoder)
    disturb(made.momentum_encoder)
    return made.double()


def test_the_loss_is_algorithm_1_in_both_orders(method, views):
    output = method(make_batch(views))
    predictions = [method.predictor(method.encoder(view)[1]).tolist() for view in views]
    keys = [method.keys(view)[1].tolist() for view in views]
    orders = [contrast_in_loops(predictions[i], keys[1 - i], temperature=0.5) for i in range(2)]
    assert output.losses["loss_nce"].item() == pytest.approx(sum(orders) / 2, abs=1e-6)
    # The code sums over the orders, and multiplies by 2τ.
    minimised = output.weighted()["loss_nce"].item()
    assert minimised == pytest.approx(2 * 0.5 * sum(orders), abs=1e-6)
    assert output.keys == {}


def test_no_gradient_goes_through_keys(method, views):
    method(make_batch(views)).losses["loss_nce"].backward()
    got = method.encoder.projector.weight.grad.clone()
    keys = [method.keys(view)[1].clone() for view in views]
    method.zero_grad()
    for view, key in zip(views, reversed(keys), strict=True):
        query = nn.functional.normalize(method.predictor(method.encoder(view)[1]), dim=1)
        pairs = cross_similarities(query, nn.functional.normalize(key, dim=1))
        (info_nce_from_similarities(*pairs, 0.5) / 2).backward()
    torch.testing.assert_close(got, method.encoder.projector.weight.grad, atol=1e-6, rtol=1e-5)


def test_equal_embeddings_are_at_chance_level(method, views):
    for encoder in (method.encoder, method.momentum_encoder):
        nn.init.zeros_(encoder.projector.weight)
    assert method(make_batch(views)).losses["loss_nce"].item() == pytest.approx(math.log(4))
    assert method.candidates(4) == 4


def test_heads_have_the_norms_of_the_code():
    method = make_method("mocov3")
    *_, last = method.encoder.projector
    assert isinstance(last, nn.BatchNorm1d)
    assert not last.affine
    norms = [layer for layer in method.predictor if isinstance(layer, nn.BatchNorm1d)]
    assert len(norms) == 1
    heads = (method.encoder.projector, method.predictor)
    linear = [layer for head in heads for layer in head if isinstance(layer, nn.Linear)]
    assert [layer.bias for layer in linear] == [None] * 4


def test_similarities_with_the_keys_of_other_images():
    query, key = torch.randn(2, 5, 3, dtype=torch.float64)
    positive, negative = cross_similarities(query, key)
    assert negative.shape == (5, 4)
    for i in range(5):
        products = [(query[i] * key[j]).sum().item() for j in range(5)]
        assert positive[i].item() == pytest.approx(products.pop(i))
        assert negative[i].tolist() == pytest.approx(products)
    with torch.autocast("cpu", torch.bfloat16):
        assert cross_similarities(query.bfloat16(), key.bfloat16())[1].dtype == torch.float32
    with pytest.raises(ValueError, match="two images"):
        cross_similarities(query[:1], key[:1])
    with pytest.raises(ValueError, match="expected"):
        cross_similarities(query, key[:, :2])
