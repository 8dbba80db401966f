"""The EMA pair: an online encoder that learns and a momentum encoder that follows it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pretrain.batchnorm import BatchShuffle
from pretrain.encoder import Encoder


class MomentumPair(Encoder):
    """Online backbone φ and projector f, and their momentum copies φᵐ and fᵐ.

    Args:
        backbone: see :class:`pretrain.encoder.Encoder`.
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
        super().__init__(backbone, projector)
        if not 0 <= momentum < 1:
            raise ValueError(f"the momentum coefficient must be in [0, 1), got {momentum}")
        self.momentum_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.momentum_projector = copy.deepcopy(projector).requires_grad_(False)
        self.momentum = momentum
        self.shuffle: BatchShuffle | None = None

    @torch.no_grad()
    def keys(self, view: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`online` does, from the momentum copies and without gradient."""
        shuffle = self.shuffle
        if shuffle is None:
            return self.encode(self.momentum_backbone, self.momentum_projector, view)
        mixed = self.encode(self.momentum_backbone, self.momentum_projector, shuffle.shuffle(view))
        return tuple(shuffle.restore(rows) for rows in mixed)

    @torch.no_grad()
    def update(self) -> None:
        """Move the momentum copies' parameters towards the online ones (once a step)."""
        online: list[Tensor] = [*self.backbone.parameters(), *self.projector.parameters()]
        follower: list[Tensor] = [
            *self.momentum_backbone.parameters(),
            *self.momentum_projector.parameters(),
        ]
        torch._foreach_lerp_(follower, online, 1 - self.momentum)
