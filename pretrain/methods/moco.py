"""MoCo-v2: momentum contrast with an MLP projector (arXiv 1911.05722 and 2003.04297)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from pretrain.dictionary import Dictionary
from pretrain.heads import mlp
from pretrain.losses import info_nce_from_similarities, similarities
from pretrain.methods.base import (
    DictionaryMethod,
    StepOutput,
    backbone_from_config,
    contrast_metrics,
    keys_of_queries,
)
from pretrain.momentum import MomentumPair


class MoCo(DictionaryMethod):
    """Each image's query z1 finds its key z2 among D keys of earlier images (InfoNCE).

    Args:
        backbone: Detectron2 backbone with d_g output channels.
        projector: ``(N, d_g) → (N, d_z)``.
        embedding_dim: d_z.
        dictionary_size: D.
        temperature: τ > 0.
        momentum: m of the EMA pair.
    """

    takes_local_views = True

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        embedding_dim: int,
        dictionary_size: int,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.pair = MomentumPair(backbone, projector, momentum=momentum)
        self.dictionary = Dictionary(dictionary_size, {"z": embedding_dim})
        self.temperature = temperature

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MoCo:
        """Build it from the keys of group MOCO."""
        backbone, projector, _ = encoder_from_config(cfg)
        return cls(backbone, projector, **moco_arguments(cfg))

    def forward(
        self, view1: Tensor, view2: Tensor, epoch: float, local_views: Tensor | None = None
    ) -> StepOutput:
        """Take one step; ``epoch`` does not matter to MoCo."""
        g1, z1 = self.queries(view1, local_views)
        self.pair.update()
        _, z2 = self.pair.keys(view2)
        z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)

        own = keys_of_queries(z2, local_views)
        positive, negative = similarities(z1, own, self.dictionary["z"])
        count = len(z2)  # The monitors are of the first view, whatever else asks.
        return StepOutput(
            losses={"loss_nce": info_nce_from_similarities(positive, negative, self.temperature)},
            metrics=contrast_metrics(positive[:count], negative[:count], g1[:count]),
            keys={"z": z2},
        )


def encoder_from_config(cfg: CfgNode) -> tuple[nn.Module, nn.Module, int]:
    """Return the backbone, MoCo-v2's projector, and the channels d_g between them."""
    backbone, feature_dim = backbone_from_config(cfg)
    node = cfg.MOCO
    widths = feature_dim, node.PROJECTOR_HIDDEN_DIM, node.PROJECTOR_OUT_DIM
    return backbone, mlp(*widths, norm=node.PROJECTOR_NORM), feature_dim


def moco_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Return what every method on MoCo takes besides its encoder."""
    return {
        "embedding_dim": cfg.MOCO.PROJECTOR_OUT_DIM,
        "dictionary_size": cfg.MOCO.DICTIONARY_SIZE,
        "temperature": cfg.MOCO.TEMPERATURE,
        "momentum": cfg.MOCO.MOMENTUM,
    }
