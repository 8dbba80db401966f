"""Heads of a classifier that are fitted to features instead of trained by gradients."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mls_d2.modeling.nearest_neighbors import knn_scores


class UnitLinear(nn.Module):
    """A linear layer on L2-normalised features.

    Args:
        weight: ``(C, d)``.
        bias: ``(C,)``.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the scores ``(N, C)`` of features ``(N, d)``."""
        return F.linear(F.normalize(features, dim=1), self.weight, self.bias)


class NearestNeighbours(nn.Module):
    """The weighted vote of the nearest training features; see :func:`knn_scores`.

    Args:
        features: ``(M, d)``, of the training images.
        targets: ``(M, C)`` bool, the classes that they show.
        k: neighbours, at most M.
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
