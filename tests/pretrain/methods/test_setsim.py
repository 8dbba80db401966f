"""SetSim against loops over positions, their attention and their sets of positives."""

import math

import pytest
import torch

from pretrain.batch import Batch
from pretrain.geometry import cell_distances
from pretrain.methods.setsim import SetSim, attended, positive_pairs, with_nearest
from tests.pretrain.loops import cosine, info_nce, positions
from tests.pretrain.methods.tiny import (
    FLIPS,
    RECTANGLES,
    SIZES,
    apart,
    make_frozen,
    scene_batch,
)

TAU, WEIGHT = 0.2, 0.3


def make(**options) -> SetSim:
    return make_frozen("setsim", temperature=TAU, dense_weight=WEIGHT, **options)


@pytest.fixture
def batch() -> Batch:
    return scene_batch(3)


def attention_loop(image_map: torch.Tensor) -> list[float]:
    energy = [sum(a * a for a in row) / len(row) for row in positions(image_map)]
    return [(e - min(energy)) / (max(energy) - min(energy)) for e in energy]


def pairs_loop(one, other, distance, *, nearest: bool) -> list[list[bool]]:
    """Return the positives of one image's positions."""
    a, b = attention_loop(one), attention_loop(other)
    rows = []
    for i, query in enumerate(positions(one)):
        likeness = [cosine(query, key) for key in positions(other)]
        row = [
            (a[i] >= 0.7 and b[j] >= 0.7 and likeness[j] >= 0.2) or distance[i][j] < 0.5
            for j in range(len(likeness))
        ]
        if nearest and any(row):
            row[likeness.index(max(likeness))] = True
        rows.append(row)
    return rows


@pytest.mark.parametrize("nearest", [False, True])
def test_the_losses_are_those_of_the_paper(batch, nearest):
    method = make(nearest=nearest)
    (map1, z1, d1), (map2, z2, d2) = method.encoder(batch.views[0]), method.keys(batch.views[1])
    distance = cell_distances(RECTANGLES, FLIPS, SIZES, 3).tolist()
    queues = {name: method.dictionary[name].tolist() for name in ("z", "dense")}
    whole = sets = found = 0.0
    for n in range(4):
        whole += info_nce(z1[n].tolist(), z2[n].tolist(), queues["z"], TAU) / 4
        rows, terms = pairs_loop(map1[n], map2[n], distance[n], nearest=nearest), []
        for query, row in zip(positions(d1[n]), rows, strict=True):
            chosen = [k for k, is_in in zip(positions(d2[n]), row, strict=True) if is_in]
            c = [cosine(query, key) / TAU for key in chosen]
            below = sum(map(math.exp, c))
            below += sum(math.exp(cosine(query, u) / TAU) for u in queues["dense"])
            if c:
                terms.append(-sum(v - math.log(below) for v in c) / len(c))
            found += len(c)
        sets += sum(terms) / len(terms) / 4 if terms else 0.0
    output = method(batch)
    assert output.losses["loss_nce"].item() == pytest.approx(whole, abs=1e-6)
    assert output.losses["loss_set"].item() == pytest.approx(sets, abs=1e-5)
    assert output.weights == pytest.approx({"loss_nce": 1 - WEIGHT, "loss_set": WEIGHT})
    assert output.metrics["positive_pairs"].item() == pytest.approx(found / 4 / 81)
    assert set(output.keys) == {"z", "dense"}


def test_positives_of_swapped_views_are_transposed_and_length_does_not_matter():
    one, other = (torch.randn(3, 5, 2, 2, dtype=torch.float64) for _ in range(2))
    pairs = positive_pairs(one, other, 0.5, 0.1)
    assert torch.equal(positive_pairs(other, one, 0.5, 0.1), pairs.mT)
    assert torch.equal(positive_pairs(3 * one, other / 7, 0.5, 0.1), pairs)
    assert positive_pairs(one, other, 0.0, -1.0).all()


def test_attention_is_scaled_in_each_image_and_zero_on_a_map_of_equals():
    maps = torch.randn(3, 5, 2, 2)
    scaled = attended(maps)
    assert scaled.amin(dim=1).eq(0).all()
    assert scaled.amax(dim=1).tolist() == pytest.approx([1, 1, 1])
    torch.testing.assert_close(attended(4 * maps), scaled)
    assert attended(torch.ones(2, 5, 3, 3)).eq(0).all()


def test_the_nearest_joins_rows_that_have_positives_alone():
    maps = torch.randn(1, 6, 2, 2)
    pairs = torch.zeros(1, 4, 4, dtype=torch.bool)
    pairs[0, 1, 3] = True
    got = with_nearest(pairs, maps, maps)
    assert got[0].nonzero().tolist() == [[1, 1], [1, 3]]


def test_without_positives_the_set_loss_is_zero_with_a_graph(batch):
    method = make(attention=1.0, similarity=1.0, distance=1e-9)
    output = method(apart(batch))
    assert output.losses["loss_set"].item() == 0
    assert output.metrics["unmatched_images"].item() == 1
    output.losses["loss_set"].backward()
    grads = [w.grad for w in method.encoder.projector.dense.parameters()]
    assert all(grad is not None and grad.eq(0).all() for grad in grads)
