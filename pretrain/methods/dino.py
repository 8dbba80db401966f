"""DINO: learn what a centred, sharpened slow copy makes of other views (arXiv 2104.14294).

Shape legend: N images of this process, V views of each, the first T = 2 of which the teacher sees;
K prototypes, d channels of the bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mls_d2.config.options import option
from mls_d2.config.rules import above, at_least, below_one, one_of
from pretrain.batch import Batch, StepOutput
from pretrain.encoder import Encoder, pooled_views
from pretrain.losses_clustering import dino_loss
from pretrain.methods.base import METHODS, MomentumMethod, spread
from pretrain.methods.swav import prototype_spread


class Head(nn.Module):
    """An MLP with a bottleneck, and the cosines of its output with K prototypes.

    A linear layer whose weight norm has its gain fixed at 1, after L2-normalisation, is a cosine.

    Args:
        in_dim: width of the feature.
        hidden_dim: width of the MLP's two hidden layers.
        bottleneck_dim: its output d.
        num_prototypes: K.
        norm: "" for none, or "BN" for a BatchNorm in the hidden layers (use_bn_in_head).

    Source: DINO (arXiv 2104.14294), appendix C, and DINOHead of its code (7c446df): GELU, weights
    from a truncated normal of 0.02, biases 0.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, bottleneck_dim: int, num_prototypes: int, *, norm: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (in_dim, hidden_dim):
            layers.append(nn.Linear(before, hidden_dim))
            if norm:
                layers.append(nn.BatchNorm1d(hidden_dim))
            layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, bottleneck_dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(bottleneck_dim, num_prototypes, bias=False)

    def forward(self, g: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of features ``(N, in_dim)``, in [-1, 1]."""
        bottleneck = F.normalize(self.mlp(g).float(), dim=1)
        with torch.autocast(g.device.type, enabled=False):
            return bottleneck @ F.normalize(self.prototypes.weight.float(), dim=1).T


@METHODS.register("dino")
class DINO(MomentumMethod):
    """Every view of the student predicts the teacher's distribution over K prototypes of another.

    The teacher is the momentum encoder, which sees the first two views, moves after the optimizer's
    step, and is what is exported.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MomentumMethod.Options):
        """Head, temperatures, centre and the treatment of gradients."""

        group = "DINO"
        num_prototypes: int = option(65536, "prototypes", at_least(2), symbol="K")
        hidden_dim: int = option(2048, "width of the head's two hidden layers", at_least(1))
        bottleneck_dim: int = option(256, "width before the prototypes", at_least(1), symbol="d")
        head_norm: str = option(
            "",
            "norm in the head's hidden layers: '' (the paper) or 'BN' (small networks)",
            one_of(("", "BN")),
        )
        student_temperature: float = option(
            0.1, "temperature of the student", above(0), symbol="τ_s"
        )
        teacher_temperature: float = option(
            0.04, "temperature of the teacher", above(0), symbol="τ_t"
        )
        centre_momentum: float = option(
            0.9, "coefficient of the centre's moving average", below_one(), symbol="m"
        )
        clip_gradients: float = option(3.0, "largest norm of a tensor's gradient", above(0))
        freeze_epochs: float = option(1.0, "epochs before the prototypes learn", at_least(0))

    options: DINO.Options
    takes_local_views = True
    centre: Tensor

    def __init__(self, backbone: nn.Module, feature_dim: int, options: DINO.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        head = Head(
            feature_dim,
            options.hidden_dim,
            options.bottleneck_dim,
            options.num_prototypes,
            norm=options.head_norm,
        )
        self.set_encoder(Encoder(backbone, head))
        self.register_buffer("centre", torch.zeros(options.num_prototypes))
        self._epoch = self._progress = 0.0

    def forward(self, batch: Batch) -> StepOutput:
        """Compute Algorithm 1 over all views."""
        self._epoch, self._progress = batch.epoch, batch.progress
        g = pooled_views(self.encoder.backbone, batch.views)
        student = self.encoder.projector(g.flatten(0, 1)).unflatten(0, g.shape[:2])
        both = torch.stack(batch.views[:2], dim=1)
        _, teacher = self.keys(both.flatten(0, 1))
        teacher = teacher.unflatten(0, both.shape[:2])
        options = self.options
        loss = dino_loss(
            student,
            teacher,
            self.centre,
            student_temperature=options.student_temperature,
            teacher_temperature=options.teacher_temperature,
        )
        return StepOutput(
            losses={"loss_dino": loss},
            metrics={
                "prototype_spread": prototype_spread(teacher - self.centre),
                "feature_std": spread(g[:, 0]),
            },
            keys={"centre": teacher.mean(dim=(0, 1)).unsqueeze(0)},
        )

    def before_optimizer_step(self) -> None:
        """Clip the gradient of each tensor, and drop that of the prototypes at first."""
        trained = (weight.grad for weight in self.parameters() if weight.grad is not None)
        clip_each(list(trained), self.options.clip_gradients)
        if self._epoch < self.options.freeze_epochs:
            self._prototypes.grad = None

    def after_optimizer_step(self) -> None:
        """Move the teacher towards the student."""
        self.update_momentum_encoder(self._progress)

    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Move the centre towards the mean of the teacher's logits of all processes (Eq. 4)."""
        mean = keys["centre"].mean(dim=0).to(self.centre.dtype)
        self.centre.lerp_(mean, 1 - self.options.centre_momentum)

    def export(self) -> dict[str, Tensor]:
        """Return the teacher's backbone, which is what the authors transfer."""
        return self.momentum_encoder.backbone.state_dict()

    @property
    def _prototypes(self) -> Tensor:
        return cast(Head, self.encoder.projector).prototypes.weight


@torch.no_grad()
def clip_each(gradients: list[Tensor], largest: float) -> None:
    """Scale every gradient whose norm exceeds ``largest`` > 0 down to it, each for itself.

    Source: clip_gradients of DINO's code; torch's clip_grad_norm_ takes one norm over all tensors.
    """
    norms = torch.stack(torch._foreach_norm(gradients))
    factors = (largest / (norms + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, list(factors.unbind()))
