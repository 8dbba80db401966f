"""Weighted nearest neighbours against loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mls_d2.modeling.nearest_neighbors import knn_scores


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
    for m in range(3):
        cosines = [float(queries[m] @ features[n]) for n in range(8)]
        nearest = sorted(range(8), key=lambda n: -cosines[n])[:3]
        weights = {n: np.exp(cosines[n] / 0.1) for n in nearest}
        for c in range(4):
            expected = sum(w for n, w in weights.items() if targets[n, c]) / sum(weights.values())
            assert scores[m, c].item() == pytest.approx(expected)
        if not several:
            assert scores[m].sum().item() == pytest.approx(1)
