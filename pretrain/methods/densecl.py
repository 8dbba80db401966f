"""DenseCL: MoCo-v2 of images and of the positions of their maps (arXiv 2011.09157).

Shape legend: N images of the batch, S × S positions of the backbone's map, D rows of the
dictionaries, d_g and d_z channels of the map and of an embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from pretrain.dictionary import Dictionary
from pretrain.encoder import feature_map
from pretrain.heads import dense_projector
from pretrain.losses import info_nce_from_similarities, similarities
from pretrain.methods.base import DictionaryMethod, StepOutput, check_rules, contrast_metrics
from pretrain.methods.moco import encoder_from_config, moco_arguments
from pretrain.momentum import MomentumPair


class DenseHeads(nn.Module):
    """The global and the dense projector side by side.

    Args:
        projector: ``(N, d_g) → (N, d_z)``, of the pooled map.
        dense: ``(N, d_g, S, S) → (N, d_z, S, S)``.
    """

    def __init__(self, projector: nn.Module, dense: nn.Module) -> None:
        super().__init__()
        self.projector, self.dense = projector, dense

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return z ``(N, d_z)`` and d ``(N, d_z, S, S)`` of a map ``(N, d_g, S, S)``."""
        return self.projector(features.mean(dim=(2, 3))), self.dense(features)


class DensePair(MomentumPair):
    """An EMA pair that gives the map F ``(N, d_g, S, S)``, and z and d of :class:`DenseHeads`."""

    @staticmethod
    def encode(backbone: nn.Module, projector: nn.Module, view: Tensor) -> tuple[Tensor, ...]:
        """Return F, z and d; a momentum pair that shuffles restores the order of all three."""
        features = feature_map(backbone, view)
        return features, *projector(features)


@torch.no_grad()
def matches(query_map: Tensor, key_map: Tensor) -> Tensor:
    """Return for every position of the query which position of the key is most similar (Eq. 3).

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
    dtype = torch.promote_types(query_map.dtype, torch.float32)
    query = F.normalize(query_map.to(dtype).flatten(2), dim=1)
    key = F.normalize(key_map.to(dtype).flatten(2), dim=1)
    with torch.autocast(query.device.type, enabled=False):
        return (query.transpose(1, 2) @ key).argmax(dim=2)


class DenseCL(DictionaryMethod):
    """InfoNCE of whole images, and of every position with the position that it matches.

    Both dictionaries have D rows in the same order; those of "dense" are one for each image: the
    normalised mean of its dense key embeddings.

    Args:
        backbone: Detectron2 backbone with d_g output channels.
        projector: ``(N, d_g) → (N, d_z)``.
        dense: ``(N, d_g, S, S) → (N, d_z, S, S)``.
        embedding_dim: d_z.
        dictionary_size: D.
        temperature: τ > 0, shared by both losses.
        momentum: m of the EMA pair.
        dense_weight: λ in [0, 1]: (1 - λ) is that of the global loss (Eq. 2).
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        dense: nn.Module,
        *,
        embedding_dim: int,
        dictionary_size: int,
        temperature: float,
        momentum: float,
        dense_weight: float,
    ) -> None:
        super().__init__()
        self.pair = DensePair(backbone, DenseHeads(projector, dense), momentum=momentum)
        self.dictionary = Dictionary(dictionary_size, {"z": embedding_dim, "dense": embedding_dim})
        self.temperature = temperature
        self.dense_weight = dense_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> DenseCL:
        """Build it from the keys of groups MOCO and DENSECL; both projectors have MOCO's widths."""
        backbone, projector, feature_dim = encoder_from_config(cfg)
        node = cfg.MOCO
        widths = feature_dim, node.PROJECTOR_HIDDEN_DIM, node.PROJECTOR_OUT_DIM
        dense = dense_projector(*widths, norm=node.PROJECTOR_NORM)
        return cls(
            backbone, projector, dense, **moco_arguments(cfg), dense_weight=cfg.DENSECL.LAMBDA
        )

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the keys of groups MOCO and DENSECL."""
        super().check_config(cfg)
        check_rules(cfg, [("DENSECL.LAMBDA", 0 <= cfg.DENSECL.LAMBDA <= 1, "in [0, 1]")])

    def forward(self, view1: Tensor, view2: Tensor, epoch: float) -> StepOutput:
        """Take one step: Eqs. 1 to 3; ``epoch`` does not matter here."""
        map1, z1, d1 = self.pair.online(view1)
        self.pair.update()
        map2, z2, d2 = self.pair.keys(view2)
        z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)
        positive, negative = similarities(z1, z2, self.dictionary["z"])
        loss_nce = info_nce_from_similarities(positive, negative, self.temperature)

        # Every position of the query is a query (N·S², d_z) whose key is the one it matches.
        found = matches(map1, map2)
        d1, d2 = d1.float().flatten(2).transpose(1, 2), d2.float().flatten(2).transpose(1, 2)
        partners = d2.gather(1, found.unsqueeze(2).expand_as(d2))
        queries, keys = (F.normalize(rows.flatten(0, 1), dim=1) for rows in (d1, partners))
        dense_positive, dense_negative = similarities(queries, keys, self.dictionary["dense"])
        loss_dense = info_nce_from_similarities(dense_positive, dense_negative, self.temperature)

        metrics = contrast_metrics(positive, negative, map1.mean(dim=(2, 3)))
        metrics["dense_similarity"] = dense_positive.detach().mean()
        return StepOutput(
            losses={
                "loss_nce": (1 - self.dense_weight) * loss_nce,
                "loss_dense": self.dense_weight * loss_dense,
            },
            metrics=metrics,
            # The dictionary normalises: the mean is taken before, as the author says it has to be.
            keys={"z": z2, "dense": d2.mean(dim=1)},
        )
