"""MLS against the paper's equations written as loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretrain.losses import knn_softmax, positive_bce
from pretrain.methods.mls import MLS, pseudo_labels
from pretrain.methods.moco import MoCo

SIZE, K, TAU, WEIGHT = 16, 3, 0.2, 0.5


class FlatBackbone(nn.Module):
    """A linear map of the mean colour: enough of a backbone, and easy to follow by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": torch.einsum("nchw,dc->ndhw", images, self.weight)}


def make_mls(**changes) -> MLS:
    arguments = {
        "feature_dim": 6,
        "embedding_dim": 4,
        "dictionary_size": SIZE,
        "temperature": TAU,
        "momentum": 0.9,
        "num_positives": K,
        "loss_weight": WEIGHT,
    }
    return MLS(FlatBackbone(), nn.Linear(6, 4), **(arguments | changes)).double()


def views() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 3, 5, 5).double(), torch.randn(4, 3, 5, 5).double()


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def paper_losses(g1, z1, z2, table_g, table_z) -> tuple[float, float]:
    """Eqs. 6 to 10 for lists of rows, image by image."""
    nce = ml = 0.0
    for g, query, key in zip(g1, z1, z2, strict=True):
        query, key = unit(query), unit(key)
        nearest = sorted(range(SIZE), key=lambda i, g=g: -dot(g, table_g[i]))[:K]
        cosines = [dot(query, row) for row in table_z]
        own = math.exp(dot(query, key) / TAU)
        nce -= math.log(own / (own + sum(math.exp(p / TAU) for p in cosines)))
        for i, p in enumerate(cosines):
            sigma = 1 / (1 + math.exp(-p / TAU))
            ml -= (math.log(sigma) if i in nearest else math.log(1 - sigma)) / SIZE
    return nce / len(g1), ml / len(g1)


@pytest.fixture
def filled() -> MLS:
    method = make_mls()
    for _ in range(4):
        view1, view2 = views()
        method.enqueue(method(view1, view2, epoch=0.0).keys)
    return method


def test_the_losses_are_those_of_the_paper(filled):
    view1, view2 = views()
    g1, z1 = filled.pair.online(view1)
    tables = filled.dictionary["g"].tolist(), filled.dictionary["z"].tolist()
    output = filled(view1, view2, epoch=0.0)
    _, z2 = filled.pair.keys(view2)
    nce, ml = paper_losses(g1.tolist(), z1.tolist(), z2.tolist(), *tables)
    # z is normalised in float32 at least; here everything is float64 until there.
    assert output.losses["loss_nce"].item() == pytest.approx(nce, abs=1e-6)
    assert output.losses["loss_ml"].item() == pytest.approx(WEIGHT * ml, abs=1e-6)
    assert output.metrics["multi_label_loss"].item() == pytest.approx(ml, abs=1e-6)


def test_labels_come_from_the_backbone_dictionary_and_logits_from_the_embeddings(filled):
    view1, view2 = views()
    base = filled(view1, view2, epoch=0.0).losses
    order = torch.randperm(SIZE)
    filled.pair.momentum = 1.0 - 1e-12
    filled.dictionary["g"].copy_(filled.dictionary["g"][order])
    moved = filled(view1, view2, epoch=0.0).losses
    assert moved["loss_nce"].item() == pytest.approx(base["loss_nce"].item(), abs=1e-3)
    assert moved["loss_ml"].item() != pytest.approx(base["loss_ml"].item(), abs=1e-4)
    filled.dictionary["z"].copy_(filled.dictionary["z"][order])
    both = filled(view1, view2, epoch=0.0).losses
    torch.testing.assert_close(
        both["loss_ml"], moved["loss_ml"] * 0 + base["loss_ml"], atol=1e-3, rtol=0
    )


def test_the_current_batch_is_not_in_the_dictionary_while_its_loss_is_taken(filled):
    before = filled.dictionary["z"].clone()
    output = filled(*views(), epoch=0.0)
    torch.testing.assert_close(filled.dictionary["z"], before)
    filled.enqueue(output.keys)
    torch.testing.assert_close(
        filled.dictionary["z"][:4], output.keys["z"].double(), atol=1e-6, rtol=0
    )


def test_during_the_warm_up_it_is_moco(filled):
    filled.warmup = 2.0
    early = filled(*views(), epoch=1.99).losses
    late = filled(*views(), epoch=2.0).losses
    assert early["loss_ml"].item() == 0
    assert late["loss_ml"].item() > 0


@pytest.mark.parametrize("keep", [True, False])
def test_after_the_warm_up_info_nce_stays_or_goes(filled, keep):
    filled.warmup, filled.keep_nce = 2.0, keep
    early = filled(*views(), epoch=1.99).losses
    late = filled(*views(), epoch=2.0).losses
    assert early["loss_nce"].item() > 0
    assert (late["loss_nce"].item() > 0) is keep
    assert late["loss_ml"].item() > 0


@pytest.mark.parametrize(("name", "labels_from", "logits_from"), [("g", 0, 0), ("z", 1, 1)])
def test_one_dictionary_can_give_labels_and_logits(filled, name, labels_from, logits_from):
    method = make_mls(dictionaries=name)
    method.load_state_dict(filled.state_dict())
    view1, view2 = views()
    queries = [rows.tolist() for rows in method.pair.online(view1)]
    tables = [method.dictionary[table].tolist() for table in ("g", "z")]
    total = 0.0
    for image in range(4):
        marks = sorted(
            range(SIZE), key=lambda i: -dot(queries[labels_from][image], tables[labels_from][i])
        )[:K]
        for i, row in enumerate(tables[logits_from]):
            sigma = 1 / (1 + math.exp(-dot(unit(queries[logits_from][image]), row) / TAU))
            total -= math.log(sigma if i in marks else 1 - sigma) / SIZE / 4
    got = method(view1, view2, epoch=0.0)
    assert got.metrics["multi_label_loss"].item() == pytest.approx(total, abs=1e-6)


def test_without_a_loss_beside_it_it_is_moco(filled):
    method = make_mls(loss="none")
    method.load_state_dict(filled.state_dict())
    view1, view2 = views()
    plain, full = method(view1, view2, epoch=0.0), filled(view1, view2, epoch=0.0)
    assert plain.losses["loss_ml"].item() == 0
    torch.testing.assert_close(plain.losses["loss_nce"], full.losses["loss_nce"])
    assert "multi_label_loss" not in plain.metrics


@pytest.mark.parametrize(("name", "loss"), [("knn", knn_softmax), ("bce_pos", positive_bce)])
def test_the_loss_is_the_one_that_was_asked_for(filled, name, loss):
    method = make_mls(loss=name)
    method.load_state_dict(filled.state_dict())
    view1, view2 = views()
    g1, z1 = method.pair.online(view1)
    labels = pseudo_labels(g1, method.dictionary["g"], K)
    cosines = F.normalize(z1, dim=1) @ method.dictionary["z"].T
    expected = WEIGHT * loss(cosines, labels, TAU)
    got = method(view1, view2, epoch=0.0).losses["loss_ml"]
    assert got.item() == pytest.approx(expected.item(), abs=1e-6)


def test_with_weight_zero_its_gradients_are_mocos():
    torch.manual_seed(1)
    mls = make_mls(loss_weight=0.0)
    moco = MoCo(
        FlatBackbone(),
        nn.Linear(6, 4),
        embedding_dim=4,
        dictionary_size=SIZE,
        temperature=TAU,
        momentum=0.9,
    ).double()
    moco.pair.load_state_dict(mls.pair.state_dict())
    moco.dictionary["z"].copy_(mls.dictionary["z"])
    view1, view2 = views()
    for method in (mls, moco):
        sum(method(view1, view2, epoch=0.0).losses.values()).backward()
    torch.testing.assert_close(mls.pair.backbone.weight.grad, moco.pair.backbone.weight.grad)


def test_gradients_reach_the_online_encoder_and_nothing_else(filled):
    output = filled(*views(), epoch=0.0)
    sum(output.losses.values()).backward()
    reached = {
        name
        for name, p in filled.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert reached == {"pair.backbone.weight", "pair.projector.weight", "pair.projector.bias"}
    assert not any(rows.requires_grad for rows in output.keys.values())


def test_pseudo_labels_equal_a_sort_in_loops():
    features, rows = torch.randn(5, 4).double(), F.normalize(torch.randn(9, 4).double(), dim=1)
    got = pseudo_labels(features, rows, 3)
    for feature, marks in zip(features, got, strict=True):
        best = sorted(range(9), key=lambda i, f=feature: -dot(f.tolist(), rows[i].tolist()))[:3]
        assert marks.nonzero().flatten().tolist() == sorted(best)


@pytest.mark.parametrize("k", [1, 4, 8])
def test_each_image_has_exactly_k_labels_even_with_ties(k):
    labels = pseudo_labels(torch.ones(3, 2), torch.ones(9, 2), k)
    assert labels.dtype == torch.bool
    assert labels.sum(dim=1).tolist() == [k] * 3


def test_pseudo_labels_do_not_depend_on_the_length_of_the_features():
    features, rows = torch.randn(5, 4), F.normalize(torch.randn(9, 4), dim=1)
    assert torch.equal(pseudo_labels(features, rows, 2), pseudo_labels(features * 1000, rows, 2))


@pytest.mark.parametrize("k", [0, -1, 9, 10])
def test_k_outside_its_range_is_refused(k):
    with pytest.raises(ValueError, match=rf"D = 9 rows, got {k}"):
        pseudo_labels(torch.ones(3, 2), torch.ones(9, 2), k)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(9, 4\)"):
        pseudo_labels(torch.ones(3, 2), torch.ones(9, 4), 2)
