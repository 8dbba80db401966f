"""The SVMs' objective, the choice of C, and classes that cannot be learnt."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from mls_d2.evaluation.linear_svm import choose_cost, fit_linear_svms


def toy(seed=0, noise=0.6, number=90):
    """Unit features with one direction that tells the classes apart, and noise."""
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


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_the_cost_of_the_best_precision_over_three_folds_is_chosen():
    chosen = set()
    for seed in range(4):
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


def test_where_folds_would_lack_a_label_the_first_cost_is_taken():
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
    assert not biases[1:].any()
