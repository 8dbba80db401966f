"""Revisiting Contrastive Methods: MoCo-v2 whose neighbours are positives too (arXiv 2106.05967).

Shape legend: N images of the batch, L local views of each, Q = N · (1 + L) queries, D rows of the
dictionaries, d_g and d_z channels of the backbone feature g and of the embedding z.
"""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from pretrain.dictionary import Dictionary
from pretrain.losses import info_nce_from_similarities, multi_positive_softmax, similarities
from pretrain.methods.base import (
    DictionaryMethod,
    StepOutput,
    check_rules,
    contrast_metrics,
    keys_of_queries,
)
from pretrain.methods.mls import pseudo_labels
from pretrain.methods.moco import encoder_from_config, moco_arguments
from pretrain.momentum import MomentumPair


class Revisiting(DictionaryMethod):
    """InfoNCE, and a softmax over the dictionary with each query's k neighbours as its positives.

    The neighbours are found among backbone features, as MLS finds its labels; the softmax is over
    embeddings. Every local view is a query of its own, with neighbours of its own.

    Args:
        backbone: Detectron2 backbone with ``feature_dim`` output channels.
        projector: ``(N, d_g) → (N, d_z)``.
        feature_dim: d_g.
        embedding_dim: d_z.
        dictionary_size: D.
        temperature: τ > 0, shared by both losses.
        momentum: m of the EMA pair.
        num_neighbors: k, 1 <= k < D.
        loss_weight: λ >= 0 of the neighbour loss.
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
        num_neighbors: int,
        loss_weight: float,
    ) -> None:
        super().__init__()
        self.pair = MomentumPair(backbone, projector, momentum=momentum)
        self.dictionary = Dictionary(dictionary_size, {"g": feature_dim, "z": embedding_dim})
        self.temperature = temperature
        self.num_neighbors = num_neighbors
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Revisiting:
        """Build it from the keys of groups MOCO and REVISITING."""
        backbone, projector, feature_dim = encoder_from_config(cfg)
        return cls(
            backbone,
            projector,
            **moco_arguments(cfg),
            feature_dim=feature_dim,
            num_neighbors=cfg.REVISITING.K,
            loss_weight=cfg.REVISITING.WEIGHT,
        )

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the keys of groups MOCO and REVISITING."""
        super().check_config(cfg)
        node, size = cfg.REVISITING, cfg.MOCO.DICTIONARY_SIZE
        rules = [
            ("REVISITING.K", 1 <= node.K < size, f"in [1, MOCO.DICTIONARY_SIZE) = [1, {size})"),
            ("REVISITING.WEIGHT", node.WEIGHT >= 0, ">= 0"),
        ]
        check_rules(cfg, rules)

    def forward(
        self, view1: Tensor, view2: Tensor, epoch: float, local_views: Tensor | None = None
    ) -> StepOutput:
        """Take one step; ``epoch`` does not matter here."""
        g1, z1 = self.queries(view1, local_views)  # (Q, d)
        self.pair.update()
        g2, z2 = self.pair.keys(view2)  # (N, d)
        z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)

        own = keys_of_queries(z2, local_views)
        positive, negative = similarities(z1, own, self.dictionary["z"])
        loss_nce = info_nce_from_similarities(positive, negative, self.temperature)
        neighbors = pseudo_labels(g1, self.dictionary["g"], self.num_neighbors)  # (Q, D)
        loss_knn = multi_positive_softmax(negative, neighbors, self.temperature)
        count = len(z2)  # The monitors are of the first view, whatever else asks.
        metrics = contrast_metrics(positive[:count], negative[:count], g1[:count])
        near = (negative.detach() * neighbors).sum(dim=1).mean()
        metrics["label_similarity"] = near / self.num_neighbors
        return StepOutput(
            losses={"loss_nce": loss_nce, "loss_knn": self.loss_weight * loss_knn},
            metrics=metrics,
            keys={"g": g2, "z": z2},
            labels=neighbors[:count],
        )
