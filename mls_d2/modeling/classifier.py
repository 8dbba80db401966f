"""A ResNet that classifies whole images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from mls_d2.core.errors import UserError

TRAINED_HEADS = ("linear", "bn_linear")
FITTED_HEADS = ("svm", "knn")


class ImageClassifier(nn.Module):
    """A backbone, an average pool of its feature, and a head that scores the classes.

    A frozen backbone gets no gradients and is always in evaluation mode: neither its weights nor
    its running statistics change.

    Args:
        backbone: Detectron2's.
        head: from ``(N, d)`` features to ``(N, C)`` scores.
        feature: name of the backbone's output that is pooled.
        pool_size: side of the window of the average pool (stride 1, all means are concatenated);
            0 for the mean over all positions.
        num_classes: C.
        multi_label: train with the binary cross entropy of each class instead of the cross entropy.
        freeze_backbone: train the head alone.
        pixel_mean, pixel_std: of the channels, on the scale of 0 to 255.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        head: nn.Module,
        feature: str,
        pool_size: int = 0,
        num_classes: int,
        multi_label: bool,
        freeze_backbone: bool,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.feature, self.pool_size, self.num_classes = feature, pool_size, num_classes
        self.multi_label, self.freeze_backbone = multi_label, freeze_backbone
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        if freeze_backbone:
            self.backbone.requires_grad_(False)
        self.train()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments that a config asks for."""
        backbone = build_backbone(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
        feature = cfg.MODEL.RESNETS.OUT_FEATURES[-1]
        node = cfg.MODEL.CLASSIFIER
        shape = backbone.output_shape()[feature]
        cells = pooled_cells(-(-cfg.CLASSIFICATION.CROP_SIZE // shape.stride), node.POOL_SIZE)
        width = shape.channels * cells
        return {
            "backbone": backbone,
            "head": build_head(node.HEAD, width, node.NUM_CLASSES),
            "feature": feature,
            "pool_size": node.POOL_SIZE,
            "num_classes": node.NUM_CLASSES,
            "multi_label": node.MULTI_LABEL,
            "freeze_backbone": node.FREEZE_BACKBONE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> ImageClassifier:
        """Set the mode of all parts except a frozen backbone."""
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self

    def features(self, inputs: list[dict[str, Any]]) -> Tensor:
        """Return the pooled features ``(N, d)`` of N inputs with an ``image`` of equal size each.

        Images are ``(3, S, S)`` on the scale of 0 to 255.
        """
        images = torch.stack([item["image"] for item in inputs]).to(self.device)
        normalized = (images.float() - self.pixel_mean) / self.pixel_std
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_backbone):
            maps = self.backbone(normalized)[self.feature]
            if self.pool_size:
                return F.avg_pool2d(maps, self.pool_size, stride=1).flatten(1)
            return maps.mean(dim=(2, 3))

    def forward(self, inputs: list[dict[str, Any]]) -> Any:
        """Return ``{"loss_cls": …}`` in training mode, else ``[{"scores": (C,)}, …]``.

        Args:
            inputs: with ``image``, see :meth:`features`, and in training mode ``classes`` and
                ``difficult``, lists of int in [0, C). Difficult objects are positives here.
        """
        scores = self.head(self.features(inputs))
        if not self.training:
            return [{"scores": row} for row in scores]
        shown = targets_of(inputs, self.num_classes).to(scores.device)
        if self.multi_label:
            loss = F.binary_cross_entropy_with_logits(scores, shown.to(scores.dtype))
        else:
            loss = F.cross_entropy(scores, shown.long().argmax(dim=1))
        return {"loss_cls": loss}


def targets_of(
    inputs: Sequence[dict[str, Any]], num_classes: int, *, difficult: bool = True
) -> Tensor:
    """Return ``(N, C)`` bool: the classes that inputs show, with or without difficult objects."""
    targets = torch.zeros(len(inputs), num_classes, dtype=torch.bool)
    for row, item in zip(targets, inputs, strict=True):
        row[[*item["classes"], *(item["difficult"] if difficult else ())]] = True
    return targets


def pooled_cells(side: int, pool_size: int) -> int:
    """Return the number of means per channel of a map of ``side`` x ``side`` positions.

    Raises:
        UserError: a window larger than the map.
    """
    if not 0 <= pool_size <= side:
        raise UserError(
            f"MODEL.CLASSIFIER.POOL_SIZE is {pool_size}, expected 0 to {side}, the side of the "
            "backbone's map; 0 takes the mean over all of it",
            code="bad-value",
        )
    return (side - pool_size + 1) ** 2 if pool_size else 1


def build_head(name: str, width: int, num_classes: int) -> nn.Module:
    """Return a head on features of ``width`` channels.

    Args:
        name: ``"linear"``; ``"bn_linear"``, after a BatchNorm without weights, so that one learning
            rate fits features of any scale (He et al., arXiv 2111.06377, appendix A.1); or a head
            that is fitted later, which until then is the identity.
        width: d.
        num_classes: C.
    """
    if name in FITTED_HEADS:
        return nn.Identity()
    linear = nn.Linear(width, num_classes)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    if name == "linear":
        return linear
    # Over all processes, so that they evaluate with the same statistics; over one it is BatchNorm.
    return nn.Sequential(nn.SyncBatchNorm(width, affine=False), linear)
