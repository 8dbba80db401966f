"""A feature pyramid under Detectron2's names, for views of any size."""

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn


class FPN(nn.Module):
    """Laterals of a backbone's maps and outputs of some levels, without activation.

    Layers have the names and initial values of Detectron2's FPN. That one doubles a level's size on
    the way down, so that it takes sides divisible by 32 alone; this one takes the lateral's size.

    Args:
        channels: of the backbone's features, by name from "res2" to "res5".
        dim: channels of the levels.
        outputs: levels that are returned; by default one for each feature.
        norm: "" for biases and no norm, or "BN".

    Source: arXiv 1612.03144, section 3.
    """

    def __init__(
        self,
        channels: dict[str, int],
        dim: int,
        *,
        outputs: Sequence[int] | None = None,
        norm: str = "",
    ) -> None:
        super().__init__()
        levels = {int(name.removeprefix("res")): width for name, width in channels.items()}
        self.levels = sorted(levels, reverse=True)
        self.outputs = frozenset(levels if outputs is None else outputs)
        for level in sorted(levels):
            self._add(f"fpn_lateral{level}", levels[level], dim, 1, norm)
        for level in sorted(self.outputs):
            self._add(f"fpn_output{level}", dim, dim, 3, norm)

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return the maps ``(N, dim, S_l, S_l)`` of the output levels, the smallest map first."""
        maps, top = [], None
        for level in self.levels:
            lateral = self.get_submodule(f"fpn_lateral{level}")(features[f"res{level}"])
            if top is not None:
                lateral = lateral + F.interpolate(top, size=lateral.shape[2:], mode="nearest")
            top = lateral
            if level in self.outputs:
                maps.append(self.get_submodule(f"fpn_output{level}")(lateral))
        return maps

    def _add(self, name: str, before: int, after: int, kernel: int, norm: str) -> None:
        layer = Conv2d(
            before,
            after,
            kernel,
            padding=kernel // 2,
            bias=not norm,
            norm=get_norm(norm, after),
        )
        c2_xavier_fill(layer)
        self.add_module(name, layer)
