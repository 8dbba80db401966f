"""PixPro: what a pixel's surroundings say of it is what the other view says (arXiv 2011.10043).

Shape legend: N images, S × S positions of the backbone's map, P = S² of them row by row; d channels
of a projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mls_d2.config.options import option
from mls_d2.config.rules import above, at_least, one_of
from pretrain.batch import Batch, StepOutput
from pretrain.encoder import Encoder, feature_map, zero_last_norms
from pretrain.geometry import cell_distances
from pretrain.heads import mlp
from pretrain.losses import negative_cosine
from pretrain.losses_dense import pixel_contrast_loss, pixel_propagation_loss
from pretrain.methods.base import METHODS, MomentumMethod, spread
from pretrain.numerics import wide


class PixelEncoder(Encoder):
    """Returns the map F ``(N, d_g, S, S)`` and one projection ``(N, d, S, S)`` of each projector.

    The first is of pixels; the second, if there is one, of the instance branch.
    """

    projector: nn.ModuleList

    def forward(self, view: Tensor) -> tuple[Tensor, ...]:
        """Return F and its projections."""
        features = feature_map(self.backbone, view)
        return features, *(projector(features) for projector in self.projector)


@METHODS.register("pixpro")
class PixPro(MomentumMethod):
    """Consistency of pixels that lie near each other in the image, in both orders of the views.

    With ``loss`` "propagation" the online pixels pass the propagation module and no negatives are
    needed; with "contrast" (PixContrast) the far pixels of the other view are the negatives.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MomentumMethod.Options):
        """Heads, positives and losses."""

        group = "PIXPRO"
        hidden_dim: int = option(4096, "width of the heads' hidden layer", at_least(1))
        out_dim: int = option(256, "width of a projection", at_least(1))
        loss: str = option(
            "propagation",
            "'propagation' (PixPro) or 'contrast' (PixContrast)",
            one_of(("propagation", "contrast")),
        )
        threshold: float = option(
            0.7, "distance below which pixels are positive, in cell diagonals", above(0), symbol="T"
        )
        sharpness: float = option(
            2.0, "exponent of the similarities that propagate", above(0), symbol="γ"
        )
        transform_layers: int = option(
            1, "layers of the propagation's transform", one_of((0, 1, 2)), symbol="l"
        )
        temperature: float = option(0.3, "of PixContrast", above(0), symbol="τ")
        instance_weight: float = option(
            0.0, "weight of the instance branch; 0 leaves it out", at_least(0), symbol="α"
        )

    options: PixPro.Options

    def __init__(self, backbone: nn.Module, feature_dim: int, options: PixPro.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        hidden, out = options.hidden_dim, options.out_dim
        zero_last_norms(backbone)
        branches = 2 if options.instance_weight else 1
        projectors = [mlp(feature_dim, hidden, out, dense=True) for _ in range(branches)]
        self.set_encoder(PixelEncoder(backbone, nn.ModuleList(projectors)))
        if options.loss == "propagation":
            self.transform = _transform(out, options.transform_layers)
        if options.instance_weight:
            self.instance_predictor = mlp(out, hidden, out, dense=True)

    def forward(self, batch: Batch) -> StepOutput:
        """Compute the losses of both orders of the views."""
        online = [self.encoder(view) for view in batch.views]
        self.update_momentum_encoder(batch.progress)
        target = [self.keys(view) for view in batch.views]

        side = online[0][1].shape[-1]
        distance = cell_distances(batch.rectangles, batch.flips, batch.image_sizes, side)
        positive = distance < self.options.threshold
        losses = {
            "loss_pixel": self.pixel_loss(online[0][1], target[1][1], positive)
            + self.pixel_loss(online[1][1], target[0][1], positive.mT)
        }
        weights = {}
        if self.options.instance_weight:
            losses["loss_instance"] = self.instance_loss(
                online[0][2], target[1][2]
            ) + self.instance_loss(online[1][2], target[0][2])
            weights["loss_instance"] = self.options.instance_weight
        return StepOutput(
            losses=losses,
            weights=weights,
            metrics={
                "positive_pairs": positive.float().mean(),
                "unmatched_images": (~positive.flatten(1).any(dim=1)).float().mean(),
                "feature_std": spread(online[0][0].mean(dim=(2, 3))),
                "embedding_std": spread(online[0][1].mean(dim=(2, 3))),
            },
        )

    def pixel_loss(self, online: Tensor, target: Tensor, positive: Tensor) -> Tensor:
        """Return the loss of one order: projections ``(N, d, S, S)``, positives ``(N, P, P)``."""
        if self.options.loss == "contrast":
            temperature = self.options.temperature
            return pixel_contrast_loss(rows(online), rows(target), positive, temperature)
        y = propagated(online, self.transform(online), self.options.sharpness)
        return pixel_propagation_loss(rows(y), rows(target), positive)

    def instance_loss(self, online: Tensor, target: Tensor) -> Tensor:
        """Return -2 cos of the means over positions, taken after the predictor."""
        predicted = self.instance_predictor(online).mean(dim=(2, 3))
        return 2 * negative_cosine(predicted, target.mean(dim=(2, 3)))


def propagated(pixels: Tensor, values: Tensor, sharpness: float) -> Tensor:
    """Smooth a map by its own similarities: ``y_i = Σ_j max(cos(x_i, x_j), 0)^γ g_j / ‖g_j‖``.

    Args:
        pixels: x ``(N, d, S, S)``.
        values: g ``(N, e, S, S)``, the transformed pixels.
        sharpness: γ > 0.

    Returns:
        y ``(N, e, S, S)``, float32 at least.

    Source: PixPro (arXiv 2011.10043), section 3.2; its code normalises g, its paper does not.
    """
    x, g = (F.normalize(wide(part).flatten(2), dim=1) for part in (pixels, values))
    with torch.autocast(pixels.device.type, enabled=False):
        similar = (x.mT @ x).clamp_min(0)
        if sharpness < 1:
            similar = similar + 1e-6  # The root has no finite slope at 0.
        return (g @ similar.pow(sharpness).mT).view(values.shape)


def rows(maps: Tensor) -> Tensor:
    """Return the positions ``(N, P, d)`` of maps ``(N, d, S, S)``, row by row."""
    return maps.flatten(2).mT


def _transform(width: int, layers: int) -> nn.Module:
    if layers == 2:
        return mlp(width, width, width, dense=True)
    return nn.Conv2d(width, width, 1) if layers else nn.Identity()
