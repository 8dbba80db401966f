"""SetSim against loops over positions, their attention and their sets of positives."""

import math

import pytest
import torch
from torch import nn

from mls_d2.config.loading import load_cfg
from pretrain.batch import Batch
from pretrain.batchnorm import BatchShuffle
from pretrain.geometry import cell_distances
from pretrain.methods import build_method
from pretrain.methods.setsim import SetSim, attended, positive_pairs, with_nearest

TAU, WEIGHT = 0.2, 0.3
RECTANGLES = torch.tensor(
    [
        [[10, 20, 100, 80], [5, 5, 60, 60], [0, 0, 20, 20], [9, 9, 30, 30]],
        [[40, 30, 90, 120], [5, 5, 60, 60], [90, 60, 30, 40], [20, 1, 40, 60]],
    ],
    dtype=torch.float64,
)
FLIPS = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]], dtype=torch.bool)
SIZES = torch.tensor([[200, 160], [90, 80], [100, 120], [70, 75]])


class FlatBackbone(nn.Module):
    """A linear map of every pixel's colour to six channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": torch.einsum("nchw,dc->ndhw", images, self.weight)}


def make(**options) -> SetSim:
    values = {"projector_hidden_dim": 5, "projector_out_dim": 4, "dictionary_size": 8}
    values |= {"temperature": TAU, "dense_weight": WEIGHT, "momentum": 0.75}
    made = SetSim(FlatBackbone(), 6, SetSim.Options(**(values | options))).double()
    with torch.no_grad():
        for weight in made.momentum_encoder.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    made.momentum = lambda progress: 1.0  # Nothing moves.
    return made


@pytest.fixture
def batch() -> Batch:
    views = torch.randn(2, 4, 3, 3, 3, dtype=torch.float64)
    return Batch(list(views), RECTANGLES, FLIPS, SIZES, torch.arange(4))


def positions(image_map: torch.Tensor) -> list[list[float]]:
    return image_map.flatten(1).T.tolist()


def attention_loop(image_map: torch.Tensor) -> list[float]:
    energy = [sum(a * a for a in row) / len(row) for row in positions(image_map)]
    return [(e - min(energy)) / (max(energy) - min(energy)) for e in energy]


def pairs_loop(one, other, distance, cosine, *, nearest: bool) -> list[list[bool]]:
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
def test_the_losses_are_those_of_the_paper(batch, cosine, nearest):
    method = make(nearest=nearest)
    (map1, z1, d1), (map2, z2, d2) = method.encoder(batch.views[0]), method.keys(batch.views[1])
    distance = cell_distances(RECTANGLES, FLIPS, SIZES, 3).tolist()
    queues = {name: method.dictionary[name].tolist() for name in ("z", "dense")}
    whole = sets = found = 0.0
    for n in range(4):
        own = math.exp(cosine(z1[n].tolist(), z2[n].tolist()) / TAU)
        others = sum(math.exp(cosine(z1[n].tolist(), row) / TAU) for row in queues["z"])
        whole -= math.log(own / (own + others)) / 4
        rows, terms = pairs_loop(map1[n], map2[n], distance[n], cosine, nearest=nearest), []
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


def test_gradients_reach_the_online_network_and_no_other(batch):
    method = make()
    output = method(batch)
    sum(output.weighted().values()).backward()
    for name, weight in method.named_parameters():
        assert (weight.grad is not None) == ("momentum_encoder" not in name), name
    assert not any(rows.requires_grad for rows in output.keys.values())


def test_without_positives_the_set_loss_is_zero_with_a_graph(batch):
    method = make(attention=1.0, similarity=1.0, distance=1e-9)
    apart = Batch(batch.views, RECTANGLES[:, 2:3].expand(2, 4, 4), FLIPS, SIZES, batch.index)
    output = method(apart)
    assert output.losses["loss_set"].item() == 0
    assert output.metrics["unmatched_images"].item() == 1
    output.losses["loss_set"].backward()
    grads = [w.grad for w in method.encoder.projector.dense.parameters()]
    assert all(grad is not None and grad.eq(0).all() for grad in grads)


def test_keys_come_back_in_order_from_a_shuffled_batch(batch):
    method = make()
    straight = method(batch)
    method.shuffle = BatchShuffle(seed=3)
    assert method.shuffle.order(4).tolist() != [0, 1, 2, 3]
    mixed = method(batch)
    for name, loss in straight.losses.items():
        torch.testing.assert_close(mixed.losses[name], loss)
    for table, rows in straight.keys.items():
        torch.testing.assert_close(mixed.keys[table], rows)


def test_the_quick_config_builds_it(refuses):
    path = "pretrain/configs/setsim_quick.yaml"
    assert isinstance(build_method(load_cfg(path, ["MODEL.DEVICE", "cpu"])), SetSim)
    for key, value in (
        ("SETSIM.ATTENTION", "1.1"),
        ("SETSIM.SIMILARITY", "-2.0"),
        ("SETSIM.DISTANCE", "0.0"),
        ("DENSECL.LAMBDA", "1.5"),
    ):
        with refuses("bad-value"):
            SetSim.check_config(load_cfg(path, [key, value]))
