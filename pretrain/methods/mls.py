"""MLS: multi-label self-supervised learning with scene images (arXiv 2308.03286, ICCV 2023).

Shape legend: N images of the batch, D rows of the dictionaries, d_g and d_z channels of the
backbone feature g and of the embedding z.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from pretrain.dictionary import Dictionary
from pretrain.losses import (
    info_nce_from_similarities,
    knn_softmax,
    multi_label_bce,
    positive_bce,
    similarities,
)
from pretrain.methods.base import (
    DictionaryMethod,
    StepOutput,
    check_rules,
    contrast_metrics,
    keys_of_queries,
    one_of,
)
from pretrain.methods.moco import encoder_from_config, moco_arguments
from pretrain.momentum import MomentumPair

# What may stand beside InfoNCE (Table 6); "none" is MoCo-v2.
LOSSES = {"none": None, "knn": knn_softmax, "bce_pos": positive_bce, "bce": multi_label_bce}
# Which dictionary gives the labels and which the logits (Table 7).
DICTIONARIES = {"g": ("g", "g"), "z": ("z", "z"), "both": ("g", "z")}


@torch.no_grad()
def pseudo_labels(features: Tensor, dictionary: Tensor, k: int) -> Tensor:
    """Mark the k rows of the dictionary most similar to each feature (MLS, Eq. 7).

    Args:
        features: ``(N, d)``; they need no normalisation, since length does not change the order.
        dictionary: ``(D, d)``, rows should be L2-normalised.
        k: pseudo-positives an image, 1 <= k < D.

    Returns:
        ``(N, D)`` bool with exactly k True a row.

    Raises:
        ValueError: k outside [1, D), or shapes that do not fit.
    """
    if features.ndim != 2 or features.shape[1:] != dictionary.shape[1:]:
        raise ValueError(
            "expected features (N, d) and dictionary (D, d), got "
            f"{tuple(features.shape)} and {tuple(dictionary.shape)}"
        )
    if not 1 <= k < len(dictionary):
        raise ValueError(f"k must be in [1, D) with D = {len(dictionary)} rows, got {k}")
    dtype = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        scores = features.to(dtype) @ dictionary.to(dtype).T
    top = scores.topk(k, dim=1, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, top, True)


class MLS(DictionaryMethod):
    """MoCo-v2 plus multi-label classification of each image against the dictionary.

    The backbone feature g1 picks its k nearest rows of Q_g; the embedding z1 is classified against
    the rows of Q_z at the same places with binary cross-entropy.

    Args:
        backbone: Detectron2 backbone with ``feature_dim`` output channels.
        projector: ``(N, d_g) → (N, d_z)``.
        feature_dim: d_g.
        embedding_dim: d_z.
        dictionary_size: D.
        temperature: τ > 0, shared by both losses.
        momentum: m of the EMA pair.
        num_positives: k.
        loss_weight: λ >= 0.
        warmup: epochs of InfoNCE alone before the multi-label loss joins (section 3.3).
        keep_nce: whether InfoNCE stays after the warm-up; without it the multi-label loss is alone.
        loss: one of :data:`LOSSES`, Eq. 9 unless an ablation asks for another.
        dictionaries: one of :data:`DICTIONARIES`.
    """

    takes_local_views = True

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        feature_dim: int,
        embedding_dim: int,
        dictionary_size: int,
        temperature: float,
        momentum: float,
        num_positives: int,
        loss_weight: float,
        warmup: float = 0.0,
        keep_nce: bool = True,
        loss: str = "bce",
        dictionaries: str = "both",
    ) -> None:
        super().__init__()
        self.pair = MomentumPair(backbone, projector, momentum=momentum)
        self.dictionary = Dictionary(dictionary_size, {"g": feature_dim, "z": embedding_dim})
        self.temperature = temperature
        self.num_positives = num_positives
        self.loss_weight = loss_weight
        self.warmup = warmup
        self.keep_nce = keep_nce
        self.loss = LOSSES[loss]
        self.label_table, self.logit_table = DICTIONARIES[dictionaries]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MLS:
        """Build it from the keys of groups MOCO and MLS."""
        backbone, projector, feature_dim = encoder_from_config(cfg)
        return cls(
            backbone,
            projector,
            **moco_arguments(cfg),
            feature_dim=feature_dim,
            num_positives=cfg.MLS.K,
            loss_weight=cfg.MLS.LAMBDA,
            warmup=cfg.MLS.WARMUP,
            keep_nce=cfg.MLS.KEEP_NCE,
            loss=cfg.MLS.LOSS,
            dictionaries=cfg.MLS.DICTIONARIES,
        )

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the keys of groups MOCO and MLS."""
        super().check_config(cfg)
        node, size = cfg.MLS, cfg.MOCO.DICTIONARY_SIZE
        rules = [
            ("MLS.K", 1 <= node.K < size, f"in [1, D) with D = MOCO.DICTIONARY_SIZE = {size}"),
            ("MLS.LAMBDA", node.LAMBDA >= 0, ">= 0"),
            ("MLS.WARMUP", node.WARMUP >= 0, ">= 0 epochs"),
            ("MLS.LOSS", node.LOSS in LOSSES, one_of(LOSSES)),
            ("MLS.DICTIONARIES", node.DICTIONARIES in DICTIONARIES, one_of(DICTIONARIES)),
        ]
        check_rules(cfg, rules)

    def forward(
        self, view1: Tensor, view2: Tensor, epoch: float, local_views: Tensor | None = None
    ) -> StepOutput:
        """Take one step: Eqs. 6 to 10."""
        g1, z1 = self.queries(view1, local_views)
        self.pair.update()
        g2, z2 = self.pair.keys(view2)
        z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)

        # Eq. 8's logits p are the cosines that InfoNCE calls negatives: one product serves both.
        own = keys_of_queries(z2, local_views)
        positive, logits = similarities(z1, own, self.dictionary["z"])
        loss_nce = info_nce_from_similarities(positive, logits, self.temperature)
        count = len(z2)  # The monitors are of the first view, whatever else asks.
        metrics = contrast_metrics(positive[:count], logits[:count], g1[:count])
        loss_ml, labels = self._multi_label_loss({"g": g1, "z": z1}, logits, metrics)
        warm = epoch < self.warmup
        nce_weight = 1.0 if warm or self.keep_nce else 0.0
        ml_weight = 0.0 if warm else self.loss_weight
        return StepOutput(
            losses={"loss_nce": nce_weight * loss_nce, "loss_ml": ml_weight * loss_ml},  # Eq. 10
            metrics=metrics,
            keys={"g": g2, "z": z2},
            labels=None if labels is None else labels[:count],
        )

    def _multi_label_loss(
        self, queries: dict[str, Tensor], logits: Tensor, metrics: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Eqs. 7 to 9 for g1 and z1 in ``queries``; ``logits`` ``(N, D)`` are those of z1.

        Returns the loss, and the labels ``(N, D)`` if it has any.
        """
        if self.loss is None:
            return logits.new_zeros(()), None
        label_table = self.dictionary[self.label_table]
        labels = pseudo_labels(queries[self.label_table], label_table, self.num_positives)
        if self.logit_table == "g":
            unit = F.normalize(queries["g"].float(), dim=1)
            logits = similarities(unit, unit, self.dictionary["g"])[1]
        loss = self.loss(logits, labels, self.temperature)
        share = (logits.detach() * labels).sum(dim=1).mean()
        metrics["label_similarity"] = share / self.num_positives
        metrics["multi_label_loss"] = loss.detach()
        # Of the rows that the batch could have picked: little, where all images pick the same.
        most = min(len(label_table), len(labels) * self.num_positives)
        metrics["label_spread"] = labels.any(dim=0).sum() / most
        return loss, labels
