"""Self-EMD: BYOL of maps, which the earth mover's distance compares (arXiv 2011.13677).

Shape legend: N images, S × S positions of the backbone's map, P = S² of them row by row; d channels
of a projection.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mls_d2.config.options import option
from mls_d2.config.rules import above, at_least
from pretrain.batch import Batch, StepOutput
from pretrain.heads import mlp
from pretrain.losses_dense import transport_loss
from pretrain.methods.base import METHODS, spread
from pretrain.methods.byol import BYOL
from pretrain.methods.pixpro import PixelEncoder, rows


@METHODS.register("self_emd")
class SelfEMD(BYOL):
    """BYOL without the mean over positions: heads are 1x1 convolutions, the distance is of maps.

    Heads have the widths of ``BYOL``. The paper has no public code: what stands here is the form of
    its family, DeepEMD's.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(BYOL.Options):
        """How the plan of transport is computed."""

        group = "SELF_EMD"
        epsilon: float = option(0.05, "weight of the plan's entropy", above(0), symbol="ε")
        iterations: int = option(10, "rounds of Sinkhorn's algorithm", at_least(1))

    options: SelfEMD.Options

    def build(self, backbone: nn.Module, feature_dim: int) -> None:
        """Make encoder, momentum encoder and predictor."""
        hidden, out = self.options.hidden_dim, self.options.out_dim
        projector = mlp(feature_dim, hidden, out, dense=True)
        self.set_encoder(PixelEncoder(backbone, nn.ModuleList([projector])))
        self.predictor = mlp(out, hidden, out, dense=True)

    def forward(self, batch: Batch) -> StepOutput:
        """Compute the distance in both orders of the views."""
        self._progress = batch.progress
        (map1, x1), (_, x2) = (self.encoder(view) for view in batch.views)
        (_, target1), (_, target2) = (self.keys(view) for view in batch.views)
        one, other = (
            transport_loss(
                rows(self.predictor(x)), rows(t), self.options.epsilon, self.options.iterations
            )
            for x, t in ((x1, target2), (x2, target1))
        )
        return StepOutput(
            losses={"loss_emd": one + other},
            metrics={
                "feature_std": spread(map1.mean(dim=(2, 3))),
                "embedding_std": spread(x1.mean(dim=(2, 3))),
            },
        )
