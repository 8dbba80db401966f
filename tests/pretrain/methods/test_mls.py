"""MLS against the paper's equations written as loops."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from mls_d2.config.defaults import get_cfg
from pretrain.losses import knn_softmax, positive_bce
from pretrain.methods.mls import MLS, AblatedMLS, pseudo_labels
from tests.pretrain.loops import cosine, info_nce
from tests.pretrain.methods.tiny import FlatBackbone, freeze, make_batch, make_method

SIZE, K, TAU, WEIGHT = 16, 3, 0.2, 0.5


def paper_losses(g1, z1, z2, table_g, table_z) -> tuple[float, float]:
    """Eqs. 6 to 10 for lists of rows, image by image."""
    nce = ml = 0.0
    for g, query, key in zip(g1, z1, z2, strict=True):
        nearest = sorted(range(SIZE), key=lambda i, g=g: -cosine(g, table_g[i]))[:K]
        cosines = [cosine(query, row) for row in table_z]
        nce += info_nce(query, key, table_z, TAU)
        for i, p in enumerate(cosines):
            sigma = 1 / (1 + math.exp(-p / TAU))
            ml -= (math.log(sigma) if i in nearest else math.log(1 - sigma)) / SIZE
    return nce / len(g1), ml / len(g1)


@pytest.fixture
def filled(views) -> MLS:
    method = make_method("mls", dictionary_size=SIZE, k=K)
    for _ in range(4):
        noise = [view + torch.randn_like(view) for view in views]
        method.enqueue(method(make_batch(noise)).keys)
    freeze(method)
    return method


def changed(method: MLS, **options) -> MLS:
    method.options = dataclasses.replace(method.options, **options)
    return method


def ablated(filled: MLS, **options) -> AblatedMLS:
    other = AblatedMLS(FlatBackbone(), 6, dataclasses.replace(filled.options, **options)).double()
    other.load_state_dict(filled.state_dict())
    return other


def test_the_losses_are_those_of_the_paper(filled, views):
    (g1, z1), (_, z2) = filled.encoder(views[0]), filled.keys(views[1])
    tables = filled.dictionary["g"].tolist(), filled.dictionary["z"].tolist()
    output = filled(make_batch(views))
    nce, ml = paper_losses(g1.tolist(), z1.tolist(), z2.tolist(), *tables)
    # z is normalised in float32 at least; here everything is float64 until there.
    assert output.losses["loss_nce"].item() == pytest.approx(nce, abs=1e-6)
    assert output.losses["loss_ml"].item() == pytest.approx(ml, abs=1e-6)
    total = sum(output.weighted().values())
    assert total.item() == pytest.approx(nce + WEIGHT * ml, abs=1e-6)


def test_labels_come_from_the_backbone_dictionary_and_logits_from_the_embeddings(filled, views):
    base = filled(make_batch(views)).losses
    order = torch.randperm(SIZE)
    filled.dictionary["g"].copy_(filled.dictionary["g"][order])
    moved = filled(make_batch(views)).losses
    torch.testing.assert_close(moved["loss_nce"], base["loss_nce"])
    assert (moved["loss_ml"] - base["loss_ml"]).abs() > 1e-4
    filled.dictionary["z"].copy_(filled.dictionary["z"][order])
    torch.testing.assert_close(filled(make_batch(views)).losses["loss_ml"], base["loss_ml"])


@pytest.mark.parametrize("keep", [True, False])
def test_until_the_end_of_the_warm_up_it_is_moco(filled, views, keep):
    changed(filled, warmup=2.0, keep_nce=keep)
    early = filled(make_batch(views, epoch=1.99)).weighted()
    late = filled(make_batch(views, epoch=2.0)).weighted()
    assert early["loss_ml"].item() == 0
    assert early["loss_nce"].item() > 0
    assert late["loss_ml"].item() > 0
    assert (late["loss_nce"].item() > 0) is keep


def test_with_weight_zero_its_gradients_are_mocos(filled, views):
    moco = make_method("mocov2", dictionary_size=SIZE)
    moco.encoder.load_state_dict(filled.encoder.state_dict())
    moco.momentum_encoder.load_state_dict(filled.momentum_encoder.state_dict())
    moco.options = dataclasses.replace(moco.options, momentum=1.0)
    moco.dictionary["z"].copy_(filled.dictionary["z"])
    for method in (changed(filled, loss_weight=0.0), moco):
        sum(method(make_batch(views)).weighted().values()).backward()
    torch.testing.assert_close(
        filled.encoder.backbone.weight.grad, moco.encoder.backbone.weight.grad
    )


@pytest.mark.parametrize(("name", "labels_from", "logits_from"), [("g", 0, 0), ("z", 1, 1)])
def test_one_dictionary_can_give_labels_and_logits(filled, views, name, labels_from, logits_from):
    method = ablated(filled, dictionaries=name)
    queries = [rows.tolist() for rows in method.encoder(views[0])]
    tables = [method.dictionary[table].tolist() for table in ("g", "z")]
    total = 0.0
    for image in range(4):
        likeness = [cosine(queries[labels_from][image], row) for row in tables[labels_from]]
        marks = sorted(range(SIZE), key=lambda i, p=likeness: -p[i])[:K]
        for i, row in enumerate(tables[logits_from]):
            sigma = 1 / (1 + math.exp(-cosine(queries[logits_from][image], row) / TAU))
            total -= math.log(sigma if i in marks else 1 - sigma) / SIZE / 4
    assert method(make_batch(views)).losses["loss_ml"].item() == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize(("name", "loss"), [("knn", knn_softmax), ("bce_pos", positive_bce)])
def test_the_term_of_table_6_is_the_one_chosen(filled, views, name, loss):
    method = ablated(filled, loss=name)
    g1, z1 = method.encoder(views[0])
    labels = pseudo_labels(g1, method.dictionary["g"], K)
    expected = loss(F.normalize(z1, dim=1) @ method.dictionary["z"].T, labels, TAU)
    got = method(make_batch(views)).losses["loss_ml"]
    assert got.item() == pytest.approx(expected.item(), abs=1e-6)


def test_without_a_term_beside_info_nce_it_is_moco(filled, views):
    plain, full = ablated(filled, loss="none")(make_batch(views)), filled(make_batch(views))
    assert plain.losses["loss_ml"].item() == 0
    torch.testing.assert_close(plain.losses["loss_nce"], full.losses["loss_nce"])
    assert plain.labels is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("LOSS", "bce", MLS), ("LOSS", "knn", AblatedMLS), ("DICTIONARIES", "z", AblatedMLS)],
)
def test_a_config_builds_the_variant(key, value, expected):
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MLS[key] = "cpu", value
    with torch.device("meta"):
        assert type(MLS.from_config(cfg)) is expected


def test_pseudo_labels_equal_a_sort_in_loops():
    features, rows = torch.randn(5, 4).double(), F.normalize(torch.randn(9, 4).double(), dim=1)
    got = pseudo_labels(features, rows, 3)
    for feature, marks in zip(features, got, strict=True):
        products = [sum(a * b for a, b in zip(feature.tolist(), row, strict=True)) for row in rows]
        best = sorted(range(9), key=lambda i, p=products: -p[i])[:3]
        assert marks.nonzero().flatten().tolist() == sorted(best)
    # The length of a feature does not matter.
    assert torch.equal(got, pseudo_labels(features * 1000, rows, 3))


@pytest.mark.parametrize("k", [1, 4, 8])
def test_each_image_has_exactly_k_labels_even_with_ties(k):
    labels = pseudo_labels(torch.ones(3, 2), torch.ones(9, 2), k)
    assert labels.sum(dim=1).tolist() == [k] * 3


@pytest.mark.parametrize("k", [0, -1, 9, 10])
def test_k_outside_its_range_is_refused(k):
    with pytest.raises(ValueError, match=rf"D = 9 rows, got {k}"):
        pseudo_labels(torch.ones(3, 2), torch.ones(9, 2), k)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(9, 4\)"):
        pseudo_labels(torch.ones(3, 2), torch.ones(9, 4), 2)
