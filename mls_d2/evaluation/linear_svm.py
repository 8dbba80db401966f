"""One linear support vector machine a class, by which VOC07 features are compared."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

logger = logging.getLogger(__name__)

FOLDS = 3
POSITIVE_WEIGHT = 2.0


def fit_linear_svms(
    features: np.ndarray, targets: np.ndarray, costs: Sequence[float], *, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear SVM for each class, with a C of its own.

    Args:
        features: ``(N, d)`` float, L2-normalised.
        targets: ``(N, C)`` bool: the classes of each image.
        costs: values of C to choose from, see :func:`choose_cost`.
        names: of the classes, for the log.

    Returns:
        Weights ``(C, d)`` and biases ``(C,)``, float64. A class that no image, or every image,
        shows has weights of 0.

    Source: the VOC07 protocol of Goyal et al., arXiv 1905.01235, with the machine of DenseCL's and
    ORL's tools: squared hinge, positives of weight 2, at most 2,000 iterations, the C with the best
    average precision over three folds.
    """
    weights = np.zeros((targets.shape[1], features.shape[1]))
    biases = np.zeros(targets.shape[1])
    for index, name in enumerate(names):
        labels = np.where(targets[:, index], 1, -1)
        if abs(labels.sum()) == len(labels):
            logger.info("SVM %d of %d, %s: nothing to tell apart", index + 1, len(names), name)
            continue
        cost = choose_cost(features, labels, costs)
        machine = _machine(cost)
        with _quiet():
            machine.fit(features, labels)
        weights[index], biases[index] = machine.coef_[0], machine.intercept_[0]
        logger.info("SVM %d of %d, %s: C = %g", index + 1, len(names), name, cost)
    return weights, biases


def choose_cost(features: np.ndarray, labels: np.ndarray, costs: Sequence[float]) -> float:
    """Return the C with the best mean average precision over three folds, the first of equals.

    Args:
        features: ``(N, d)`` float.
        labels: ``(N,)``, 1 or -1, both of them present.
        costs: the values to choose from. The first is returned where the rarer label does not
            suffice for every fold.
    """
    if len(costs) == 1 or min((labels == 1).sum(), (labels == -1).sum()) < FOLDS:
        return costs[0]
    with _quiet():
        precision = [
            cross_val_score(
                _machine(cost), features, labels, cv=FOLDS, scoring="average_precision"
            ).mean()
            for cost in costs
        ]
    return costs[int(np.argmax(precision))]


def _machine(cost: float) -> LinearSVC:
    return LinearSVC(
        C=cost,
        loss="squared_hinge",
        penalty="l2",
        dual=True,
        class_weight={1: POSITIVE_WEIGHT, -1: 1.0},
        tol=1e-4,
        max_iter=2000,
        random_state=0,
    )


class _quiet(warnings.catch_warnings):
    """No warning where the protocol's number of iterations is reached, as it is for a large C."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", ConvergenceWarning)
