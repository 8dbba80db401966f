"""ReSim: a region of one view finds itself in the other, on C4 or an FPN (arXiv 2103.12902).

Shape legend: N images, R windows of a view, d channels of a region's embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from mls_d2.config.options import option
from mls_d2.config.rules import Rule, at_least, one_of
from mls_d2.core.errors import UserError
from pretrain.batch import Batch, StepOutput
from pretrain.batchnorm import gather
from pretrain.dictionary import Dictionary
from pretrain.encoder import Encoder
from pretrain.fpn import FPN
from pretrain.geometry import carried_boxes, inside, pooled_regions, window_grid
from pretrain.heads import contrast_projector
from pretrain.losses import info_nce_from_similarities, similarities
from pretrain.losses_dense import region_similarity_loss
from pretrain.methods.base import METHODS, DictionaryMethod, contrast_metrics
from pretrain.numerics import wide
from pretrain.views import Crop, Crops, crops_from_config
from pretrain.views.crops import random_crop

# Backbone features that each variant needs.
FEATURES = {"fpn": ("res3", "res4", "res5"), "c4": ("res4", "res5")}
_SIDE_AND_STRIDE = Rule(
    lambda pair: len(pair) == 2 and all(isinstance(x, int) and x >= 1 for x in pair),
    "two whole numbers >= 1, side and stride",
)


class C4Neck(nn.Module):
    """One 1x1 convolution on C4; the authors' own is not public."""

    def __init__(self, channels: dict[str, int], dim: int) -> None:
        super().__init__()
        self.region_conv = nn.Conv2d(channels["res4"], dim, 1)
        c2_xavier_fill(self.region_conv)

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return the map of level 4."""
        return [self.region_conv(features["res4"])]


class RegionEncoder(Encoder):
    """Returns g ``(N, d_g)``, z ``(N, d_z)`` and the maps of the neck, ``(N, d, S_l, S_l)``."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, neck: nn.Module) -> None:
        super().__init__(backbone, projector)
        self.neck = neck

    def forward(self, view: Tensor) -> tuple[Tensor, ...]:
        """Return g, z and the maps of a view."""
        features = self.backbone(view)
        g = features["res5"].mean(dim=(2, 3))
        return g, self.projector(g), *self.neck(features)


@METHODS.register("resim")
class ReSim(DictionaryMethod):
    """MoCo-v2 of images, and InfoNCE of sliding windows that lie in both views.

    The laterals and outputs of the FPN variant are transferred with the backbone.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(DictionaryMethod.Options):
        """Levels, windows and negatives."""

        group = "RESIM"
        neck: str = option("fpn", "'fpn' (levels 4 and 3) or 'c4' (level 4)", one_of(FEATURES))
        dim: int = option(
            256, "channels of a level, MODEL.FPN.OUT_CHANNELS of the transfer", at_least(1)
        )
        c4_windows: tuple[int, int] = option(
            (48, 32), "side and stride of level 4's windows, in pixels", _SIDE_AND_STRIDE
        )
        c3_windows: tuple[int, int] = option(
            (32, 24), "side and stride of level 3's windows, in pixels", _SIDE_AND_STRIDE
        )
        c3_images: int = option(
            32, "images of one process that share their negatives of level 3", at_least(1)
        )

    options: ReSim.Options
    encoder: RegionEncoder

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the values that belong to the method."""
        super().check_config(cfg)
        node, size = cfg.RESIM, cfg.PRETRAIN.AUGMENT.CROP_SIZE
        wanted, given = FEATURES[node.NECK], tuple(cfg.MODEL.RESNETS.OUT_FEATURES)
        if not set(wanted) <= set(given) or given[-1] != "res5":
            raise UserError(
                f"RESIM.NECK '{node.NECK}' needs the maps {list(wanted)}, res5 last: set "
                f"MODEL.RESNETS.OUT_FEATURES to them, got {list(given)}",
                code="bad-value",
            )
        keys = ("C4_WINDOWS", "C3_WINDOWS")[: len(wanted) - 1]
        largest = max(node[key][0] for key in keys)
        # Negatives are means of 3 x 3 cells of level 4, which has a cell for 16 pixels.
        if size <= largest or size < 48:
            raise UserError(
                f"PRETRAIN.AUGMENT.CROP_SIZE must be >= 48 and above the side of RESIM's windows, "
                f"{largest}, got {size}",
                code="bad-value",
            )

    @classmethod
    def crops(cls, cfg: CfgNode) -> Crops:
        """Return two views that are mirrored together."""
        return crops_from_config(cfg, MirroredTogether)

    def __init__(self, backbone: nn.Module, feature_dim: int, options: ReSim.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        shapes = backbone.output_shape()  # type: ignore[operator]
        channels = {name: shape.channels for name, shape in shapes.items()}
        neck = (
            FPN(channels, options.dim, outputs=(3, 4))
            if options.neck == "fpn"
            else C4Neck(channels, options.dim)
        )
        hidden, out = options.projector_hidden_dim, options.projector_out_dim
        projector = contrast_projector(feature_dim, hidden, out, norm=options.projector_norm)
        self.set_encoder(RegionEncoder(backbone, projector, neck))
        self.dictionary = Dictionary(options.dictionary_size, {"z": out})

    def forward(self, batch: Batch) -> StepOutput:
        """Compute InfoNCE of images, and of regions on every level."""
        temperature = self.options.temperature
        g1, z1, *maps1 = self.encoder(batch.views[0])
        self.update_momentum_encoder(batch.progress)
        _, z2, *maps2 = self.keys(batch.views[1])
        z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)
        positive, negative = similarities(z1, z2, self.dictionary["z"])

        losses = {"loss_nce": info_nce_from_similarities(positive, negative, temperature)}
        metrics = contrast_metrics(positive, negative, g1)
        for level, one, other in zip((4, 3), maps1, maps2, strict=False):
            loss, valid = self.region_loss(level, one, other, batch)
            losses[f"loss_c{level}"] = loss
            metrics[f"windows_c{level}"] = valid.float().sum(dim=1).mean()
            metrics[f"unmatched_images_c{level}"] = (~valid.any(dim=1)).float().mean()
        return StepOutput(losses=losses, metrics=metrics, keys={"z": z2})

    def region_loss(
        self, level: int, query_map: Tensor, key_map: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a level, and which windows ``(N, R)`` both views show."""
        size = batch.views[0].shape[-1]
        side, stride = self.options.c4_windows if level == 4 else self.options.c3_windows
        windows = window_grid(size, side, stride, device=query_map.device)
        carried = carried_boxes(windows, batch.rectangles[:2], batch.flips[:2], size)
        valid = inside(carried, size)
        # Windows outside the key are not pooled where they lie, but anywhere: they do not count.
        boxes = torch.where(valid.unsqueeze(2), carried, windows)
        scale = query_map.shape[-1] / size
        query = pooled_regions(query_map, windows.expand_as(boxes), scale)
        loss = region_similarity_loss(
            query,
            pooled_regions(key_map, boxes, scale),
            self.negatives(level, key_map),
            self.options.temperature,
            valid=valid,
            count=gather(valid.sum().float()[None]).mean(),
        )
        return loss, valid

    def negatives(self, level: int, key_map: Tensor) -> Tensor:
        """Return the means over 3 × 3 cells of the keys: the other regions.

        Those of level 4 are all processes'; those of level 3, which are five times as many, are of
        ``c3_images`` images each.

        Returns:
            ``(M, d)`` for level 4, ``(G, M, d)`` for level 3.
        """
        with torch.autocast(key_map.device.type, enabled=False):
            cells = F.avg_pool2d(wide(key_map), 3, stride=1).flatten(2).mT
        if level == 4:
            return gather(cells.flatten(0, 1))
        images = math.gcd(len(cells), self.options.c3_images)
        return cells.reshape(len(cells) // images, -1, cells.shape[2])

    def export(self) -> dict[str, Tensor]:
        """Return the backbone and, of the FPN variant, the layers of the FPN."""
        tensors = super().export()
        if self.options.neck == "fpn":
            layers = self.encoder.neck.state_dict()
            tensors |= {f"backbone.{name}": value for name, value in layers.items()}
        return tensors


class MirroredTogether(Crops):
    """Draws one flip for both crops: windows are carried from one to the other."""

    def draw(self, place: int, height: int, width: int, rng: np.random.Generator) -> list[Crop]:
        """Draw the two crops of an image of ``height`` × ``width`` pixels."""
        flipped = float(rng.random() < self.flip_prob)
        scale = self.groups[0].scale
        return [random_crop(height, width, scale, flipped, rng) for _ in range(2)]
