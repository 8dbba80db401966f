"""Encoders: a backbone φ, the global average of its map, and a projector f; their EMA copies."""

import copy
import itertools
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torch import Tensor, nn

T = TypeVar("T", bound=nn.Module)


class Encoder(nn.Module):
    """Backbone φ and projector f.

    Args:
        backbone: a Detectron2 backbone; its last output feature is average-pooled to g.
        projector: ``(N, d_g) → (N, d_z)``.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, view: Tensor) -> tuple[Tensor, ...]:
        """Return g ``(N, d_g)`` and z ``(N, d_z)`` of a view ``(N, 3, H, W)``."""
        g = pooled(self.backbone, view)
        return g, self.projector(g)


class DenseHeads(nn.Module):
    """The global and the dense projector side by side.

    Args:
        projector: ``(N, d_g) → (N, d_z)``, of the pooled map.
        dense: ``(N, d_g, S, S) → (N, d_z, S, S)``.
    """

    def __init__(self, projector: nn.Module, dense: nn.Module) -> None:
        super().__init__()
        self.projector, self.dense = projector, dense


class DenseEncoder(Encoder):
    """Returns the map F ``(N, d_g, S, S)``, and z and d of :class:`DenseHeads`."""

    projector: DenseHeads

    def forward(self, view: Tensor) -> tuple[Tensor, ...]:
        """Return F, z ``(N, d_z)`` and d ``(N, d_z, S, S)`` of a view."""
        features = feature_map(self.backbone, view)
        z = self.projector.projector(features.mean(dim=(2, 3)))
        return features, z, self.projector.dense(features)


def momentum_copy(module: T) -> T:
    """Return a copy that no gradient reaches; :func:`move_towards` moves it."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def move_towards(average: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move an EMA copy: ξ ← m ξ + (1 - m) θ, over parameters only.

    The copy's BatchNorm statistics come from its own forward passes.

    Source: MoCo (arXiv 1911.05722), Eq. 2.
    """
    torch._foreach_lerp_(list(average.parameters()), list(online.parameters()), 1 - momentum)


def pooled(backbone: nn.Module, view: Tensor) -> Tensor:
    """Return the global average pool ``(N, d_g)`` of the backbone's last output feature."""
    return F.adaptive_avg_pool2d(feature_map(backbone, view), 1).flatten(1)


def pooled_views(backbone: nn.Module, views: Sequence[Tensor]) -> Tensor:
    """Return g ``(N, V, d_g)`` of V views ``(N, 3, H, W)``, whose sizes may differ.

    Successive views of one size share a pass, and so the statistics of BatchNorm, image after
    image: a part of the batch that is normalised apart holds all of its images' views.

    Source: multi-crop in the code of SwAV and DINO, which call the backbone once per size.
    """
    parts = []
    for _, group in itertools.groupby(views, key=lambda view: view.shape[2:]):
        same = torch.stack(list(group), dim=1)
        parts.append(pooled(backbone, same.flatten(0, 1)).unflatten(0, same.shape[:2]))
    return torch.cat(parts, dim=1)


def feature_map(backbone: nn.Module, view: Tensor) -> Tensor:
    """Return the backbone's last output feature ``(N, d_g, S, S)``."""
    return list(backbone(view).values())[-1]


def zero_last_norms(backbone: nn.Module) -> None:
    """Let every residual block start as the identity: γ = 0 in its last normalisation.

    Source: arXiv 1706.02677, section 5.1; Detectron2's ResNet starts with γ = 1.
    """
    for block in backbone.modules():
        if isinstance(block, BasicBlock | BottleneckBlock):
            last = block.conv3 if isinstance(block, BottleneckBlock) else block.conv2
            nn.init.zeros_(last.norm.weight)
