"""DenseCL against its Eqs. 1 to 3 in loops."""

import dataclasses
import math

import pytest
import torch

from pretrain.methods.densecl import matches
from tests.pretrain.loops import cosine, info_nce, positions
from tests.pretrain.methods.tiny import make_batch, make_frozen

TAU, WEIGHT = 0.2, 0.3


@pytest.fixture
def method():
    return make_frozen("densecl", dense_weight=WEIGHT)


def test_the_losses_are_those_of_the_paper(method, views):
    (map1, z1, d1), (map2, z2, d2) = method.encoder(views[0]), method.keys(views[1])
    rows = {name: method.dictionary[name].tolist() for name in ("z", "dense")}
    whole = dense = 0.0
    for i in range(4):
        whole += info_nce(z1[i].tolist(), z2[i].tolist(), rows["z"], TAU) / 4
        queries, keys = positions(d1[i]), positions(d2[i])
        features = positions(map1[i]), positions(map2[i])
        for place, query in enumerate(queries):
            likeness = [cosine(features[0][place], other) for other in features[1]]
            partner = keys[likeness.index(max(likeness))]
            dense += info_nce(query, partner, rows["dense"], TAU) / 4 / len(queries)
    output = method(make_batch(views))
    assert output.losses["loss_nce"].item() == pytest.approx(whole, abs=1e-6)
    assert output.losses["loss_dense"].item() == pytest.approx(dense, abs=1e-6)
    assert output.weights == {"loss_nce": 1 - WEIGHT, "loss_dense": WEIGHT}


def test_the_second_dictionary_gets_the_normalised_mean_of_each_images_dense_keys(method, views):
    _, _, d2 = method.keys(views[1])
    method.enqueue(method(make_batch(views)).keys)
    for i in range(4):
        vectors = positions(d2[i])
        mean = [sum(values) / len(vectors) for values in zip(*vectors, strict=True)]
        length = math.sqrt(sum(value * value for value in mean))
        expected = torch.tensor([value / length for value in mean], dtype=torch.float64)
        torch.testing.assert_close(method.dictionary["dense"][i], expected, atol=1e-6, rtol=0)


def test_with_weight_zero_it_is_moco(method, views):
    method.options = dataclasses.replace(method.options, dense_weight=0.0)
    sum(method(make_batch(views)).weighted().values()).backward()
    heads = method.encoder.projector
    assert all(weight.grad.abs().max() == 0 for weight in heads.dense.parameters())
    assert all(weight.grad.abs().max() > 0 for weight in heads.projector.parameters())


def test_matches_equal_a_search_in_loops():
    one, other = (torch.randn(3, 5, 2, 2, dtype=torch.float64) for _ in range(2))
    got = matches(one, other)
    for i in range(3):
        for place, feature in enumerate(positions(one[i])):
            likeness = [cosine(feature, vector) for vector in positions(other[i])]
            assert got[i, place] == likeness.index(max(likeness))
    # A map matches itself, whatever its length.
    feature = torch.randn(2, 8, 3, 3)
    assert torch.equal(matches(feature, feature * 5), torch.arange(9).expand(2, -1))


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"got \(2, 8, 3, 3\) and \(2, 8, 2, 2\)"):
        matches(torch.ones(2, 8, 3, 3), torch.ones(2, 8, 2, 2))
