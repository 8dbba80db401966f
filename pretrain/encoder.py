"""The encoder that learns: a backbone φ, the global average of its map, and a projector f."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Encoder(nn.Module):
    """Backbone φ and projector f.

    Args:
        backbone: a Detectron2 backbone; its last output feature is average-pooled to g.
        projector: ``(N, d_g) → (N, d_z)``.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def online(self, view: Tensor) -> tuple[Tensor, ...]:
        """Return g ``(N, d_g)`` and z ``(N, d_z)`` of a view ``(N, C, H, W)``, with gradient."""
        return self.encode(self.backbone, self.projector, view)

    @staticmethod
    def encode(backbone: nn.Module, projector: nn.Module, view: Tensor) -> tuple[Tensor, ...]:
        """Return what a step needs of a view; a subclass may want other features than g and z."""
        g = pooled(backbone, view)
        return g, projector(g)


def pooled(backbone: nn.Module, view: Tensor) -> Tensor:
    """Return the global average pool ``(N, d_g)`` of the backbone's last output feature."""
    return F.adaptive_avg_pool2d(feature_map(backbone, view), 1).flatten(1)


def feature_map(backbone: nn.Module, view: Tensor) -> Tensor:
    """Return the backbone's last output feature ``(N, d_g, S, S)``."""
    return list(backbone(view).values())[-1]
