"""A head is fitted to the features and labels of the training set."""

import detectron2.utils.comm as comm
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mls_d2.config.defaults import get_cfg
from mls_d2.modeling.classifier import ImageClassifier
from mls_d2.modeling.fitted_heads import fit_linear_svms
from mls_d2.transfer import fitting
from mls_d2.transfer.fitting import fit_head

NAMES = ("red", "green", "blue")


class Colours(nn.Module):
    """Passes the image on as its own feature."""

    def forward(self, images):
        return {"res5": images}


@pytest.fixture
def model():
    return ImageClassifier(
        backbone=Colours(),
        head=nn.Linear(3, 3),
        feature="res5",
        num_classes=3,
        multi_label=True,
        freeze_backbone=False,
        pixel_mean=[0.0] * 3,
        pixel_std=[255.0] * 3,
    )


@pytest.fixture
def data(monkeypatch):
    """Batches of images whose colours are their labels, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for index in range(30):
        shown = {index % 3} | ({0} if index % 5 == 0 else set())
        image = 40 * torch.rand(3, 4, 4, generator=generator)
        for label in shown:
            image[label] += 150
        hard = sorted(shown)[1:]
        items.append({"image": image, "classes": [min(shown)], "difficult": hard})
    monkeypatch.setattr(fitting, "build_test_loader", lambda cfg, names: [items[:16], items[16:]])
    named = type("Named", (), {"names": NAMES})
    monkeypatch.setattr(fitting, "load_classification", lambda name: named)
    return items


def make_cfg(head):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("x_train",)
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 3
    cfg.MODEL.CLASSIFIER.HEAD = head
    cfg.MODEL.CLASSIFIER.KNN_K = 4
    return cfg


def features_by_hand(items, *, difficult):
    rows = np.array([item["image"].mean(dim=(1, 2)).numpy() / 255 for item in items])
    shown = [item["classes"] + (item["difficult"] if difficult else []) for item in items]
    targets = np.array([[c in classes for c in range(3)] for classes in shown])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), targets


def test_the_svm_is_that_of_the_normalised_features_with_difficult_ones_not_shown(model, data):
    fit_head(make_cfg("svm"), model)
    features, targets = features_by_hand(data, difficult=False)
    weight, bias = fit_linear_svms(features.astype(float), targets, (1.0, 10.0, 100.0), names=NAMES)
    scores = torch.stack([output["scores"] for output in model.eval()(data)])
    expected = features @ weight.T + bias
    assert scores.numpy() == pytest.approx(expected, abs=2e-3)
    assert ((scores.numpy() > 0) == targets).mean() > 0.9


def test_neighbours_vote_with_the_training_labels(model, data):
    fit_head(make_cfg("knn"), model)
    features, targets = features_by_hand(data, difficult=True)
    scores = torch.stack([output["scores"] for output in model.eval()(data)]).numpy()
    for row, feature in zip(scores, features, strict=True):
        cosines = features @ feature
        nearest = np.argsort(-cosines)[:4]
        weights = np.exp(cosines[nearest] / 0.07)
        expected = (weights[:, None] * targets[nearest]).sum(axis=0) / weights.sum()
        assert row == pytest.approx(expected, abs=1e-4)


def test_more_neighbours_than_images_are_all_of_them(model, data):
    cfg = make_cfg("knn")
    cfg.MODEL.CLASSIFIER.KNN_K = 1000
    fit_head(cfg, model)
    assert model.head.k == 30
    torch.testing.assert_close(model.head.known.norm(dim=1), torch.ones(30))
    assert F.normalize(model.head.known, dim=1).allclose(model.head.known)


def test_every_process_gets_what_all_have_collected_in_the_datasets_order(data, monkeypatch):
    rows = torch.arange(90.0).reshape(30, 3)
    outputs = [{"scores": row} for row in rows]
    whole, first, second = (fitting._Collector(3, difficult=True) for _ in range(3))
    for collector in (whole, first, second):
        collector.reset()
    for collector, start, stop in ((whole, 0, 30), (first, 0, 9), (first, 9, 20), (second, 20, 30)):
        collector.process(data[start:stop], outputs[start:stop])
    features, targets = whole.evaluate()
    parts = [(part._features, part._targets) for part in (first, second)]
    monkeypatch.setattr(comm, "all_gather", lambda own: parts)
    for collector in (first, second):
        assert torch.equal(collector.evaluate()[0], features)
        assert torch.equal(collector.evaluate()[1], targets)
    assert torch.equal(features, rows)
