"""The EMA pair: an online encoder that learns and a momentum encoder that follows it."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.batchnorm import BatchShuffle


class MomentumPair(nn.Module):
    """Online backbone φ and projector f, and their momentum copies φᵐ and fᵐ.

    Args:
        backbone: a Detectron2 backbone; its last output feature is average-pooled to g.
        projector: ``(N, d_g) → (N, d_z)``.
        momentum: m in [0, 1): θᵐ ← m θᵐ + (1 - m) θ, over parameters only. The momentum copies'
            BatchNorm statistics come from their own forward passes.

    Attributes:
        shuffle: where it is not None, keys are computed in the order that it gives the batch.

    Raises:
        ValueError: m outside [0, 1).

    Source: MoCo (arXiv 1911.05722), Eq. 2.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, momentum: float) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"the momentum coefficient must be in [0, 1), got {momentum}")
        self.backbone, self.projector = backbone, projector
        self.momentum_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.momentum_projector = copy.deepcopy(projector).requires_grad_(False)
        self.momentum = momentum
        self.shuffle: BatchShuffle | None = None

    def online(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Return g ``(N, d_g)`` and z ``(N, d_z)`` of a view ``(N, C, H, W)``, with gradient."""
        g = pooled(self.backbone, view)
        return g, self.projector(g)

    @torch.no_grad()
    def keys(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and z of a view ``(N, C, H, W)`` from the momentum copies, without gradient."""
        if self.shuffle is None:
            g = pooled(self.momentum_backbone, view)
            return g, self.momentum_projector(g)
        g = pooled(self.momentum_backbone, self.shuffle.shuffle(view))
        return self.shuffle.restore(g), self.shuffle.restore(self.momentum_projector(g))

    @torch.no_grad()
    def update(self) -> None:
        """Move the momentum copies' parameters towards the online ones (once a step)."""
        online: list[Tensor] = [*self.backbone.parameters(), *self.projector.parameters()]
        follower: list[Tensor] = [
            *self.momentum_backbone.parameters(),
            *self.momentum_projector.parameters(),
        ]
        torch._foreach_lerp_(follower, online, 1 - self.momentum)


def pooled(backbone: nn.Module, view: Tensor) -> Tensor:
    """Return the global average pool ``(N, d_g)`` of the backbone's last output feature."""
    feature = list(backbone(view).values())[-1]
    return F.adaptive_avg_pool2d(feature, 1).flatten(1)
