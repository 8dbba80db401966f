"""Nearest neighbors against loops, and linear SVMs against their objective."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from mls_d2.modeling.fitted_heads import (
    NearestNeighbors,
    UnitLinear,
    choose_cost,
    fit_linear_svms,
    knn_scores,
)


def test_a_unit_linear_head_ignores_the_length_of_features():
    weight, bias = torch.randn(3, 5), torch.randn(3)
    features = torch.randn(4, 5)
    found = UnitLinear(weight, bias)(features)
    rows, planes = features.cpu().numpy(), weight.cpu().numpy()
    for n in range(4):
        unit = rows[n] / np.sqrt((rows[n] ** 2).sum())
        for c in range(3):
            expected = float((planes[c] * unit).sum()) + bias[c].item()
            assert found[n, c].item() == pytest.approx(expected, abs=1e-5)


def unit(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("several", [True, False])
def test_scores_are_the_weighted_shares_of_the_k_nearest(several):
    queries, features = unit(3, 5, seed=0), unit(8, 5, seed=1)
    targets = torch.rand(8, 4, generator=torch.Generator().manual_seed(2)) < 0.5
    if not several:
        targets = F.one_hot(torch.arange(8) % 4, 4).bool()
    scores = knn_scores(queries, features, targets, k=3, temperature=0.1)
    head = NearestNeighbors(2 * features, targets, k=3, temperature=0.1)
    torch.testing.assert_close(head(3 * queries), scores)  # lengths do not count
    for m in range(3):
        cosines = [float(queries[m] @ features[n]) for n in range(8)]
        nearest = sorted(range(8), key=lambda n: -cosines[n])[:3]
        weights = {n: np.exp(cosines[n] / 0.1) for n in nearest}
        for c in range(4):
            expected = sum(w for n, w in weights.items() if targets[n, c]) / sum(weights.values())
            assert scores[m, c].item() == pytest.approx(expected)
        if not several:
            assert scores[m].sum().item() == pytest.approx(1)


def toy(seed=0, noise=0.6, number=90):
    """Unit features: one direction separates the classes, the others are noise."""
    rng = np.random.default_rng(seed)
    labels = np.where(np.arange(number) % 3 == 0, 1, -1)
    features = rng.normal(size=(number, 8)) * noise
    features[:, 0] += labels * 0.4
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def test_the_machine_minimises_the_squared_hinge_with_positives_counted_twice():
    features, labels = toy()
    cost = 1.0

    def objective(vector):
        # LIBLINEAR's bias is the weight of a feature that is always 1.
        margins = labels * (features @ vector[:-1] + vector[-1])
        hinge = np.maximum(0, 1 - margins) ** 2
        return 0.5 * vector @ vector + cost * (np.where(labels > 0, 2.0, 1.0) * hinge).sum()

    best = minimize(objective, np.zeros(9), method="BFGS", options={"gtol": 1e-7}).x
    weights, biases = fit_linear_svms(features, labels[:, None] > 0, [cost], names=["x"])
    assert weights[0] == pytest.approx(best[:-1], abs=2e-3)
    assert biases[0] == pytest.approx(best[-1], abs=2e-3)


def test_the_machines_of_more_dimensions_than_images_are_those_of_a_direct_fit():
    features = unit(30, 50, seed=0).numpy()
    targets = features[:, :2] > 0
    weights, biases = fit_linear_svms(features, targets, [1.0], names=["a", "b"])
    assert weights.shape == (2, 50)
    for index in range(2):
        direct = LinearSVC(
            C=1.0, class_weight={1: 2, 0: 1}, max_iter=2000, random_state=0, dual=True
        ).fit(features, targets[:, index].astype(int))
        assert weights[index] == pytest.approx(direct.coef_[0], abs=1e-9)
        assert biases[index] == pytest.approx(direct.intercept_[0], abs=1e-9)


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_the_cost_of_the_best_precision_over_three_folds_is_chosen():
    chosen = set()
    for seed in range(3):
        features, labels = toy(seed)
        costs = (1e-4, 0.01, 1.0, 100.0)
        means = []
        for cost in costs:
            scores = []
            for train, test in StratifiedKFold(3).split(features, labels):
                machine = LinearSVC(
                    C=cost, class_weight={1: 2, -1: 1}, max_iter=2000, random_state=0, dual=True
                ).fit(features[train], labels[train])
                decision = machine.decision_function(features[test])
                scores.append(average_precision_score(labels[test] > 0, decision))
            means.append(np.mean(scores))
        expected = costs[int(np.argmax(means))]
        assert choose_cost(features, labels, costs) == expected
        assert choose_cost(features, labels, costs[::-1]) == expected or means.count(max(means)) > 1
        chosen.add(expected)
    assert len(chosen) > 1  # else a constant would pass


def test_if_folds_would_lack_a_label_the_first_cost_is_taken():
    features, _ = toy()
    labels = np.full(90, -1)
    labels[:2] = 1
    assert choose_cost(features, labels, (10.0, 1.0)) == 10.0
    weights, _ = fit_linear_svms(features, labels[:, None] > 0, (10.0, 1.0), names=["rare"])
    assert np.abs(weights).max() > 0


def test_a_class_that_is_nowhere_or_everywhere_has_no_weights():
    features, labels = toy()
    targets = np.stack([labels > 0, np.zeros(90, bool), np.ones(90, bool)], axis=1)
    weights, biases = fit_linear_svms(features, targets, (1.0,), names=["a", "b", "c"])
    assert np.abs(weights[0]).max() > 0
    assert not weights[1:].any()
    assert biases[1:].tolist() == [-1, 1]
