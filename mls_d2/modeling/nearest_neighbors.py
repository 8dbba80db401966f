"""Weighted nearest neighbours, for images with one label or several."""

from __future__ import annotations

import torch
from torch import Tensor


def knn_scores(
    queries: Tensor, features: Tensor, targets: Tensor, *, k: int, temperature: float
) -> Tensor:
    """Return how far the k nearest neighbours of each query show each category.

    Args:
        queries: ``(M, d)``, L2-normalised.
        features: ``(N, d)``, L2-normalised, k <= N.
        targets: ``(N, C)`` bool: the categories of each feature's image.
        k: neighbours.
        temperature: a neighbour of cosine s counts exp(s / temperature).

    Returns:
        ``(M, C)`` in [0, 1]: the weighted share of neighbours.

    Source: Wu et al., arXiv 1805.01978, section 3.4, for several labels an image.
    """
    cosines, nearest = (queries @ features.T).topk(k, dim=1)
    weights = torch.softmax(cosines / temperature, dim=1)
    return torch.einsum("mk,mkc->mc", weights, targets[nearest].to(weights.dtype))
