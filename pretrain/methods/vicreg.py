"""VICReg: variance, invariance and covariance of embeddings (arXiv 2105.04906)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mls_d2.config.options import Options as MethodOptions
from mls_d2.config.options import option
from mls_d2.config.rules import at_least
from pretrain.batch import Batch, StepOutput
from pretrain.encoder import Encoder, zero_last_norms
from pretrain.gather import gather_with_gradient
from pretrain.heads import mlp
from pretrain.losses import vicreg_terms
from pretrain.methods.base import METHODS, Method, spread


@METHODS.register("vicreg")
class VICReg(Method):
    """Embeddings of both views agree, every channel varies, and no two channels correlate.

    Variance and covariance are over the batch of all processes.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MethodOptions):
        """Projector (the paper's expander) and weights of the three terms."""

        group = "VICREG"
        projector_dim: int = option(8192, "width of the projector's three layers", at_least(2))
        invariance_weight: float = option(25.0, "weight of the invariance", at_least(0), symbol="λ")
        variance_weight: float = option(25.0, "weight of the variance", at_least(0), symbol="μ")
        covariance_weight: float = option(1.0, "weight of the covariance", at_least(0), symbol="ν")

    def __init__(self, backbone: nn.Module, feature_dim: int, options: VICReg.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        zero_last_norms(backbone)
        self.encoder = Encoder(backbone, mlp(feature_dim, *3 * (options.projector_dim,)))
        self.weights = {
            "loss_invariance": options.invariance_weight,
            "loss_variance": options.variance_weight,
            "loss_covariance": options.covariance_weight,
        }

    def forward(self, batch: Batch) -> StepOutput:
        """Compute Eq. 6 in the form of the authors' code."""
        view1, view2 = batch.views
        g1, z1 = self.encoder(view1)
        _, z2 = self.encoder(view2)
        terms = vicreg_terms(gather_with_gradient(z1), gather_with_gradient(z2))
        return StepOutput(
            losses=dict(zip(self.weights, terms, strict=True)),
            weights=self.weights,
            metrics={"feature_std": spread(g1), "embedding_std": spread(z1)},
        )
