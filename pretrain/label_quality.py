"""Whether pseudo-labels mean what the paper says: do the k picked crops show the same things?"""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from mls_d2.core.errors import UserError
from pretrain.annotations import Annotations, load_annotations
from pretrain.batchnorm import gather
from pretrain.data import ViewBatch


def build_label_quality(cfg: CfgNode) -> LabelQuality | None:
    """Return what ``PRETRAIN.LABEL_QUALITY`` asks for.

    Raises:
        UserError: a method without pseudo-labels, or a dataset without annotations.
    """
    if not cfg.PRETRAIN.LABEL_QUALITY:
        return None
    if cfg.PRETRAIN.METHOD != "mls":
        raise UserError(
            "PRETRAIN.LABEL_QUALITY measures pseudo-labels, which PRETRAIN.METHOD "
            f"'{cfg.PRETRAIN.METHOD}' does not have: take 'mls', or switch it off"
        )
    annotations = load_annotations(cfg.DATASETS.TRAIN, key="PRETRAIN.LABEL_QUALITY")
    return LabelQuality(annotations, dictionary_size=cfg.MOCO.DICTIONARY_SIZE)


def precision_at_k(labels: Tensor, query: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of picked crops that show a category of their query, and that of all crops.

    Queries that show nothing are left out; where all do, both are NaN.

    Args:
        labels: ``(N, D)`` bool, the picked rows of the dictionary.
        query: ``(N, C)`` bool, the categories seen in each query crop.
        rows: ``(D, C)`` bool, those seen in the crop of each row.

    Returns:
        Precision and chance, scalars in [0, 1].
    """
    asked = query.any(dim=1)
    alike = (query[asked].float() @ rows.float().T) > 0
    picked = labels[asked]
    return (alike & picked).sum() / picked.sum(), alike.float().mean()


class LabelQuality:
    """Keeps the categories that the crops of the dictionary's rows show, beside the dictionary.

    Nothing of it reaches the method. After a resume it says nothing until all rows are new.

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
            batch: what the labels belong to; its first view asked for them.
            labels: ``(N, D)`` bool, see :func:`pretrain.methods.mls.pseudo_labels`.

        Returns:
            Scalars; none while the crops of some rows are unknown.
        """
        if not self._known.all():
            return {}
        precision, chance = precision_at_k(labels.cpu(), self._seen(batch, 0), self._rows)
        return {"label_precision": precision, "label_chance": chance}

    def enqueue(self, batch: ViewBatch, iteration: int) -> None:
        """Note the second views of a batch, where the dictionary puts their keys."""
        device = batch.views.device
        rows = gather(self._seen(batch, 1).to(device)).cpu()
        place = (iteration * len(rows) + torch.arange(len(rows))) % len(self._rows)
        self._rows[place] = rows
        self._known[place] = True

    def _seen(self, batch: ViewBatch, view: int) -> Tensor:
        pairs = zip(batch.index.tolist(), batch.geometry[view].numpy(), strict=True)
        return torch.from_numpy(np.stack([self._annotations.seen(i, crop) for i, crop in pairs]))
