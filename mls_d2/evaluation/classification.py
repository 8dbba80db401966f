"""Top-1 accuracy, and average precision where an image shows several classes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.evaluation import DatasetEvaluator
from torch import Tensor

from mls_d2.evaluation.average_precision import average_precision, eleven_point_average_precision

logger = logging.getLogger(__name__)


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
        """Forget all scores."""
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

        ``top1`` for one class an image. For several: ``mAP``, the mean of the average precision of
        the classes that some image shows; ``mAP11``, the same with VOC 2007's eleven points; and
        ``AP-<class>``. Where an image shows difficult objects of a class alone, that pair does not
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
            metrics = self._precisions(stacked, self._marked(classes), self._marked(difficult))
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

    def _marked(self, classes: Sequence[Sequence[int]]) -> Tensor:
        marks = torch.zeros(len(classes), len(self._names), dtype=torch.bool)
        for row, shown in zip(marks, classes, strict=True):
            row[list(shown)] = True
        return marks
