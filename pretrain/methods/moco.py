"""MoCo-v2: momentum contrast with an MLP projector (arXiv 1911.05722 and 2003.04297)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.dictionary import Dictionary
from pretrain.losses import info_nce_from_similarities, similarities
from pretrain.methods.base import Method, StepOutput, contrast_metrics
from pretrain.momentum import MomentumPair


class MoCo(Method):
    """Each image's query z1 finds its key z2 among D keys of earlier images (InfoNCE).

    Args:
        backbone: Detectron2 backbone with d_g output channels.
        projector: ``(N, d_g) → (N, d_z)``.
        embedding_dim: d_z.
        dictionary_size: D.
        temperature: τ > 0.
        momentum: m of the EMA pair.
    """

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

    def forward(self, view1: Tensor, view2: Tensor, epoch: float) -> StepOutput:
        """Take one step; ``epoch`` does not matter to MoCo."""
        g1, z1 = self.pair.online(view1)
        self.pair.update()
        _, z2 = self.pair.keys(view2)
        z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)

        positive, negative = similarities(z1, z2, self.dictionary["z"])
        return StepOutput(
            losses={"loss_nce": info_nce_from_similarities(positive, negative, self.temperature)},
            metrics=contrast_metrics(positive, negative, g1),
            keys={"z": z2},
        )
