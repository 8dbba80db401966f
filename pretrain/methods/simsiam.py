"""SimSiam: BYOL without the slow copy; a stopped gradient is enough (arXiv 2011.10566)."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import Tensor, nn

from pretrain.encoder import Encoder
from pretrain.heads import mlp
from pretrain.losses import negative_cosine
from pretrain.methods.base import Method, StepOutput, backbone_from_config, check_rules, spread


class SimSiam(Method):
    """Each view's prediction p meets the other view's projection z, whose gradient is stopped.

    Args:
        backbone: Detectron2 backbone with d_g output channels.
        projector: ``(N, d_g) → (N, d_z)``.
        predictor: ``(N, d_z) → (N, d_z)``, a bottleneck.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.encoder = Encoder(backbone, projector)
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SimSiam:
        """Build it from the keys of group SIMSIAM."""
        backbone, feature_dim = backbone_from_config(cfg)
        width, bottleneck = cfg.SIMSIAM.PROJECTOR_DIM, cfg.SIMSIAM.PREDICTOR_HIDDEN_DIM
        # The last BatchNorm has neither scale nor offset, as in the authors' code.
        last = nn.BatchNorm1d(width, affine=False)
        projector = mlp(feature_dim, width, width, width, last_norm=last)
        return cls(backbone, projector, mlp(width, bottleneck, width))

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the keys of group SIMSIAM."""
        super().check_config(cfg)
        names = ("PROJECTOR_DIM", "PREDICTOR_HIDDEN_DIM")
        check_rules(cfg, [(f"SIMSIAM.{name}", cfg.SIMSIAM[name] >= 1, ">= 1") for name in names])

    def forward(self, view1: Tensor, view2: Tensor, epoch: float) -> StepOutput:
        """Take one step: Eq. 4; ``epoch`` does not matter here."""
        g1, z1 = self.encoder.online(view1)
        _, z2 = self.encoder.online(view2)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss = negative_cosine(p1, z2.detach()) / 2 + negative_cosine(p2, z1.detach()) / 2
        return StepOutput(
            losses={"loss_simsiam": loss},
            metrics={
                "positive_similarity": -loss.detach(),
                "feature_std": spread(g1),
                "embedding_std": spread(z1),
            },
        )
