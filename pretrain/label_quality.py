"""How often the k selected crops show a category of their query (paper, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from mls_d2.core.errors import UserError
from pretrain.annotations import Annotations, load_annotations
from pretrain.batchnorm import gather
from pretrain.data import ViewBatch
from pretrain.methods import METHODS, Method


def build_label_quality(cfg: CfgNode, method: Method) -> LabelQuality | None:
    """Return the measurement, if ``PRETRAIN.LABEL_QUALITY`` is set.

    Raises:
        UserError: a method without pseudo-labels, or a dataset without annotations.
    """
    if not cfg.PRETRAIN.LABEL_QUALITY:
        return None
    if not method.has_labels:
        able = [name for name in METHODS.names() if METHODS.get(name).has_labels]
        raise UserError(
            "PRETRAIN.LABEL_QUALITY measures pseudo-labels, which PRETRAIN.METHOD "
            f"'{cfg.PRETRAIN.METHOD}' does not have: take one of {able}, or switch it off",
            code="bad-value",
        )
    annotations = load_annotations(cfg.DATASETS.TRAIN, key="PRETRAIN.LABEL_QUALITY")
    return LabelQuality(annotations, dictionary_size=cfg.MOCO.DICTIONARY_SIZE)


def precision_at_k(labels: Tensor, query: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of selected crops that show a category of their query, and of all crops.

    Queries without a category are left out; if all are, both are NaN.

    Args:
        labels: ``(N, D)`` bool, the selected rows of the dictionary.
        query: ``(N, C)`` bool, the categories seen in each query crop.
        rows: ``(D, C)`` bool, those seen in the crop of each row.

    Returns:
        Precision and chance, scalars in [0, 1].
    """
    asked = query.any(dim=1)
    alike = (query[asked].float() @ rows.float().T) > 0
    selected = labels[asked]
    return (alike & selected).sum() / selected.sum(), alike.float().mean()


class LabelQuality:
    """Keeps the categories in the crops of the dictionary's rows, in the order of the dictionary.

    Nothing of it reaches the method. After a resume nothing is measured until all rows are new.

    Args:
        annotations: of the dataset that is pretrained on.
        dictionary_size: D.
    """

    def __init__(self, annotations: Annotations, *, dictionary_size: int) -> None:
        self._annotations = annotations
        self._rows = torch.zeros(dictionary_size, len(annotations.names), dtype=torch.bool)
        self._known = torch.zeros(dictionary_size, dtype=torch.bool)

    def measure(self, batch: ViewBatch, labels: Tensor) -> dict[str, Tensor]:
        """Return ``label_precision`` and ``label_chance`` of a batch before it is enqueued.

        Args:
            batch: the one whose first views the labels belong to.
            labels: ``(N, D)`` bool, see :func:`pretrain.methods.mls.pseudo_labels`.

        Returns:
            Scalars; none while the crops of some rows are unknown.
        """
        if not self._known.all():
            return {}
        precision, chance = precision_at_k(labels.cpu(), self._seen(batch, 0), self._rows)
        return {"label_precision": precision, "label_chance": chance}

    def enqueue(self, batch: ViewBatch, iteration: int, device: torch.device) -> None:
        """Store the categories of second views at the positions of their keys in the dictionary.

        Args:
            batch: what is enqueued.
            iteration: of the step.
            device: of the method, on which processes exchange rows.
        """
        rows = gather(self._seen(batch, 1).to(device)).cpu()
        place = (iteration * len(rows) + torch.arange(len(rows))) % len(self._rows)
        self._rows[place] = rows
        self._known[place] = True

    def _seen(self, batch: ViewBatch, view: int) -> Tensor:
        pairs = zip(batch.index.tolist(), batch.geometry[view].numpy(), strict=True)
        return torch.from_numpy(np.stack([self._annotations.seen(i, crop) for i, crop in pairs]))
