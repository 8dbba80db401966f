"""Views."""

import pytest
import torch


@pytest.fixture
def views() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    both = torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=torch.float64)
    return both[0], both[1]
