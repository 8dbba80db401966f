"""SetSim: a position finds the set of positions that show the same (arXiv 2107.08712).

Shape legend: N images, S × S positions of the backbone's map, P = S² of them row by row; d channels
of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mls_d2.config.options import option
from mls_d2.config.rules import Rule, above, within
from pretrain.batch import Batch
from pretrain.geometry import cell_distances
from pretrain.losses_dense import set_similarity_loss
from pretrain.methods.base import METHODS
from pretrain.methods.densecl import DenseCL, position_cosines
from pretrain.numerics import wide


@METHODS.register("setsim")
class SetSim(DenseCL):
    """DenseCL whose positions have sets of positives instead of one match.

    Networks, both dictionaries and the weights of the two losses (``DENSECL.LAMBDA``) are
    DenseCL's.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(DenseCL.Options):
        """Which pairs of positions are positive."""

        group = "SETSIM"
        attention: float = option(
            0.7, "least attention of both positions, in [0, 1]", within(1), symbol="δ"
        )
        similarity: float = option(
            0.2, "least cosine of attended pairs", Rule(lambda x: -1 <= x <= 1, "in [-1, 1]")
        )
        distance: float = option(
            0.5, "distance below which pairs are positive too, in cell diagonals", above(0)
        )
        nearest: bool = option(
            False,
            "whether the most similar position joins the positives, if there are any",
            Rule(lambda value: isinstance(value, bool), "True or False"),
        )

    options: SetSim.Options
    local_loss = "loss_set"

    def compare_positions(
        self, batch: Batch, maps: tuple[Tensor, Tensor], d1: Tensor, d2: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the set loss of embeddings ``(N, P, d)`` of both views, and its monitors."""
        options, side = self.options, maps[0].shape[-1]
        distance = cell_distances(batch.rectangles, batch.flips, batch.image_sizes, side)
        pairs = positive_pairs(*maps, options.attention, options.similarity)
        pairs = pairs | (distance < options.distance)
        if options.nearest:
            pairs = with_nearest(pairs, *maps)
        dictionary = self.dictionary["dense"]
        return set_similarity_loss(d1, d2, pairs, dictionary, options.temperature), {
            "positive_pairs": pairs.float().mean(),
            "unmatched_images": (~pairs.flatten(1).any(dim=1)).float().mean(),
        }


@torch.no_grad()
def positive_pairs(
    query_map: Tensor, key_map: Tensor, attention: float, similarity: float
) -> Tensor:
    """Return which positions of two views both stand out and look alike.

    Attention is the mean square over the channels, scaled to [0, 1] in each image.

    Args:
        query_map: ``(N, d, S, S)`` backbone features of one view.
        key_map: ``(N, d, S, S)`` of the other.
        attention: least attention of both.
        similarity: least cosine.

    Returns:
        ``(N, P, P)`` bool; rows are positions of the query.

    Source: SetSim (arXiv 2107.08712), section 3, and its code.
    """
    one, other = (attended(image_map) >= attention for image_map in (query_map, key_map))
    alike = position_cosines(query_map, key_map) >= similarity
    return one.unsqueeze(2) & other.unsqueeze(1) & alike


@torch.no_grad()
def attended(image_map: Tensor) -> Tensor:
    """Return the attention ``(N, P)`` in [0, 1] of a map; 0 everywhere if it is the same."""
    energy = wide(image_map).flatten(2).square().mean(dim=1)
    low, high = energy.amin(dim=1, keepdim=True), energy.amax(dim=1, keepdim=True)
    return (energy - low) / (high - low).clamp_min(torch.finfo(energy.dtype).tiny)


@torch.no_grad()
def with_nearest(pairs: Tensor, query_map: Tensor, key_map: Tensor) -> Tensor:
    """Return ``(N, P, P)`` pairs with the most similar position added to rows that have any."""
    nearest = torch.zeros_like(pairs)
    nearest.scatter_(2, position_cosines(query_map, key_map).argmax(dim=2, keepdim=True), True)
    return pairs | (nearest & pairs.any(dim=2, keepdim=True))
