"""Barlow Twins: embeddings of two views correlate channel by channel only (arXiv 2103.03230)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mls_d2.config.options import Options as MethodOptions
from mls_d2.config.options import option
from mls_d2.config.rules import above, at_least
from pretrain.batch import Batch, StepOutput
from pretrain.encoder import Encoder
from pretrain.gather import gather_with_gradient
from pretrain.heads import mlp
from pretrain.losses import barlow_terms, cross_correlation
from pretrain.methods.base import METHODS, Method, spread


@METHODS.register("barlowtwins")
class BarlowTwins(Method):
    """The correlation of the two views' embeddings over the batch becomes the identity.

    The correlation is over the batch of all processes.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MethodOptions):
        """Projector and weights."""

        group = "BARLOWTWINS"
        projector_dim: int = option(
            8192, "width of the projector's three layers; 2048 is the small one", at_least(2)
        )
        redundancy_weight: float = option(
            0.0051, "weight of the redundancy term", at_least(0), symbol="λ", key="LAMBDA"
        )
        scale: float = option(
            0.024,
            "factor of the whole loss; with LARS it sets the step of biases and norms alone",
            above(0),
        )

    def __init__(self, backbone: nn.Module, feature_dim: int, options: BarlowTwins.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        self.encoder = Encoder(backbone, mlp(feature_dim, *3 * (options.projector_dim,)))
        self.redundancy_weight, self.scale = options.redundancy_weight, options.scale

    def forward(self, batch: Batch) -> StepOutput:
        """Compute Eqs. 1 and 2."""
        view1, view2 = batch.views
        g1, z1 = self.encoder(view1)
        _, z2 = self.encoder(view2)
        correlation = cross_correlation(gather_with_gradient(z1), gather_with_gradient(z2))
        invariance, redundancy = barlow_terms(correlation)
        return StepOutput(
            losses={"loss_invariance": invariance, "loss_redundancy": redundancy},
            weights={
                "loss_invariance": self.scale,
                "loss_redundancy": self.scale * self.redundancy_weight,
            },
            metrics={
                "view_correlation": correlation.detach().diagonal().mean(),
                "feature_std": spread(g1),
                "embedding_std": spread(z1),
            },
        )
