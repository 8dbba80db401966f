"""Predictions for an image from overlapping windows of the size that a network was trained on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def slide(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    window: tuple[int, int],
    stride: tuple[int, int],
) -> Tensor:
    """Average the logits of all windows that cover a pixel.

    The last window of a row or column ends at the image's border, so it may overlap more.

    Args:
        predict: maps ``(1, C, h, w)`` to logits ``(1, K, h, w)``.
        image: ``(1, C, H, W)``.
        window: (height, width) of a window; the whole side where the image is smaller.
        stride: (vertical, horizontal) distance of windows, at most the window's size.

    Returns:
        ``(1, K, H, W)``.
    """
    height, width = image.shape[2:]
    total: Tensor | None = None
    count = image.new_zeros(height, width)
    for top in window_starts(height, window[0], stride[0]):
        for left in window_starts(width, window[1], stride[1]):
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            logits = predict(image[..., rows, columns])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[..., rows, columns] += logits
            count[rows, columns] += 1
    assert total is not None
    return total / count


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin along one side of an image."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]
