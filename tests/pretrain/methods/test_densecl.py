"""DenseCL against its Eqs. 1 to 3 in loops, and its keys in a shuffled batch."""

import math

import pytest
import torch
from torch import nn

from pretrain.batchnorm import BatchShuffle
from pretrain.methods.densecl import DenseCL, matches

TAU, WEIGHT = 0.2, 0.3


def disturbed(method: DenseCL) -> DenseCL:
    """Give the momentum copies weights of their own, which stay."""
    copies = method.pair.momentum_backbone, method.pair.momentum_projector
    with torch.no_grad():
        for weight in (parameter for part in copies for parameter in part.parameters()):
            weight.add_(0.5 * torch.randn_like(weight))
    method.pair.momentum = 1.0
    return method


@pytest.fixture
def method(backbone) -> DenseCL:
    heads = nn.Linear(6, 4), nn.Conv2d(6, 4, 1)
    options = {"embedding_dim": 4, "dictionary_size": 8, "temperature": TAU, "momentum": 0.9}
    return disturbed(DenseCL(backbone, *heads, **options, dense_weight=WEIGHT).double())


def positions(image_map: torch.Tensor) -> list[list[float]]:
    """Return the vectors of a map ``(d, S, S)``, row by row."""
    return image_map.flatten(1).T.tolist()


def nce(query, key, rows, cosine) -> float:
    own = math.exp(cosine(query, key) / TAU)
    return -math.log(own / (own + sum(math.exp(cosine(query, row) / TAU) for row in rows)))


def test_the_losses_are_those_of_the_paper(method, views, cosine):
    (map1, z1, d1), (map2, z2, d2) = method.pair.online(views[0]), method.pair.keys(views[1])
    rows = {name: method.dictionary[name].tolist() for name in ("z", "dense")}
    whole = dense = 0.0
    for i in range(4):
        whole += nce(z1[i].tolist(), z2[i].tolist(), rows["z"], cosine) / 4
        queries, keys = positions(d1[i]), positions(d2[i])
        features = positions(map1[i]), positions(map2[i])
        for place, query in enumerate(queries):
            likeness = [cosine(features[0][place], other) for other in features[1]]
            partner = keys[likeness.index(max(likeness))]
            dense += nce(query, partner, rows["dense"], cosine) / 4 / len(queries)
    output = method(*views, epoch=0.0)
    assert output.losses["loss_nce"].item() == pytest.approx((1 - WEIGHT) * whole, abs=1e-6)
    assert output.losses["loss_dense"].item() == pytest.approx(WEIGHT * dense, abs=1e-6)


def test_the_second_dictionary_gets_the_normalised_mean_of_each_images_dense_keys(method, views):
    _, _, d2 = method.pair.keys(views[1])
    method.enqueue(method(*views, epoch=0.0).keys)
    for i in range(4):
        vectors = positions(d2[i])
        mean = [sum(values) / len(vectors) for values in zip(*vectors, strict=True)]
        length = math.sqrt(sum(value * value for value in mean))
        expected = torch.tensor([value / length for value in mean], dtype=torch.float64)
        torch.testing.assert_close(method.dictionary["dense"][i], expected, atol=1e-6, rtol=0)


def test_with_weight_zero_it_is_moco(method, views):
    method.dense_weight = 0.0
    losses = method(*views, epoch=0.0).losses
    assert losses["loss_dense"].item() == 0
    sum(losses.values()).backward()
    assert method.pair.projector.dense.weight.grad.abs().max() == 0
    assert method.pair.projector.projector.weight.grad.abs().max() > 0


def test_all_key_tensors_come_back_in_order_from_a_shuffled_batch(method, views):
    straight = method(*views, epoch=0.0)
    method.pair.shuffle = BatchShuffle(seed=3)
    assert method.pair.shuffle.order(4).tolist() != [0, 1, 2, 3]
    mixed = method(*views, epoch=0.0)
    for name, loss in straight.losses.items():
        torch.testing.assert_close(mixed.losses[name], loss)
    for table, rows in straight.keys.items():
        torch.testing.assert_close(mixed.keys[table], rows)


def test_matches_equal_a_search_in_loops(cosine):
    one, other = (torch.randn(3, 5, 2, 2, dtype=torch.float64) for _ in range(2))
    got = matches(one, other)
    assert got.shape == (3, 4)
    for i in range(3):
        for place, feature in enumerate(positions(one[i])):
            likeness = [cosine(feature, vector) for vector in positions(other[i])]
            assert got[i, place] == likeness.index(max(likeness))


def test_a_map_matches_itself_whatever_its_length():
    feature = torch.randn(2, 8, 3, 3)
    assert torch.equal(matches(feature, feature * 5), torch.arange(9).expand(2, -1))


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"got \(2, 8, 3, 3\) and \(2, 8, 2, 2\)"):
        matches(torch.ones(2, 8, 3, 3), torch.ones(2, 8, 2, 2))
