"""SimCLR: each view finds its partner among all other views of the batch (arXiv 2002.05709)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mls_d2.config.options import Options as MethodOptions
from mls_d2.config.options import option
from mls_d2.config.rules import above, at_least
from pretrain.batch import Batch, StepOutput
from pretrain.encoder import Encoder
from pretrain.gather import gather_with_gradient
from pretrain.heads import mlp
from pretrain.losses import batch_similarities, info_nce_from_similarities
from pretrain.methods.base import METHODS, Method, contrast_metrics


@METHODS.register("simclr")
class SimCLR(Method):
    """NT-Xent over the views of all processes, with gradient for both views of every image."""

    @dataclass(frozen=True, kw_only=True)
    class Options(MethodOptions):
        """Temperature and projector."""

        group = "SIMCLR"
        temperature: float = option(0.1, "temperature", above(0), symbol="τ")
        projector_hidden_dim: int = option(
            2048, "width of the projector's hidden layer", at_least(1)
        )
        projector_out_dim: int = option(128, "width of the embedding", at_least(1), symbol="d_z")

    def __init__(self, backbone: nn.Module, feature_dim: int, options: SimCLR.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        hidden, out = options.projector_hidden_dim, options.projector_out_dim
        projector = mlp(feature_dim, hidden, out, last_norm=nn.BatchNorm1d(out))
        self.encoder = Encoder(backbone, projector)
        self.temperature = options.temperature

    def candidates(self, batch_size: int) -> int:
        """Return 2 · batch - 1: the other views of the batch."""
        return 2 * batch_size - 1

    def forward(self, batch: Batch) -> StepOutput:
        """Compute Eq. 1."""
        # One pass over both views of image after image: BatchNorm is over both.
        both = torch.stack(batch.views, dim=1).flatten(0, 1)
        g, z = self.encoder(both.contiguous(memory_format=torch.channels_last))
        z = F.normalize(z.float(), dim=1)
        z1, z2 = gather_with_gradient(z[0::2]), gather_with_gradient(z[1::2])
        positive, negative = batch_similarities(z1, z2)
        return StepOutput(
            losses={"loss_nce": info_nce_from_similarities(positive, negative, self.temperature)},
            metrics=contrast_metrics(positive, negative, g[0::2]),
        )
