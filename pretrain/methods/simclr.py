"""SimCLR: each view finds its partner among all other views of the batch (arXiv 2002.05709)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from pretrain.encoder import Encoder
from pretrain.gather import gather_with_gradient
from pretrain.heads import mlp
from pretrain.losses import batch_similarities, info_nce_from_similarities
from pretrain.methods.base import (
    Method,
    StepOutput,
    backbone_from_config,
    check_rules,
    contrast_metrics,
)


class SimCLR(Method):
    """NT-Xent over the views of all processes, with gradient for both views of every image.

    Args:
        backbone: Detectron2 backbone with d_g output channels.
        projector: ``(N, d_g) → (N, d_z)``.
        temperature: τ > 0.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, temperature: float) -> None:
        super().__init__()
        self.encoder = Encoder(backbone, projector)
        self.temperature = temperature

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SimCLR:
        """Build it from the keys of group SIMCLR."""
        backbone, feature_dim = backbone_from_config(cfg)
        hidden, out = cfg.SIMCLR.PROJECTOR_HIDDEN_DIM, cfg.SIMCLR.PROJECTOR_OUT_DIM
        projector = mlp(feature_dim, hidden, out, last_norm=nn.BatchNorm1d(out))
        return cls(backbone, projector, temperature=cfg.SIMCLR.TEMPERATURE)

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the keys of group SIMCLR."""
        super().check_config(cfg)
        node = cfg.SIMCLR
        rules = [
            ("SIMCLR.TEMPERATURE", node.TEMPERATURE > 0, "> 0"),
            ("SIMCLR.PROJECTOR_HIDDEN_DIM", node.PROJECTOR_HIDDEN_DIM >= 1, ">= 1"),
            ("SIMCLR.PROJECTOR_OUT_DIM", node.PROJECTOR_OUT_DIM >= 1, ">= 1"),
        ]
        check_rules(cfg, rules)

    def candidates(self, batch_size: int) -> int:
        """Return 2 · batch - 1: the other views of the batch."""
        return 2 * batch_size - 1

    def forward(self, view1: Tensor, view2: Tensor, epoch: float) -> StepOutput:
        """Take one step: Eq. 1; ``epoch`` does not matter here."""
        # One pass over both views of image after image: BatchNorm is over both.
        both = torch.stack([view1, view2], dim=1).flatten(0, 1)
        g, z = self.encoder.online(both.contiguous(memory_format=torch.channels_last))
        z = F.normalize(z.float(), dim=1)
        z1, z2 = gather_with_gradient(z[0::2]), gather_with_gradient(z[1::2])
        positive, negative = batch_similarities(z1, z2)
        return StepOutput(
            losses={"loss_nce": info_nce_from_similarities(positive, negative, self.temperature)},
            metrics=contrast_metrics(positive, negative, g[0::2]),
        )
