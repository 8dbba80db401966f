"""Fitted heads normalise what they are given and score as their functions do."""

import numpy as np
import pytest
import torch

from mls_d2.modeling.fitted_heads import NearestNeighbours, UnitLinear


def test_a_unit_linear_head_ignores_the_length_of_features():
    weight, bias = torch.randn(3, 5), torch.randn(3)
    features = torch.randn(4, 5)
    found = UnitLinear(weight, bias)(features)
    for n in range(4):
        unit = features[n].numpy() / np.sqrt((features[n].numpy() ** 2).sum())
        for c in range(3):
            expected = float((weight[c].numpy() * unit).sum() + bias[c])
            assert found[n, c].item() == pytest.approx(expected, abs=1e-5)


def test_neighbours_are_found_by_direction():
    known = torch.tensor([[2.0, 0.0], [0.0, 0.1], [-3.0, 0.0]])
    targets = torch.tensor([[1, 0], [0, 1], [1, 1]]).bool()
    head = NearestNeighbours(known, targets, k=1, temperature=0.1)
    found = head(torch.tensor([[5.0, 1.0], [0.1, 9.0], [-1.0, 0.2]]))
    assert found.tolist() == [[1, 0], [0, 1], [1, 1]]
    two = NearestNeighbours(known, targets, k=2, temperature=0.5)(torch.tensor([[3.0, 4.0]]))
    # Cosines 0.6 and 0.8.
    first, second = np.exp(0.6 / 0.5), np.exp(0.8 / 0.5)
    expected = [first / (first + second), second / (first + second)]
    assert two[0].tolist() == pytest.approx(expected, abs=1e-6)
