"""Classification of images: top-1 accuracy, and average precision for several classes."""

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.evaluation import DatasetEvaluator
from torch import Tensor

from mls_d2.modeling.classifier import targets_of

logger = logging.getLogger(__name__)

_POINTS = 10


class ClassificationEvaluator(DatasetEvaluator):
    """Detectron2 evaluator of scores by class.

    Works on the results of all processes and returns them on the main one.

    Args:
        names: of the C classes.
        multi_label: whether images show several classes.
    """

    def __init__(self, names: Sequence[str], *, multi_label: bool) -> None:
        self._names, self._multi_label = tuple(names), multi_label
        self.reset()

    def reset(self) -> None:
        """Drop all scores."""
        self._scores: list[Tensor] = []
        self._classes: list[list[int]] = []
        self._difficult: list[list[int]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect the scores of a batch.

        Args:
            inputs: with ``classes`` and ``difficult``, lists of int in [0, C).
            outputs: with ``scores``, ``(C,)``.
        """
        for item, output in zip(inputs, outputs, strict=True):
            self._scores.append(output["scores"].float().cpu())
            self._classes.append(item["classes"])
            self._difficult.append(item["difficult"])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return ``{"classification": {metric: value in percent}}``.

        ``top1`` for one class per image. For several: ``mAP``, the mean of the average precision of
        the classes that some image shows; ``mAP11``, the same with VOC 2007's eleven points; and
        ``AP-<class>``. If an image shows a class by difficult objects alone, that pair does not
        count.
        """
        gathered = comm.gather((self._scores, self._classes, self._difficult), dst=0)
        if not comm.is_main_process():
            return {}
        scores, classes, difficult = (
            list(itertools.chain.from_iterable(part)) for part in zip(*gathered, strict=True)
        )
        stacked = torch.stack(scores)
        if self._multi_label:
            marks = (
                targets_of(
                    [{"classes": shown} for shown in part], len(self._names), difficult=False
                )
                for part in (classes, difficult)
            )
            metrics = self._precisions(stacked, *marks)
        else:
            label = torch.tensor([item[0] for item in classes])
            right = (stacked.argmax(dim=1) == label).double().mean()
            metrics = {"top1": 100.0 * right.item()}
        shown = [f"{name} {value:.2f}" for name, value in metrics.items() if "-" not in name]
        logger.info("classification: %s", "  ".join(shown))
        return {"classification": metrics}

    def _precisions(self, scores: Tensor, shown: Tensor, ignored: Tensor) -> dict[str, float]:
        all_points = 100.0 * average_precision(scores, shown, ignored)
        eleven = 100.0 * eleven_point_average_precision(scores, shown, ignored)
        means = {"mAP": all_points.nanmean().item(), "mAP11": eleven.nanmean().item()}
        by_class = zip(self._names, all_points.tolist(), strict=True)
        return means | {f"AP-{name}": value for name, value in by_class}


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
    # Recall >= i / 10 in whole numbers: rounding moves no point.
    best = [
        precision.where(_POINTS * found >= point * total, 0).amax(dim=0)
        for point in range(_POINTS + 1)
    ]
    return torch.stack(best).mean(dim=0).where(total > 0, torch.nan)


def mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """Return the mean of :func:`average_precision` over the classes that some image shows.

    Returns:
        A share in [0, 1]; NaN if no image shows anything.
    """
    return average_precision(scores, targets).nanmean().item()


def _ranked_hits(scores: Tensor, targets: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ``(M, C)``, 1 if the image at a rank shows the class, and their number ``(C,)``."""
    if ignored is not None:
        # At the end of the list a pair that is no hit changes nothing.
        scores, targets = scores.masked_fill(ignored, -torch.inf), targets & ~ignored
    order = scores.argsort(dim=0, descending=True, stable=True)
    hits = targets.gather(0, order).double()
    return hits, hits.sum(dim=0)


def _precision(hits: Tensor) -> Tensor:
    ranks = torch.arange(1, len(hits) + 1, device=hits.device).unsqueeze(1)
    return hits.cumsum(dim=0) / ranks
