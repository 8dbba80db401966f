"""SimSiam: BYOL without the slow copy; a stopped gradient is enough (arXiv 2011.10566)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mls_d2.config.options import Options as MethodOptions
from mls_d2.config.options import option
from mls_d2.config.rules import at_least
from pretrain.batch import Batch, StepOutput
from pretrain.encoder import Encoder
from pretrain.heads import mlp
from pretrain.losses import negative_cosine
from pretrain.methods.base import METHODS, Method, spread


@METHODS.register("simsiam")
class SimSiam(Method):
    """Each view's prediction p meets the other view's projection z, whose gradient is stopped."""

    @dataclass(frozen=True, kw_only=True)
    class Options(MethodOptions):
        """Widths of projector and predictor."""

        group = "SIMSIAM"
        projector_dim: int = option(2048, "width of the projector's three layers", at_least(1))
        predictor_hidden_dim: int = option(512, "width of the predictor's bottleneck", at_least(1))

    def __init__(self, backbone: nn.Module, feature_dim: int, options: SimSiam.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        width = options.projector_dim
        # The last BatchNorm has neither scale nor offset, as in the authors' code.
        last = nn.BatchNorm1d(width, affine=False)
        self.encoder = Encoder(backbone, mlp(feature_dim, width, width, width, last_norm=last))
        self.predictor = mlp(width, options.predictor_hidden_dim, width)

    def forward(self, batch: Batch) -> StepOutput:
        """Compute Eq. 4."""
        view1, view2 = batch.views
        g1, z1 = self.encoder(view1)
        _, z2 = self.encoder(view2)
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
