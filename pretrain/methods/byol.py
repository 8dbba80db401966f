"""BYOL: predict what a slow copy of the encoder makes of another view (arXiv 2006.07733)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mls_d2.config.options import option
from mls_d2.config.rules import at_least
from pretrain.batch import Batch, StepOutput
from pretrain.encoder import Encoder
from pretrain.heads import mlp
from pretrain.losses import negative_cosine
from pretrain.methods.base import METHODS, MomentumMethod, spread


@METHODS.register("byol")
class BYOL(MomentumMethod):
    """The online network predicts the target network's projection, in both directions.

    The target network is the momentum encoder, which moves after the optimizer's step.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MomentumMethod.Options):
        """Widths of projector and predictor."""

        group = "BYOL"
        hidden_dim: int = option(4096, "width of the hidden layers", at_least(1))
        out_dim: int = option(256, "width of projection and prediction", at_least(1))

    options: BYOL.Options

    def __init__(self, backbone: nn.Module, feature_dim: int, options: BYOL.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        self.build(backbone, feature_dim)
        self._progress = 0.0

    def build(self, backbone: nn.Module, feature_dim: int) -> None:
        """Make encoder, momentum encoder and predictor."""
        hidden, out = self.options.hidden_dim, self.options.out_dim
        projector, predictor = mlp(feature_dim, hidden, out), mlp(out, hidden, out)
        self.set_encoder(Encoder(backbone, projector))
        self.predictor = predictor

    def forward(self, batch: Batch) -> StepOutput:
        """Compute Eq. 2 in both orders."""
        view1, view2 = batch.views
        self._progress = batch.progress
        g1, z1 = self.encoder(view1)
        _, z2 = self.encoder(view2)
        _, target1 = self.keys(view1)
        _, target2 = self.keys(view2)
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
        self.update_momentum_encoder(self._progress)
