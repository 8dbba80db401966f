"""BYOL: predict what a slow copy of the encoder makes of another view (arXiv 2006.07733)."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import Tensor, nn

from pretrain.heads import mlp
from pretrain.losses import negative_cosine
from pretrain.methods.base import (
    MomentumMethod,
    StepOutput,
    backbone_from_config,
    check_rules,
    spread,
)
from pretrain.momentum import MomentumPair


class BYOL(MomentumMethod):
    """The online network's prediction of the target network's projection, in both directions.

    The target network is the momentum copy, which moves after the optimizer's step.

    Args:
        backbone: Detectron2 backbone with d_g output channels.
        projector: ``(N, d_g) → (N, d_z)``.
        predictor: ``(N, d_z) → (N, d_z)``, of the online network alone.
        momentum: m of the EMA pair.
    """

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module, *, momentum: float
    ) -> None:
        super().__init__()
        self.pair = MomentumPair(backbone, projector, momentum=momentum)
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BYOL:
        """Build it from the keys of group BYOL and MOCO.MOMENTUM."""
        backbone, feature_dim = backbone_from_config(cfg)
        hidden, out = cfg.BYOL.HIDDEN_DIM, cfg.BYOL.OUT_DIM
        projector, predictor = mlp(feature_dim, hidden, out), mlp(out, hidden, out)
        return cls(backbone, projector, predictor, momentum=cfg.MOCO.MOMENTUM)

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the keys of group BYOL and MOCO.MOMENTUM."""
        super().check_config(cfg)
        names = ("HIDDEN_DIM", "OUT_DIM")
        check_rules(cfg, [(f"BYOL.{name}", cfg.BYOL[name] >= 1, ">= 1") for name in names])

    def forward(self, view1: Tensor, view2: Tensor, epoch: float) -> StepOutput:
        """Take one step: Eq. 2 in both orders; ``epoch`` does not matter here."""
        g1, z1 = self.pair.online(view1)
        _, z2 = self.pair.online(view2)
        _, target1 = self.pair.keys(view1)
        _, target2 = self.pair.keys(view2)
        one = negative_cosine(self.predictor(z1), target2)
        other = negative_cosine(self.predictor(z2), target1)
        return StepOutput(
            losses={"loss_byol": (2 + 2 * one) + (2 + 2 * other)},
            metrics={
                "positive_similarity": -(one + other).detach() / 2,
                "feature_std": spread(g1),
                "embedding_std": spread(z1),
            },
        )

    def after_optimizer_step(self) -> None:
        """Move the target network towards the online one."""
        self.pair.update()
