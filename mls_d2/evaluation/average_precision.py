"""Average precision of scores for several classes, in the two ways that VOC results are given."""

from __future__ import annotations

import torch
from torch import Tensor

_POINTS = 10


def average_precision(scores: Tensor, targets: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Return the average precision of each class over all points of its curve.

    It is the mean, over the images that show a class, of the precision at the rank of each.

    Args:
        scores: ``(M, C)``; ties count in the order of the images.
        targets: ``(M, C)`` bool: the classes that each image shows.
        ignored: ``(M, C)`` bool: pairs that count neither as right nor as wrong; None for none.

    Returns:
        ``(C,)`` float64 in [0, 1]; NaN for a class that no image shows.
    """
    hits, total = _ranked_hits(scores, targets, ignored)
    return (_precision(hits) * hits).sum(dim=0) / total


def eleven_point_average_precision(
    scores: Tensor, targets: Tensor, ignored: Tensor | None = None
) -> Tensor:
    """Return the average precision of each class as VOC 2007 defines it.

    It is the mean, over the recalls 0, 0.1, …, 1, of the highest precision at that recall or more.

    Args and return value are those of :func:`average_precision`.

    Source: Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, section 4.2.
    """
    hits, total = _ranked_hits(scores, targets, ignored)
    precision = _precision(hits)
    found = hits.cumsum(dim=0)
    # Recall >= i / 10 in whole numbers, where no rounding moves a point.
    best = [
        precision.where(_POINTS * found >= point * total, 0).amax(dim=0)
        for point in range(_POINTS + 1)
    ]
    return torch.stack(best).mean(dim=0).where(total > 0, torch.nan)


def mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """Return the mean of :func:`average_precision` over the classes that some image shows.

    Returns:
        A share in [0, 1]; NaN where no image shows anything.
    """
    return average_precision(scores, targets).nanmean().item()


def _ranked_hits(scores: Tensor, targets: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ``(M, C)``, 1 where the image at a rank shows the class, and their number ``(C,)``."""
    if ignored is not None:
        # At the end of the list a pair that is no hit changes nothing.
        scores, targets = scores.masked_fill(ignored, -torch.inf), targets & ~ignored
    order = scores.argsort(dim=0, descending=True, stable=True)
    hits = targets.gather(0, order).double()
    return hits, hits.sum(dim=0)


def _precision(hits: Tensor) -> Tensor:
    ranks = torch.arange(1, len(hits) + 1, device=hits.device).unsqueeze(1)
    return hits.cumsum(dim=0) / ranks
