"""What losses, geometry and methods share: float32 at least, temperatures above 0."""

import torch
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """Return the values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_temperature(*temperatures: float) -> None:
    """Check temperatures.

    Raises:
        ValueError: one is not above 0.
    """
    for temperature in temperatures:
        if not temperature > 0:
            raise ValueError(f"the temperature must be > 0, got {temperature}")
