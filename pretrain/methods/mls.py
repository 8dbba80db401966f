"""MLS: multi-label self-supervised learning with scene images (arXiv 2308.03286, ICCV 2023).

Shape legend: N images of the batch, D rows of the dictionaries, d_g and d_z channels of the
backbone feature g and of the embedding z.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.dictionary import Dictionary
from pretrain.losses import info_nce_from_similarities, multi_label_bce, similarities
from pretrain.methods.base import Method, StepOutput, contrast_metrics
from pretrain.momentum import MomentumPair


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


class MLS(Method):
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
    """

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
    ) -> None:
        super().__init__()
        self.pair = MomentumPair(backbone, projector, momentum=momentum)
        self.dictionary = Dictionary(dictionary_size, {"g": feature_dim, "z": embedding_dim})
        self.temperature = temperature
        self.num_positives = num_positives
        self.loss_weight = loss_weight
        self.warmup = warmup

    def forward(self, view1: Tensor, view2: Tensor, epoch: float) -> StepOutput:
        """Take one step: Eqs. 6 to 10."""
        g1, z1 = self.pair.online(view1)
        self.pair.update()
        g2, z2 = self.pair.keys(view2)
        z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)

        labels = pseudo_labels(g1, self.dictionary["g"], self.num_positives)  # Eq. 7, (N, D)
        # Eq. 8's logits p are the cosines that InfoNCE calls negatives: one product serves both.
        positive, logits = similarities(z1, z2, self.dictionary["z"])
        loss_nce = info_nce_from_similarities(positive, logits, self.temperature)
        loss_ml = multi_label_bce(logits, labels, self.temperature)  # Eq. 9
        weight = self.loss_weight if epoch >= self.warmup else 0.0

        metrics = contrast_metrics(positive, logits, g1)
        metrics["label_similarity"] = (logits.detach() * labels).sum(
            dim=1
        ).mean() / self.num_positives
        metrics["multi_label_bce"] = loss_ml.detach()
        return StepOutput(
            losses={"loss_nce": loss_nce, "loss_ml": weight * loss_ml},  # Eq. 10
            metrics=metrics,
            keys={"g": g2, "z": z2},
        )
