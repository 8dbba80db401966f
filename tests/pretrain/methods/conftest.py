"""What the tests of methods share: a network that can be followed by hand, and views."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

Rows = list[list[float]]


class FlatBackbone(nn.Module):
    """A linear map of every pixel's colour to six channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": torch.einsum("nchw,dc->ndhw", images, self.weight)}


@pytest.fixture
def backbone() -> nn.Module:
    return FlatBackbone()


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
