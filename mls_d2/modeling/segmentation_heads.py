"""Segmentation heads: PSPNet's pyramid pooling, PSANet's attention and a plain FCN.

Each maps features ``(N, C, H, W)`` to logits ``(N, K, H, W)``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from mls_d2.modeling.psa_mask import psa_mask

_SHRINK = 2


class FCNHead(nn.Module):
    """A 3×3 convolution and a classifier: what trains the auxiliary output.

    Args:
        in_channels: C.
        num_classes: K.
        channels: of the convolution.
        norm: Detectron2's name of a norm layer.
        dropout: share of channels dropped before the classifier, in [0, 1).

    Source: mmsegmentation's auxiliary head of PSPNet and PSANet.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, channels: int, norm: str, dropout: float
    ) -> None:
        super().__init__()
        self.conv = _conv(in_channels, channels, 3, norm)
        self.predictor = _predictor(channels, num_classes, dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return self.predictor(self.conv(features))


class PSPHead(nn.Module):
    """PSPNet: averages over grids of several sizes join the features that they come from.

    Args:
        in_channels: C.
        num_classes: K.
        channels: of each pooled branch and of the fused map.
        pool_scales: cells along each side of the grids.
        norm: Detectron2's name of a norm layer.
        dropout: share of channels dropped before the classifier, in [0, 1).
        align_corners: of the bilinear upsampling of the pooled maps.

    Source: Pyramid Scene Parsing Network (CVPR 2017), section 3.2.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int,
        pool_scales: Sequence[int],
        norm: str,
        dropout: float,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self._scales = tuple(pool_scales)
        self._align_corners = align_corners
        self.branches = nn.ModuleList(_conv(in_channels, channels, 1, norm) for _ in pool_scales)
        self.bottleneck = _conv(in_channels + len(self._scales) * channels, channels, 3, norm)
        self.predictor = _predictor(channels, num_classes, dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return self.predictor(self.bottleneck(self.pyramid(features)))

    def pyramid(self, features: Tensor) -> Tensor:
        """Return the features and, behind them, each branch: ``(N, C + channels·scales, H, W)``."""
        maps = [features]
        for scale, branch in zip(self._scales, self.branches, strict=True):
            pooled = branch(F.adaptive_avg_pool2d(features, scale))
            maps.append(_resize(pooled, features.shape[2:], align_corners=self._align_corners))
        return torch.cat(maps, 1)


class PSAHead(nn.Module):
    """PSANet: every position gathers from all others, and gives to all others, by learnt masks.

    The masks are predicted on maps of half the size. The 1×1 convolution behind them has no
    padding, as in the paper's code; mmsegmentation pads it by one and squeezes the result back.

    Args:
        in_channels: C.
        num_classes: K.
        channels: of both attention branches and of the fused map.
        mask_size: (height, width) of the masks, odd; 2n - 1 reaches all of a map of n positions.
        norm: Detectron2's name of a norm layer.
        dropout: share of channels dropped before the classifier, in [0, 1).

    Source: PSANet (ECCV 2018), sections 3.2 and 3.3: both directions, over-complete masks.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int,
        mask_size: tuple[int, int],
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        branch = functools.partial(PSABranch, in_channels, channels, mask_size, norm=norm)
        self.collect = branch("collect")
        self.distribute = branch("distribute")
        self.project = _conv(2 * channels, in_channels, 1, norm)
        self.bottleneck = _conv(2 * in_channels, channels, 3, norm)
        self.predictor = _predictor(channels, num_classes, dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        size = features.shape[2:]
        shrunk, align_corners = shrunk_size(*size)
        both = [
            branch(features, shrunk, align_corners) for branch in (self.collect, self.distribute)
        ]
        context = _resize(self.project(torch.cat(both, 1)), size, align_corners=align_corners)
        return self.predictor(self.bottleneck(torch.cat((features, context), 1)))


class PSABranch(nn.Module):
    """One direction of PSANet's attention.

    Args:
        in_channels: C.
        channels: of the reduced features.
        mask_size: (height, width), odd.
        mode: "collect" or "distribute".
        norm: Detectron2's name of a norm layer.
    """

    def __init__(
        self, in_channels: int, channels: int, mask_size: tuple[int, int], mode: str, *, norm: str
    ) -> None:
        super().__init__()
        self._mask_size = mask_size
        self._mode = mode
        self.reduce = _conv(in_channels, channels, 1, norm)
        self.attention = _conv(channels, channels, 1, norm)
        self.mask = Conv2d(channels, mask_size[0] * mask_size[1], kernel_size=1, bias=False)

    def forward(self, features: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        """Return what the branch gives to the positions of the shrunk map.

        Args:
            features: ``(N, C, H, W)``.
            size: of the shrunk map.
            align_corners: of the shrinking.

        Returns:
            ``(N, channels, *size)``.
        """
        reduced = _resize(self.reduce(features), size, align_corners=align_corners)
        weight, reach = reachable(self.mask.weight, self._mask_size, size)
        # Without a name of its own here, the mask is freed as soon as it is placed.
        placed = psa_mask(F.conv2d(self.attention(reduced), weight), self._mode, reach)
        return attend(reduced, placed)


def attend(features: Tensor, placed: Tensor) -> Tensor:
    """Return features gathered from the whole map for every position.

    Args:
        features: ``(N, C, H, W)``.
        placed: ``(N, H·W, H, W)`` logits: of each giving position, in rows, for each receiving one;
            see :func:`mls_d2.modeling.psa_mask.psa_mask`. What a mask does not reach has the logit
            0 and takes part.

    Returns:
        ``(N, C, H, W)``: sums of features, weighted by the softmax over all giving positions.
    """
    logits = placed.flatten(2)
    # "distribute" is a transposed view, of which a softmax over this axis would make a copy.
    weights = logits.softmax(1) if logits.is_contiguous() else logits.mT.softmax(2).mT
    return (features.flatten(2) @ weights.to(features.dtype)).view_as(features)


def reachable(
    weight: Tensor, mask_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """Leave out the offsets that lead out of the map from everywhere, with their computation.

    Args:
        weight: ``(Mh·Mw, C, 1, 1)``, the convolution that predicts the mask.
        mask_size: (Mh, Mw).
        size: (H, W) of the map.

    Returns:
        The weights of the mask's middle, and its size: at most (2H - 1, 2W - 1).
    """
    reach = tuple(min(m, 2 * n - 1) for m, n in zip(mask_size, size, strict=True))
    rows, columns = (
        slice((m - r) // 2, (m + r) // 2) for m, r in zip(mask_size, reach, strict=True)
    )
    middle = weight.unflatten(0, mask_size)[rows, columns].flatten(0, 1)
    return middle, (reach[0], reach[1])


def shrunk_size(height: int, width: int) -> tuple[tuple[int, int], bool]:
    """Return the size of the map on which masks work, and whether its corners are aligned.

    A map with both sides odd keeps its outermost positions; others are cut in half.
    """
    if height % 2 and width % 2:
        return ((height - 1) // _SHRINK + 1, (width - 1) // _SHRINK + 1), True
    return (height // _SHRINK, width // _SHRINK), False


def _resize(maps: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=align_corners)


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: str) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv


def _predictor(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    conv = Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.Dropout2d(dropout), conv)
