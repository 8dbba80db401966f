"""Views, and a cosine without torch."""

import math
from collections.abc import Callable

import pytest
import torch


@pytest.fixture
def views() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    both = torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=torch.float64)
    return both[0], both[1]


@pytest.fixture
def cosine() -> Callable[[list[float], list[float]], float]:
    def product(one: list[float], other: list[float]) -> float:
        dot = sum(a * b for a, b in zip(one, other, strict=True))
        return dot / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))

    return product
