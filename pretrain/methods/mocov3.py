"""MoCo-v3: a prediction finds its key among the keys of the batch (arXiv 2104.02057)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mls_d2.config.options import option
from mls_d2.config.rules import above, at_least
from pretrain.batch import Batch, StepOutput
from pretrain.batchnorm import gather
from pretrain.encoder import Encoder, zero_last_norms
from pretrain.gather import gather_with_gradient
from pretrain.heads import mlp
from pretrain.losses import cross_similarities, info_nce_from_similarities
from pretrain.methods.base import METHODS, MomentumMethod, contrast_metrics, spread


@METHODS.register("mocov3")
class MoCoV3(MomentumMethod):
    """InfoNCE between predictions of one view and the momentum encoder's keys of the other.

    Negatives are the keys of the batch of all processes; there is no dictionary.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MomentumMethod.Options):
        """Temperature, and widths of projector and predictor."""

        group = "MOCOV3"
        temperature: float = option(1.0, "temperature; 1 is that of ResNets", above(0), symbol="τ")
        hidden_dim: int = option(4096, "width of the hidden layers", at_least(1))
        out_dim: int = option(256, "width of projection and prediction", at_least(1))

    options: MoCoV3.Options

    def __init__(self, backbone: nn.Module, feature_dim: int, options: MoCoV3.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        hidden, out = options.hidden_dim, options.out_dim
        zero_last_norms(backbone)
        # As in the authors' code: the projector's last BatchNorm has neither scale nor offset, and
        # the predictor, of a ResNet, has none.
        projector = mlp(feature_dim, hidden, out, last_norm=nn.BatchNorm1d(out, affine=False))
        predictor = mlp(out, hidden, out, last_norm=nn.Identity())
        self.set_encoder(Encoder(backbone, projector))
        self.predictor = predictor

    def candidates(self, batch_size: int) -> int:
        """Return the batch: the keys of all its images."""
        return batch_size

    def forward(self, batch: Batch) -> StepOutput:
        """Compute Algorithm 1; its factor 2τ and the sum over both orders are in the weight."""
        view1, view2 = batch.views
        g1, z1 = self.encoder(view1)
        _, z2 = self.encoder(view2)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        self.update_momentum_encoder(batch.progress)
        _, k1 = self.keys(view1)
        _, k2 = self.keys(view2)
        one, other = self._compare(p1, k2), self._compare(p2, k1)
        temperature = self.options.temperature
        orders = [info_nce_from_similarities(*pairs, temperature) for pairs in (one, other)]
        return StepOutput(
            losses={"loss_nce": (orders[0] + orders[1]) / 2},
            weights={"loss_nce": 2 * 2 * temperature},
            metrics=contrast_metrics(*one, g1) | {"embedding_std": spread(z1)},
        )

    def _compare(self, prediction: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines of the batch's predictions with their keys and with the others."""
        query = gather_with_gradient(F.normalize(prediction.float(), dim=1))
        return cross_similarities(query, gather(F.normalize(key.float(), dim=1)))
