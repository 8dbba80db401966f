"""Heads that are fitted, not trained: features are extracted once for a linear SVM or k-NN."""

import itertools
from typing import Any

import detectron2.utils.comm as comm
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import Tensor, nn

from mls_d2.data.classification import load_classification
from mls_d2.data.classification_loader import build_test_loader
from mls_d2.modeling.classifier import ImageClassifier, targets_of
from mls_d2.modeling.fitted_heads import NearestNeighbors, UnitLinear, fit_linear_svms


def fit_head(cfg: CfgNode, model: ImageClassifier) -> None:
    """Replace the head of a classifier by one fitted to ``DATASETS.TRAIN`` (collective)."""
    node = cfg.MODEL.CLASSIFIER
    model.head = nn.Identity()  # The scores are the features themselves.
    loader = build_test_loader(cfg, cfg.DATASETS.TRAIN)
    # In the SVM's protocol a class that only difficult objects show is a negative.
    collector = _Collector(node.NUM_CLASSES, difficult=node.HEAD != "svm")
    features, targets = inference_on_dataset(model, loader, collector)
    # Every process fits the same head to the same features.
    if node.HEAD == "svm":
        names = load_classification(cfg.DATASETS.TRAIN[0]).names
        unit = F.normalize(features, dim=1).double().numpy()
        weight, bias = fit_linear_svms(unit, targets.numpy(), node.SVM_COSTS, names=names)
        head: nn.Module = UnitLinear(torch.from_numpy(weight), torch.from_numpy(bias)).float()
    else:
        k = min(node.KNN_K, len(features))
        head = NearestNeighbors(features, targets, k=k, temperature=node.KNN_TEMPERATURE)
    model.head = head.to(model.device)


class _Collector(DatasetEvaluator):
    """Gathers features and labels, in the order of the dataset, on every process."""

    def __init__(self, num_classes: int, *, difficult: bool) -> None:
        self._num_classes, self._difficult = num_classes, difficult

    def reset(self) -> None:
        self._features: list[Tensor] = []
        self._targets: list[Tensor] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        self._features.append(torch.stack([output["scores"].float().cpu() for output in outputs]))
        self._targets.append(targets_of(inputs, self._num_classes, difficult=self._difficult))

    def evaluate(self) -> tuple[Tensor, Tensor]:
        parts = comm.all_gather((self._features, self._targets))
        features, targets = zip(*parts, strict=True)
        return (
            torch.cat(list(itertools.chain.from_iterable(features))),
            torch.cat(list(itertools.chain.from_iterable(targets))),
        )
