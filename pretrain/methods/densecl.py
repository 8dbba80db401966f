"""DenseCL: MoCo-v2 of images and of the positions of their maps (arXiv 2011.09157).

Shape legend: N images of the batch, S × S positions of the backbone's map, D rows of the
dictionaries, d_g and d_z channels of the map and of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mls_d2.config.options import option
from mls_d2.config.rules import within
from pretrain.batch import Batch, StepOutput
from pretrain.dictionary import Dictionary
from pretrain.encoder import DenseEncoder, DenseHeads
from pretrain.heads import contrast_projector, mlp
from pretrain.losses import info_nce_from_similarities, similarities
from pretrain.methods.base import METHODS, DictionaryMethod, contrast_metrics
from pretrain.numerics import wide


@METHODS.register("densecl")
class DenseCL(DictionaryMethod):
    """InfoNCE of whole images, and of every position with the position that it matches.

    Both dictionaries have D rows in the same order; those of "dense" are one per image: the
    normalised mean of its dense key embeddings. Both projectors have MOCO's widths.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(DictionaryMethod.Options):
        """Weight of the dense loss."""

        group = "DENSECL"
        dense_weight: float = option(
            0.5,
            "weight of the dense loss; 1 - λ is that of the global loss",
            within(1),
            symbol="λ",
            key="LAMBDA",
        )

    options: DenseCL.Options
    local_loss = "loss_dense"  # the name of :meth:`compare_positions`

    def __init__(self, backbone: nn.Module, feature_dim: int, options: DenseCL.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        widths = feature_dim, options.projector_hidden_dim, options.projector_out_dim
        norm = options.projector_norm
        projector = contrast_projector(*widths, norm=norm)
        last_norm = nn.BatchNorm2d(options.projector_out_dim, affine=False) if norm else None
        dense = mlp(*widths, norm=norm, last_norm=last_norm, dense=True)
        self.set_encoder(DenseEncoder(backbone, DenseHeads(projector, dense)))
        out = options.projector_out_dim
        self.dictionary = Dictionary(options.dictionary_size, {"z": out, "dense": out})

    def forward(self, batch: Batch) -> StepOutput:
        """Compute the global and the dense loss of queries from the first views."""
        weight = self.options.dense_weight
        map1, z1, d1 = self.encoder(batch.views[0])
        self.update_momentum_encoder(batch.progress)
        map2, z2, d2 = self.keys(batch.views[1])
        z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)
        positive, negative = similarities(z1, z2, self.dictionary["z"])
        d1, d2 = d1.float().flatten(2).mT, d2.float().flatten(2).mT
        local, more = self.compare_positions(batch, (map1, map2), d1, d2)
        nce = info_nce_from_similarities(positive, negative, self.options.temperature)
        return StepOutput(
            losses={"loss_nce": nce, self.local_loss: local},
            weights={"loss_nce": 1 - weight, self.local_loss: weight},
            metrics=contrast_metrics(positive, negative, map1.mean(dim=(2, 3))) | more,
            # The dictionary normalises: the mean is taken before, as the author says it has to be.
            keys={"z": z2, "dense": d2.mean(dim=1)},
        )

    def compare_positions(
        self, batch: Batch, maps: tuple[Tensor, Tensor], d1: Tensor, d2: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the dense loss of embeddings ``(N, S², d_z)`` of both views, and its monitors.

        Every position is a query; its key is the position that it matches.
        """
        partners = d2.gather(1, matches(*maps).unsqueeze(2).expand_as(d2))
        queries, keys = (F.normalize(rows.flatten(0, 1), dim=1) for rows in (d1, partners))
        positive, negative = similarities(queries, keys, self.dictionary["dense"])
        loss = info_nce_from_similarities(positive, negative, self.options.temperature)
        return loss, {"dense_similarity": positive.detach().mean()}


@torch.no_grad()
def matches(query_map: Tensor, key_map: Tensor) -> Tensor:
    """Return for every position of the query which position of the key is most similar.

    Args:
        query_map: ``(N, d, S, S)`` backbone features of one view; their length does not matter.
        key_map: ``(N, d, S, S)`` of the other.

    Returns:
        ``(N, S²)`` indices in [0, S²), row by row of the map.

    Raises:
        ValueError: shapes that differ.
    """
    if query_map.shape != key_map.shape or query_map.ndim != 4:
        raise ValueError(
            f"expected two maps (N, d, S, S), got {tuple(query_map.shape)} and "
            f"{tuple(key_map.shape)}"
        )
    return position_cosines(query_map, key_map).argmax(dim=2)


def position_cosines(query_map: Tensor, key_map: Tensor) -> Tensor:
    """Return the cosines ``(N, S², S²)`` of all positions of two maps ``(N, d, S, S)``."""
    query, key = (F.normalize(wide(part).flatten(2), dim=1) for part in (query_map, key_map))
    with torch.autocast(query.device.type, enabled=False):
        return query.mT @ key
