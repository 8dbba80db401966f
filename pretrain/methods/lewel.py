"""LEWEL: BYOL of the mean and of means that alignment maps weigh (CVPR 2022, arXiv 2203.14898).

Shape legend: N images, P positions of the backbone's map, row by row; d_g channels of a position;
d channels of a projection, h groups of channels, K = d / h aligned vectors of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mls_d2.config.options import option
from mls_d2.config.rules import above, at_least, within
from mls_d2.core.errors import UserError
from pretrain.batch import Batch, StepOutput
from pretrain.encoder import Encoder, feature_map
from pretrain.heads import mlp
from pretrain.losses import negative_cosine
from pretrain.methods.base import METHODS, spread
from pretrain.methods.byol import BYOL
from pretrain.numerics import check_temperature, wide


class AligningEncoder(Encoder):
    """Returns g ``(N, d_g)``, z ``(N, d)`` of the mean, and o ``(N, K, d)`` of aligned vectors.

    ``projector[0]`` projects the mean and every position, ``projector[1]`` the aligned vectors. A
    BatchNorm of either sees the rows of an image one after the other.

    Args:
        backbone: see :class:`Encoder`.
        projector: two MLPs ``(rows, d_g) → (rows, d)``.
        temperature: of the alignment maps.
        groups: h.
    """

    projector: nn.ModuleList

    def __init__(
        self, backbone: nn.Module, projector: nn.ModuleList, *, temperature: float, groups: int
    ) -> None:
        super().__init__(backbone, projector)
        self.temperature, self.groups = temperature, groups

    def forward(self, view: Tensor) -> tuple[Tensor, ...]:
        """Return g, z and o of a view."""
        positions = feature_map(self.backbone, view).flatten(2).mT
        g = positions.mean(dim=1)
        projected = by_rows(self.projector[0], torch.cat([g.unsqueeze(1), positions], dim=1))
        maps = alignment_maps(projected[:, 1:], self.temperature)
        aligned = aligned_vectors(positions, maps, self.groups)
        return g, projected[:, 0], by_rows(self.projector[1], aligned)


@METHODS.register("lewel")
class LEWEL(BYOL):
    """LEWEL_B: BYOL, whose projector of every position also weighs the positions.

    Heads have the widths of ``BYOL`` and no biases; the aligned vectors have their own.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(BYOL.Options):
        """Alignment maps and the weights of the two losses."""

        group = "LEWEL"
        groups: int = option(
            4, "groups of channels; d_g and BYOL.OUT_DIM are multiples", at_least(1), symbol="h"
        )
        temperature: float = option(1.0, "temperature of the alignment maps", above(0))
        instance_weight: float = option(
            0.5, "weight of the mean's loss; the rest is that of the aligned vectors", within(1)
        )

        def joint_rules(self) -> Iterator[tuple[str, bool, str]]:
            """Yield that the groups divide the maps."""
            divides = self.out_dim % self.groups == 0
            yield "LEWEL.GROUPS", divides, f"a divisor of BYOL.OUT_DIM {self.out_dim}"

    options: LEWEL.Options

    def build(self, backbone: nn.Module, feature_dim: int) -> None:
        """Make encoder, momentum encoder and both predictors."""
        options = self.options
        hidden, out = options.hidden_dim, options.out_dim
        if feature_dim % options.groups:
            raise UserError(
                f"LEWEL.GROUPS must divide the backbone's {feature_dim} channels, got "
                f"{options.groups}",
                code="bad-value",
            )
        heads = [
            mlp(width, hidden, out, last_norm=nn.Identity())
            for width in (feature_dim, feature_dim, out, out)
        ]
        self.set_encoder(
            AligningEncoder(
                backbone,
                nn.ModuleList(heads[:2]),
                temperature=options.temperature,
                groups=options.groups,
            )
        )
        self.predictor, self.aligned_predictor = heads[2:]

    def forward(self, batch: Batch) -> StepOutput:
        """Compute both losses in both orders of the views."""
        self._progress = batch.progress
        online = [self.encoder(view) for view in batch.views]
        target = [self.keys(view) for view in batch.views]
        predicted = [(self.predictor(z), by_rows(self.aligned_predictor, o)) for _, z, o in online]
        means, aligned = [], []
        for (p, p_aligned), (_, z, o) in zip(predicted, reversed(target), strict=True):
            means.append(negative_cosine(p, z))
            aligned.append(negative_cosine(p_aligned.flatten(0, 1), o.flatten(0, 1)))
        weight = self.options.instance_weight
        return StepOutput(
            losses={
                "loss_instance": (2 + 2 * means[0]) + (2 + 2 * means[1]),
                "loss_aligned": (2 + 2 * aligned[0]) + (2 + 2 * aligned[1]),
            },
            weights={"loss_instance": weight, "loss_aligned": 1 - weight},
            metrics={
                "positive_similarity": -(means[0] + means[1]).detach() / 2,
                "feature_std": spread(online[0][0]),
                "embedding_std": spread(online[0][1]),
            },
        )


def alignment_maps(projected: Tensor, temperature: float) -> Tensor:
    """Return d maps of each image, each a distribution over its positions.

    ``A_p = softmax over p of (x_p / ‖x_p‖ / s)``: every position has length 1 before.

    Args:
        projected: x ``(N, P, d)``.
        temperature: s > 0.

    Returns:
        ``(N, P, d)`` in [0, 1]; each column of an image sums to 1. Float32 at least.

    Raises:
        ValueError: s <= 0.

    Source: LEWEL (arXiv 2203.14898), in the form of its code.
    """
    check_temperature(temperature)
    return (F.normalize(wide(projected), dim=2) / temperature).softmax(dim=1)


def aligned_vectors(positions: Tensor, maps: Tensor, groups: int) -> Tensor:
    """Return K = d / h weighted means of an image's positions.

    Channels and maps are cut into h groups. The j-th vector has its t-th group of channels from
    the j-th map of the t-th group: ``y_jtc = Σ_p A_p,tj x_p,tc``.

    Args:
        positions: x ``(N, P, d_g)``.
        maps: A ``(N, P, d)``, see :func:`alignment_maps`.
        groups: h, a divisor of d_g and d.

    Returns:
        ``(N, K, d_g)``, float32 at least.

    Raises:
        ValueError: shapes that do not fit.

    Source: LEWEL (arXiv 2203.14898), in the form of its code.
    """
    fits = positions.ndim == maps.ndim == 3 and positions.shape[:2] == maps.shape[:2]
    if not fits or positions.shape[2] % groups or maps.shape[2] % groups:
        raise ValueError(
            f"expected positions (N, P, d_g) and maps (N, P, d) whose channels {groups} groups "
            f"divide, got {tuple(positions.shape)} and {tuple(maps.shape)}"
        )
    with torch.autocast(positions.device.type, enabled=False):
        channels = wide(positions).unflatten(2, (groups, -1))
        weights = wide(maps).unflatten(2, (groups, -1))
        return torch.einsum("nptj,nptc->njtc", weights, channels).flatten(2)


def by_rows(head: nn.Module, rows: Tensor) -> Tensor:
    """Apply a head of ``(M, d)`` rows to ``(N, R, d)``."""
    return head(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
