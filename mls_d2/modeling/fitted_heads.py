"""Heads of a classifier that are fitted to features: nearest neighbors and linear SVMs."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

logger = logging.getLogger(__name__)

FOLDS = 3
POSITIVE_WEIGHT = 2.0


class UnitLinear(nn.Module):
    """A linear layer, of weights ``(C, d)`` and biases ``(C,)``, on L2-normalised features."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the scores ``(N, C)`` of features ``(N, d)``."""
        return F.linear(F.normalize(features, dim=1), self.weight, self.bias)


class NearestNeighbors(nn.Module):
    """The weighted vote of the nearest training features; see :func:`knn_scores`.

    Args:
        features: ``(M, d)``, of the training images.
        targets: ``(M, C)`` bool, the classes that they show.
        k: neighbors, at most M.
        temperature: of the weights.
    """

    known: Tensor
    targets: Tensor

    def __init__(self, features: Tensor, targets: Tensor, *, k: int, temperature: float) -> None:
        super().__init__()
        self.register_buffer("known", F.normalize(features, dim=1))
        self.register_buffer("targets", targets)
        self.k, self.temperature = k, temperature

    def forward(self, features: Tensor) -> Tensor:
        """Return the scores ``(N, C)`` in [0, 1] of features ``(N, d)``."""
        queries = F.normalize(features, dim=1)
        return knn_scores(queries, self.known, self.targets, k=self.k, temperature=self.temperature)


def knn_scores(
    queries: Tensor, features: Tensor, targets: Tensor, *, k: int, temperature: float
) -> Tensor:
    """Return the weighted share of the k nearest neighbors of each query that show each category.

    Args:
        queries: ``(M, d)``, L2-normalised.
        features: ``(N, d)``, L2-normalised, k <= N.
        targets: ``(N, C)`` bool: the categories of each feature's image.
        k: number of neighbors.
        temperature: a neighbor of cosine s has the weight exp(s / temperature).

    Returns:
        ``(M, C)`` in [0, 1]: the shares.

    Source: Wu et al., arXiv 1805.01978, section 3.4, for several labels per image.
    """
    cosines, nearest = (queries @ features.T).topk(k, dim=1)
    weights = torch.softmax(cosines / temperature, dim=1)
    return torch.einsum("mk,mkc->mc", weights, targets[nearest].to(weights.dtype))


def fit_linear_svms(
    features: np.ndarray, targets: np.ndarray, costs: Sequence[float], *, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear SVM for each class, each with its own C.

    Args:
        features: ``(N, d)`` float, L2-normalised.
        targets: ``(N, C)`` bool: the classes of each image.
        costs: values of C to choose from, see :func:`choose_cost`.
        names: of the classes, for the log.

    Returns:
        Weights ``(C, d)`` and biases ``(C,)``, float64. A class of no image has weights of 0 and
        the bias -1, one of every image 1: the label as the score.

    Source: the VOC07 protocol of Goyal et al., arXiv 1905.01235, with the SVM of DenseCL's and
    ORL's tools: squared hinge, positives of weight 2, at most 2,000 iterations, the C with the best
    average precision over three folds.
    """
    if features.shape[1] > len(features):
        # An SVM depends on inner products alone, so N images fit into N dimensions.
        basis, rotated = np.linalg.qr(features.T)
        weights, biases = fit_linear_svms(rotated.T, targets, costs, names=names)
        return weights @ basis.T, biases
    weights = np.zeros((targets.shape[1], features.shape[1]))
    biases = np.zeros(targets.shape[1])
    for index, name in enumerate(names):
        labels = np.where(targets[:, index], 1, -1)
        if abs(labels.sum()) == len(labels):
            biases[index] = labels[0]
            logger.info("SVM %d of %d, %s: all images have one label", index + 1, len(names), name)
            continue
        cost = choose_cost(features, labels, costs)
        machine = _machine(cost)
        with _no_convergence_warning():
            machine.fit(features, labels)
        weights[index], biases[index] = machine.coef_[0], machine.intercept_[0]
        logger.info("SVM %d of %d, %s: C = %g", index + 1, len(names), name, cost)
    return weights, biases


def choose_cost(features: np.ndarray, labels: np.ndarray, costs: Sequence[float]) -> float:
    """Return the C with the best mean average precision over three folds, the first of equals.

    Args:
        features: ``(N, d)`` float.
        labels: ``(N,)``, 1 or -1, both of them present.
        costs: the values to choose from. The first is returned if a fold would lack the rarer
            label.
    """
    if len(costs) == 1 or min((labels == 1).sum(), (labels == -1).sum()) < FOLDS:
        return costs[0]
    from sklearn.model_selection import cross_val_score

    with _no_convergence_warning():
        scoring = {"cv": FOLDS, "scoring": "average_precision"}
        folds = [cross_val_score(_machine(cost), features, labels, **scoring) for cost in costs]
    return costs[int(np.argmax([precision.mean() for precision in folds]))]


def _machine(cost: float) -> LinearSVC:
    # Other runs are spared the seconds that scikit-learn takes to import.
    from sklearn.svm import LinearSVC

    weights = {1: POSITIVE_WEIGHT, -1: 1.0}
    protocol = {"loss": "squared_hinge", "penalty": "l2", "dual": True, "tol": 1e-4}
    return LinearSVC(C=cost, class_weight=weights, max_iter=2000, random_state=0, **protocol)


@contextlib.contextmanager
def _no_convergence_warning() -> Iterator[None]:
    """Hide the warning that the protocol's iterations are used up, as they are for a large C."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
