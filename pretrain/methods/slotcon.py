"""SlotCon: pixels group to slots, and slots of a prototype recognise each other (arXiv 2205.15288).

Shape legend: N images, S × S positions of a map, K prototypes, d channels of a projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from mls_d2.config.options import option
from mls_d2.config.rules import above, at_least, below_one, within
from mls_d2.core.errors import UserError
from pretrain.batch import Batch, StepOutput
from pretrain.batchnorm import gather
from pretrain.encoder import Encoder, feature_map, zero_last_norms
from pretrain.geometry import aligned_maps, overlap_boxes
from pretrain.losses_dense import grouping_loss, slot_loss
from pretrain.methods.base import METHODS, MomentumMethod, spread
from pretrain.numerics import wide
from pretrain.views import Crop, Crops, crops_from_config
from pretrain.views.crops import random_crop

# Least share of the second crop that the first must show, and how often another is drawn for it.
_LEAST_OVERLAP, _TRIES = 0.01, 10


class Groups(NamedTuple):
    """A view's pixels and their prototypes.

    Attributes:
        g: ``(N, d_g)`` the pooled backbone feature.
        x: ``(N, d, S, S)`` projected pixels.
        dots: ``(N, K, S, S)`` cosines of pixels and prototypes.
    """

    g: Tensor
    x: Tensor
    dots: Tensor


class SlotEncoder(Encoder):
    """Backbone, projector and K prototypes, drawn from N(0, 1)."""

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, num_prototypes: int, dim: int
    ) -> None:
        super().__init__(backbone, projector)
        self.prototypes = nn.Parameter(torch.randn(num_prototypes, dim))

    def forward(self, view: Tensor) -> tuple[Tensor, ...]:
        """Return the :class:`Groups` of a view."""
        features = feature_map(self.backbone, view)
        x = self.projector(features)
        with torch.autocast(view.device.type, enabled=False):
            unit = F.normalize(wide(x), dim=1)
            prototypes = F.normalize(self.prototypes.to(unit.dtype), dim=1)
            dots = torch.einsum("ndhw,kd->nkhw", unit, prototypes)
        return Groups(features.mean(dim=(2, 3)), x, dots)


@METHODS.register("slotcon")
class SlotCon(MomentumMethod):
    """Online deep clustering of pixels, and InfoNCE between the slots that clusters make.

    The EMA copy, the teacher, is what is transferred.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MomentumMethod.Options):
        """Heads, prototypes, temperatures and weights."""

        group = "SLOTCON"
        hidden_dim: int = option(4096, "width of the heads' hidden layers", at_least(1))
        out_dim: int = option(256, "width of a projection, a prototype and a slot", at_least(1))
        num_prototypes: int = option(256, "256 on COCO, 2048 on ImageNet", at_least(2), symbol="K")
        student_temperature: float = option(0.1, "of the grouping loss", above(0), symbol="τ_s")
        teacher_temperature: float = option(
            0.07, "of the grouping loss, and of slots in both networks", above(0), symbol="τ_t"
        )
        slot_temperature: float = option(0.2, "of the slot loss", above(0), symbol="τ_c")
        centre_momentum: float = option(0.9, "of the centre of the teacher's cosines", below_one())
        grouping_weight: float = option(
            0.5, "of the grouping loss; 1 - λ is that of the slot loss", within(1), symbol="λ_g"
        )

    options: SlotCon.Options
    encoder: SlotEncoder
    centre: Tensor

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the values that belong to the method."""
        super().check_config(cfg)
        if cfg.PRETRAIN.BATCH_NORM_GROUPS > 1:
            raise UserError(
                "slotcon predicts from a varying number of slots, which PRETRAIN.BATCH_NORM_GROUPS "
                f"cannot divide: set it to 1, got {cfg.PRETRAIN.BATCH_NORM_GROUPS}",
                code="bad-value",
            )

    @classmethod
    def crops(cls, cfg: CfgNode) -> Crops:
        """Return two views of which the second mostly overlaps the first."""
        return crops_from_config(cfg, OverlappingCrops)

    def __init__(self, backbone: nn.Module, feature_dim: int, options: SlotCon.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        hidden, out = options.hidden_dim, options.out_dim
        zero_last_norms(backbone)
        projector = three_layers(feature_dim, hidden, out, dense=True)
        self.set_encoder(SlotEncoder(backbone, projector, options.num_prototypes, out))
        self.predictor = three_layers(out, hidden, out, dense=False)
        self.register_buffer("centre", torch.zeros(options.num_prototypes))

    def forward(self, batch: Batch) -> StepOutput:
        """Compute the grouping and the slot loss in both orders of the views."""
        student = [Groups(*self.encoder(view)) for view in batch.views]
        self.update_momentum_encoder(batch.progress)
        teacher = [Groups(*self.keys(view)) for view in batch.views]

        boxes, overlap = overlap_boxes(batch.rectangles, batch.flips)
        weight = self.options.grouping_weight
        active = active_prototypes(student[0].dots)
        common = active & active_prototypes(teacher[1].dots)
        return StepOutput(
            losses={
                "loss_grouping": self.grouping(student, teacher, batch.flips, boxes, overlap),
                "loss_slot": self.slots(student[0], teacher[1])
                + self.slots(student[1], teacher[0]),
            },
            weights={"loss_grouping": weight, "loss_slot": 1 - weight},
            metrics={
                "active_prototypes": active.float().sum(dim=1).mean(),
                "used_prototypes": active.any(dim=0).float().mean(),
                "views_apart": (~overlap).float().mean(),
                "unmatched_images": (~common.any(dim=1)).float().mean(),
                "feature_std": spread(student[0].g),
                "embedding_std": spread(student[0].x.mean(dim=(2, 3))),
            },
            # Mean cosines of both views, whole: what moves the centre.
            keys={
                "centre": torch.stack([t.dots.mean(dim=(0, 2, 3)) for t in teacher]).mean(0)[None]
            },
        )

    def grouping(
        self,
        student: list[Groups],
        teacher: list[Groups],
        flips: Tensor,
        boxes: Tensor,
        overlap: Tensor,
    ) -> Tensor:
        """Return the loss of both orders, where the views show the same places.

        Views that do not overlap have cosines of 0: a constant without gradient.
        """
        s, t = (
            [
                aligned_maps(view.dots, box, flip, overlap)
                for view, box, flip in zip(views, boxes, flips, strict=True)
            ]
            for views in (student, teacher)
        )
        temperatures = {
            "student_temperature": self.options.student_temperature,
            "teacher_temperature": self.options.teacher_temperature,
        }
        one = grouping_loss(s[0], t[1], self.centre, **temperatures)
        return one + grouping_loss(s[1], t[0], self.centre, **temperatures)

    def slots(self, student: Groups, teacher: Groups) -> Tensor:
        """Return the loss of one order: the student's slots find the teacher's."""
        temperature = self.options.teacher_temperature
        slots = pooled_slots(student.x, student.dots, temperature)
        keys = pooled_slots(teacher.x, teacher.dots, temperature)
        there = active_prototypes(teacher.dots)
        common = active_prototypes(student.dots) & there
        # BatchNorm needs two rows: with fewer, all slots go through the predictor, and the active
        # ones count. How many they are, the host has to wait for, once per order.
        chosen = (common | (common.sum() < 2)).nonzero(as_tuple=True)

        # No more prototypes of an image are active than it has positions.
        most = min(there.shape[1], teacher.dots[0, 0].numel())
        valid, first = there.float().topk(most, dim=1)
        candidates = keys.gather(1, first.unsqueeze(2).expand(-1, -1, keys.shape[2]))
        return slot_loss(
            self.predictor(slots[chosen]),
            keys[chosen],
            gather(candidates.flatten(0, 1)),
            self.options.slot_temperature,
            counted=common[chosen],
            valid=gather(valid.flatten()) > 0,
            count=gather(common.sum().float()[None]).mean(),
        )

    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Move the centre: c ← 0.9 c + 0.1 times the mean of the teacher's cosines."""
        self.centre.lerp_(keys["centre"].mean(dim=0), 1 - self.options.centre_momentum)

    def export(self) -> dict[str, Tensor]:
        """Return the teacher's backbone, as the authors do."""
        return self.momentum_encoder.backbone.state_dict()


def pooled_slots(x: Tensor, dots: Tensor, temperature: float) -> Tensor:
    """Return the mean of pixels, weighted by their share in each prototype.

    ``A = softmax_K(dots/τ) + 1e-6``, slot_k = Σ_p A_kp x_p / Σ_p A_kp.

    Args:
        x: ``(N, d, S, S)``, not normalised.
        dots: ``(N, K, S, S)`` cosines.
        temperature: τ > 0.

    Returns:
        ``(N, K, d)``, float32 at least.

    Source: SlotCon (arXiv 2205.15288), section 3.2; 1e-6 is of its code.
    """
    x = wide(x)
    shares = (dots.to(x.dtype).flatten(2) / temperature).softmax(dim=1) + 1e-6
    with torch.autocast(x.device.type, enabled=False):
        return shares @ x.flatten(2).mT / shares.sum(dim=2, keepdim=True)


def active_prototypes(dots: Tensor) -> Tensor:
    """Return ``(N, K)`` bool: which prototypes are nearest to some position of ``(N, K, S, S)``."""
    nearest = dots.flatten(2).argmax(dim=1)
    found = torch.zeros(dots.shape[:2], dtype=torch.bool, device=dots.device)
    return found.scatter_(1, nearest, True)


class OverlappingCrops(Crops):
    """Draws the second crop until a hundredth of it at least lies in the first one.

    After ten tries it takes what comes. Source: SlotCon's code (data/transforms.py at 30ff33d).
    """

    def draw(self, place: int, height: int, width: int, rng: np.random.Generator) -> list[Crop]:
        """Draw the two crops of an image of ``height`` × ``width`` pixels."""
        drawn = self._endless(height, width, rng)
        first = next(drawn)
        for _ in range(_TRIES):
            second = next(drawn)
            if shared_area(first, second) >= _LEAST_OVERLAP * second.width * second.height:
                return [first, second]
        return [first, next(drawn)]

    def _endless(self, height: int, width: int, rng: np.random.Generator) -> Iterator[Crop]:
        while True:
            yield random_crop(height, width, self.groups[0].scale, self.flip_prob, rng)


def shared_area(one: Crop, other: Crop) -> int:
    """Return the pixels that both crops show."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return max(0, width) * max(0, height)


def three_layers(in_dim: int, hidden_dim: int, out_dim: int, *, dense: bool) -> nn.Sequential:
    """Return SlotCon's head: three linear layers, BatchNorm and GELU between them.

    Weights are drawn from a normal distribution with σ = 0.02, cut at ±2.

    Args:
        in_dim: channels of the input.
        hidden_dim: channels between.
        out_dim: channels of the output.
        dense: whether it maps ``(N, C, S, S)`` with 1x1 convolutions, or ``(M, C)``.
    """

    def layer(before: int, after: int, *, bias: bool) -> nn.Conv2d | nn.Linear:
        made: nn.Conv2d | nn.Linear
        made = nn.Conv2d(before, after, 1, bias=bias) if dense else nn.Linear(before, after, bias)
        nn.init.trunc_normal_(made.weight, std=0.02)
        if made.bias is not None:
            nn.init.zeros_(made.bias)
        return made

    norm = nn.BatchNorm2d if dense else nn.BatchNorm1d
    return nn.Sequential(
        layer(in_dim, hidden_dim, bias=False),
        norm(hidden_dim),
        nn.GELU(),
        layer(hidden_dim, hidden_dim, bias=False),
        norm(hidden_dim),
        nn.GELU(),
        layer(hidden_dim, out_dim, bias=True),
    )
