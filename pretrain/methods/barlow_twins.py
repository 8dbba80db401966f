"""Barlow Twins: embeddings of two views correlate channel by channel only (arXiv 2103.03230)."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import Tensor, nn

from pretrain.encoder import Encoder
from pretrain.gather import gather_with_gradient
from pretrain.heads import mlp
from pretrain.losses import barlow_terms, cross_correlation
from pretrain.methods.base import Method, StepOutput, backbone_from_config, check_rules, spread


class BarlowTwins(Method):
    """The correlation of the two views' embeddings over the batch becomes the identity.

    The correlation is over the batch of all processes.

    Args:
        backbone: Detectron2 backbone with d_g output channels.
        projector: ``(N, d_g) → (N, d)``.
        redundancy_weight: λ >= 0.
        scale: of the whole loss, > 0; LARS adapts the step of every matrix to it, but not that of
            biases and norms.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        redundancy_weight: float,
        scale: float,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(backbone, projector)
        self.redundancy_weight = redundancy_weight
        self.scale = scale

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BarlowTwins:
        """Build it from the keys of group BARLOWTWINS."""
        backbone, feature_dim = backbone_from_config(cfg)
        node = cfg.BARLOWTWINS
        projector = mlp(feature_dim, *3 * (node.PROJECTOR_DIM,))
        return cls(backbone, projector, redundancy_weight=node.LAMBDA, scale=node.SCALE)

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the keys of group BARLOWTWINS."""
        super().check_config(cfg)
        node = cfg.BARLOWTWINS
        rules = [
            ("BARLOWTWINS.PROJECTOR_DIM", node.PROJECTOR_DIM >= 2, ">= 2"),
            ("BARLOWTWINS.LAMBDA", node.LAMBDA >= 0, ">= 0"),
            ("BARLOWTWINS.SCALE", node.SCALE > 0, "> 0"),
        ]
        check_rules(cfg, rules)

    def forward(self, view1: Tensor, view2: Tensor, epoch: float) -> StepOutput:
        """Take one step: Eqs. 1 and 2; ``epoch`` does not matter here."""
        g1, z1 = self.encoder.online(view1)
        _, z2 = self.encoder.online(view2)
        correlation = cross_correlation(gather_with_gradient(z1), gather_with_gradient(z2))
        invariance, redundancy = barlow_terms(correlation)
        return StepOutput(
            losses={
                "loss_invariance": self.scale * invariance,
                "loss_redundancy": self.scale * self.redundancy_weight * redundancy,
            },
            metrics={
                "view_correlation": correlation.detach().diagonal().mean(),
                "feature_std": spread(g1),
                "embedding_std": spread(z1),
            },
        )
