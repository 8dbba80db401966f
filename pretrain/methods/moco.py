"""MoCo-v2: a query finds its key among those of other images (arXiv 1911.05722, 2003.04297).

Shape legend: N images of the batch, Q queries: N first views and their local views, if any; D rows
of the dictionary; d_g and d_z channels of the backbone feature g and of the embedding z.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.batch import Batch, StepOutput
from pretrain.dictionary import Dictionary
from pretrain.encoder import Encoder
from pretrain.heads import contrast_projector
from pretrain.losses import info_nce_from_similarities, similarities
from pretrain.methods.base import METHODS, DictionaryMethod, contrast_metrics


@dataclass(frozen=True)
class Contrast:
    """Queries, keys and their similarities.

    Attributes:
        g1: ``(Q, d_g)`` features of the queries.
        z1: ``(Q, d_z)`` their unit embeddings.
        g2: ``(N, d_g)`` features of the keys.
        z2: ``(N, d_z)`` their unit embeddings.
        positive: ``(Q,)`` cosines of queries with their keys.
        negative: ``(Q, D)`` cosines of queries with the rows of the dictionary.
    """

    g1: Tensor
    z1: Tensor
    g2: Tensor
    z2: Tensor
    positive: Tensor
    negative: Tensor

    def metrics(self) -> dict[str, Tensor]:
        """Return the monitors, of the first views alone."""
        first = slice(len(self.z2))
        return contrast_metrics(self.positive[first], self.negative[first], self.g1[first])


@METHODS.register("mocov2")
class MoCo(DictionaryMethod):
    """InfoNCE between first views and the momentum encoder's keys of second views.

    Local views are further queries of their image's key.
    """

    takes_local_views = True
    # Tables of the dictionary besides z: "g" for the features of the keys.
    further_tables: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, backbone: nn.Module, feature_dim: int, options: DictionaryMethod.Options
    ) -> None:
        super().__init__(backbone, feature_dim, options)
        hidden, out = options.projector_hidden_dim, options.projector_out_dim
        projector = contrast_projector(feature_dim, hidden, out, norm=options.projector_norm)
        self.set_encoder(Encoder(backbone, projector))
        widths = {"g": feature_dim, "z": out}
        tables = {name: widths[name] for name in (*self.further_tables, "z")}
        self.dictionary = Dictionary(options.dictionary_size, tables)

    def contrast(self, batch: Batch) -> Contrast:
        """Encode queries and keys, and compare them with each other and with the dictionary."""
        g1, z1 = self._queries(batch.views)
        self.update_momentum_encoder(batch.progress)
        g2, z2 = self.keys(batch.views[1])
        z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)
        own_keys = z2.repeat(len(z1) // len(z2), 1)
        positive, negative = similarities(z1, own_keys, self.dictionary["z"])
        return Contrast(g1, z1, g2, z2, positive, negative)

    def info_nce(self, step: Contrast) -> Tensor:
        """Return L_nce, mean over all queries."""
        return info_nce_from_similarities(step.positive, step.negative, self.options.temperature)

    def forward(self, batch: Batch) -> StepOutput:
        """Compute MoCo's Eq. 1."""
        step = self.contrast(batch)
        return StepOutput(
            losses={"loss_nce": self.info_nce(step)}, metrics=step.metrics(), keys={"z": step.z2}
        )

    def _queries(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        g, z = self.encoder(views[0])
        if len(views) == 2:
            return g, z
        local_g, local_z = self.encoder(torch.cat(views[2:]))
        return torch.cat([g, local_g]), torch.cat([z, local_z])
