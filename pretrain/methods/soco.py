"""SoCo: an object of one view predicts itself in another, through FPN and box head (2106.02637).

Wei et al., arXiv 2106.02637. Shape legend: N images, V views, B = V - 1 pairs of the first view and
another, K boxes of a pair, L levels of the pyramid, P = L·K rows of a pair; d channels of a
projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from torch import Tensor, nn

from mls_d2.config.options import option
from mls_d2.config.rules import Rule, are_numbers, at_least, within
from mls_d2.core.errors import UserError
from mls_d2.data.proposals import Proposals
from pretrain.batch import Batch, StepOutput
from pretrain.encoder import Encoder, zero_last_norms
from pretrain.fpn import FPN
from pretrain.geometry import aligned_regions
from pretrain.heads import mlp
from pretrain.losses_dense import object_loss
from pretrain.methods.base import METHODS, MomentumMethod, spread
from pretrain.proposing import proposals_from_config
from pretrain.sources import ImageSource
from pretrain.views import Crop, Crops, LoaderExtra, crops_from_config
from pretrain.views.boxes import ObjectBoxes

FEATURES = ("res2", "res3", "res4", "res5")
_CELLS = 7  # along each side of what the box head takes, MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
_LIMITS = Rule(
    lambda sides: are_numbers(sides, 3) and 0 < sides[0] < sides[1] < sides[2],
    "three numbers > 0 that increase, in pixels of the view",
)


class ObjectEncoder(Encoder):
    """Backbone, FPN, box head and projector: what a detector has up to its predictors.

    Args:
        backbone: with features from res2 to res5.
        neck: the FPN.
        box_head: ``(M, dim, 7, 7) → (M, width)``.
        projector: ``(M, width) → (M, d)``.
    """

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, box_head: nn.Module, projector: nn.Module
    ) -> None:
        super().__init__(backbone, projector)
        self.neck, self.box_head = neck, box_head

    def forward(  # type: ignore[override]
        self, view: Tensor, boxes: Tensor
    ) -> tuple[Tensor, ...]:
        """Return g ``(N, d_g)`` of a view, and z ``(N, B, L, K, d)`` of its boxes on every level.

        Args:
            view: ``(N, 3, H, W)``.
            boxes: ``(N, B, K, 4)`` in shares of the view.
        """
        features = self.backbone(view)
        levels = reversed(self.neck(features))
        pooled = [aligned_regions(level, boxes.flatten(1, 2), _CELLS) for level in levels]
        regions = torch.stack([part.unflatten(1, boxes.shape[1:3]) for part in pooled], dim=2)
        heads = nn.Sequential(self.box_head, self.projector)
        return features["res5"].mean(dim=(2, 3)), level_by_level(heads, regions)


@METHODS.register("soco")
class SoCo(MomentumMethod):
    """BYOL of objects, between the whole image and each of its other views, in both orders.

    Views are the whole image, a crop, and by ``PRETRAIN.AUGMENT.LOCAL_CROPS`` smaller crops. FPN
    and box head are transferred with the backbone.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MomentumMethod.Options):
        """Objects, the parts of the detector, and heads."""

        group = "SOCO"
        boxes: int = option(4, "objects of a pair of views", at_least(1), symbol="K")
        jitter_prob: float = option(
            0.5, "how often a box of the whole image is moved by up to a tenth", within(1)
        )
        level_limits: tuple[float, float, float] = option(
            (48, 96, 192), "largest side of a box on the levels P2, P3 and P4, in pixels", _LIMITS
        )
        dim: int = option(
            256, "channels of a level, MODEL.FPN.OUT_CHANNELS of the transfer", at_least(1)
        )
        head_convs: int = option(
            4, "convolutions of the box head, ROI_BOX_HEAD.NUM_CONV", at_least(0)
        )
        conv_dim: int = option(256, "their channels, ROI_BOX_HEAD.CONV_DIM", at_least(1))
        fc_dim: int = option(
            1024, "width of its fully connected layer, ROI_BOX_HEAD.FC_DIM", at_least(1)
        )
        hidden_dim: int = option(
            4096, "width of the hidden layer of projector and predictor", at_least(1)
        )
        out_dim: int = option(256, "width of a projection", at_least(1))

    takes_local_views = True

    options: SoCo.Options
    encoder: ObjectEncoder

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the values that belong to the method."""
        super().check_config(cfg)
        given = tuple(cfg.MODEL.RESNETS.OUT_FEATURES)
        if given != FEATURES:
            raise UserError(
                f"PRETRAIN.METHOD 'soco' needs the maps of an FPN: set MODEL.RESNETS.OUT_FEATURES "
                f"to {list(FEATURES)}, got {list(given)}",
                code="bad-value",
            )

    @classmethod
    def inputs(cls, cfg: CfgNode, source: ImageSource) -> dict[str, tuple[str, str]]:
        """Return the proposals."""
        proposals = proposals_from_config(cfg, source)
        return {"PRETRAIN.PROPOSALS": (proposals.path, proposals.digest)}

    @classmethod
    def loader_extras(cls, cfg: CfgNode) -> dict[str, LoaderExtra]:
        """Return ``boxes``, the objects of each pair of views."""
        options, path = cls.Options.from_config(cfg), cfg.PRETRAIN.PROPOSALS
        # A run has a file by now; a plan or a check of a machine has no images.
        source = Proposals(path) if path else WholeImages()
        boxes = ObjectBoxes(source, count=options.boxes, jitter_prob=options.jitter_prob)
        return {"boxes": boxes}

    @classmethod
    def crops(cls, cfg: CfgNode) -> Crops:
        """Return the whole image, a crop, and the smaller crops."""
        return crops_from_config(cfg, WholeAndCrops)

    def __init__(self, backbone: nn.Module, feature_dim: int, options: SoCo.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        zero_last_norms(backbone)
        shapes = backbone.output_shape()  # type: ignore[operator]
        channels = {name: shapes[name].channels for name in FEATURES}
        box_head = FastRCNNConvFCHead(
            ShapeSpec(channels=options.dim, height=_CELLS, width=_CELLS),
            conv_dims=[options.conv_dim] * options.head_convs,
            fc_dims=[options.fc_dim],
            conv_norm="BN",
        )
        hidden, out = options.hidden_dim, options.out_dim
        neck = FPN(channels, options.dim, norm="BN")
        projector = mlp(options.fc_dim, hidden, out)
        self.set_encoder(ObjectEncoder(backbone, neck, box_head, projector))
        self.predictor = mlp(out, hidden, out)

    def forward(self, batch: Batch) -> StepOutput:
        """Compute the losses of all pairs; ``boxes`` is what :class:`ObjectBoxes` brings."""
        boxes = batch.extras["boxes"]  # (N, B, 2, K, 5)
        shown = [boxes[:, :, 0, :, :4], *boxes[:, :, 1:, :, :4].unbind(dim=1)]
        views = list(zip(batch.views, shown, strict=True))
        online = [self.encoder(*view) for view in views]
        self.update_momentum_encoder(batch.progress)
        target = [rows(self.keys(*view)[1]) for view in views]
        predicted = [rows(level_by_level(self.predictor, z)) for _, z in online]

        sides = [view.shape[-1] for view in batch.views]
        limits, terms, unmatched = self.options.level_limits, [], []
        for pair, other in enumerate(range(1, len(views))):
            matched = matched_rows(boxes[:, pair], (sides[0], sides[other]), limits)
            terms += [
                object_loss(predicted[0][:, pair], target[other][:, 0], matched),
                object_loss(predicted[other][:, 0], target[0][:, pair], matched.mT),
            ]
            unmatched.append(~matched.flatten(1).any(dim=1))
        return StepOutput(
            losses={"loss_object": torch.stack(terms).sum()},
            metrics={
                "objects": distinct(boxes[:, :, 0, :, 4]).float().mean(),
                "unmatched_images": torch.stack(unmatched).float().mean(),
                "whole_images": (boxes[:, :, 0, 0, 4] < 0).float().mean(),
                "feature_std": spread(online[0][0]),
                "embedding_std": spread(online[0][1].flatten(0, 3)),
            },
        )

    def export(self) -> dict[str, Tensor]:
        """Return backbone, FPN and box head."""
        parts = {"backbone": self.encoder.neck, "roi_heads.box_head": self.encoder.box_head}
        return super().export() | {
            f"{prefix}.{name}": value
            for prefix, part in parts.items()
            for name, value in part.state_dict().items()
        }


class WholeImages:
    """Stands for the proposals of images that have none."""

    def boxes(self, place: int) -> np.ndarray:
        """Return no box ``(0, 4)``."""
        return np.zeros((0, 4), np.float32)


class WholeAndCrops(Crops):
    """The first view is the whole image, resized to a square; the others are crops."""

    def draw(self, place: int, height: int, width: int, rng: np.random.Generator) -> list[Crop]:
        """Draw the views of an image of ``height`` × ``width`` pixels, each flipped by itself."""
        _, *others = super().draw(place, height, width, rng)
        return [Crop(0, 0, width, height, bool(rng.random() < self.flip_prob)), *others]


def level_by_level(head: nn.Module, parts: Tensor) -> Tensor:
    """Apply a head to the boxes of each pair and level by themselves: ``(N, B, L, K, …)``.

    So BatchNorm takes its statistics over N·K rows of one level, as in the authors' code, rows of
    boxes that belong on another level among them.
    """
    pairs = [
        torch.stack([head(p.flatten(0, 1)).unflatten(0, p.shape[:2]) for p in pair.unbind(1)], 1)
        for pair in parts.unbind(dim=1)
    ]
    return torch.stack(pairs, dim=1)


def rows(parts: Tensor) -> Tensor:
    """Return ``(N, B, L, K, d)`` as ``(N, B, P, d)``, level after level."""
    return parts.flatten(2, 3)


def box_levels(boxes: Tensor, side: int, limits: Sequence[float]) -> Tensor:
    """Return the level of each box, 0 for P2: how many limits the root of its area exceeds.

    Args:
        boxes: ``(…, 4)`` in shares of the view.
        side: of the view in pixels.
        limits: of the levels below the last, in pixels.

    Returns:
        ``(…,)`` int64.

    Source: SoCo (arXiv 2106.02637), section 3, "scale-aware assignment".
    """
    root = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1).sqrt() * side
    return torch.stack([root > limit for limit in limits]).sum(dim=0)


def matched_rows(boxes: Tensor, sides: tuple[int, int], limits: Sequence[float]) -> Tensor:
    """Return which rows of two views are the same object, each on the level where it belongs.

    Args:
        boxes: ``(N, 2, K, 5)`` of both views, in shares, with the numbers of their objects.
        sides: of the views in pixels.
        limits: as in :func:`box_levels`.

    Returns:
        ``(N, P, P)`` bool; row l·K + k is box k on level l. Copies of an object match one another.
    """
    levels = torch.arange(len(limits) + 1, device=boxes.device).view(-1, 1)
    assigned = [
        (box_levels(boxes[:, view, None, :, :4], side, limits) == levels).flatten(1)
        for view, side in enumerate(sides)
    ]
    numbers = boxes[..., 4].repeat(1, 1, len(levels))
    same = numbers[:, 0].unsqueeze(2) == numbers[:, 1].unsqueeze(1)
    return same & assigned[0].unsqueeze(2) & assigned[1].unsqueeze(1)


def distinct(numbers: Tensor) -> Tensor:
    """Return how many different numbers there are along the last dimension: ``(…, K) → (…,)``."""
    repeated = (numbers.unsqueeze(-1) == numbers.unsqueeze(-2)).tril(-1).any(dim=-1)
    return (~repeated).sum(dim=-1)
