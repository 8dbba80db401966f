"""PSANet's collect and distribute: from masks around each position to attention over the map.

Shape legend: N images, H × W positions of a map, Mh × Mw offsets of a mask, both odd.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MODES = ("collect", "distribute")


def psa_mask(mask: Tensor, mode: str, mask_size: tuple[int, int]) -> Tensor:
    """Put the mask around every position to the places of the map that it speaks of.

    Let an offset (i, j) of the position (h, w) mean the target
    (i + h - (Mh - 1) / 2, j + w - (Mw - 1) / 2). Offsets whose target is outside of the map fall
    away, and what no offset reaches is 0.

    - *collect*: ``out[target, (h, w)] = mask[(i, j), (h, w)]``: what each position gathers;
    - *distribute*: ``out[(h, w), target] = mask[(i, j), (h, w)]``: what each position sends.

    Args:
        mask: ``(N, Mh·Mw, H, W)``.
        mode: "collect" or "distribute".
        mask_size: (Mh, Mw).

    Returns:
        ``(N, H·W, H, W)``; for *distribute* a transposed view.

    Raises:
        ValueError: another mode, an even mask size, or a mask of another number of channels.

    Source: PSANet (ECCV 2018), section 3.2. Pure slices: no more is held than mask, result, and
    between them masks that are placed along one axis only.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if mask_size[0] % 2 == 0 or mask_size[1] % 2 == 0:
        raise ValueError(f"both sides of mask_size must be odd, got {tuple(mask_size)}")
    if mask.ndim != 4 or mask.shape[1] != mask_size[0] * mask_size[1]:
        raise ValueError(
            f"expected a mask (N, {mask_size[0]}·{mask_size[1]}, H, W), got {tuple(mask.shape)}"
        )
    height, width = mask.shape[2:]
    rows = _Place.apply(mask.unflatten(1, tuple(mask_size)), 1, 3)  # (N, H, Mw, H, W)
    del mask  # Freed before more is made, where the caller does not hold it, either.
    collected = _Place.apply(rows, 2, 4).flatten(1, 2)  # (N, H·W, H, W)
    if mode == "collect":
        return collected
    return collected.flatten(2).transpose(1, 2).unflatten(2, (height, width))


class _Place(torch.autograd.Function):
    """Turn offsets along one axis into targets along it: its adjoint copies the slices back."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, offset_dim: int, place_dim: int) -> Tensor:
        ctx.dims = offset_dim, place_dim
        ctx.offsets = source.shape[offset_dim]
        shape = list(source.shape)
        shape[offset_dim] = source.shape[place_dim]
        out = source.new_zeros(shape)
        _copy(source, out, *ctx.dims)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        shape = list(grad.shape)
        shape[ctx.dims[0]] = ctx.offsets
        out = grad.new_zeros(shape)
        _copy(out, grad, *ctx.dims, back=True)
        return out, None, None


def _copy(
    offsets: Tensor, targets: Tensor, offset_dim: int, place_dim: int, *, back: bool = False
) -> None:
    """Copy between offsets and targets, place by place: target = offset + place - half."""
    count, places = offsets.shape[offset_dim], offsets.shape[place_dim]
    half = (count - 1) // 2
    for place in range(places):
        first = max(0, place - half)  # the first target that an offset reaches
        length = min(places, place + half + 1) - first
        at_offset = offsets.select(place_dim, place).narrow(
            offset_dim, first - place + half, length
        )
        at_target = targets.select(place_dim, place).narrow(offset_dim, first, length)
        if back:
            at_offset.copy_(at_target)
        else:
            at_target.copy_(at_offset)
