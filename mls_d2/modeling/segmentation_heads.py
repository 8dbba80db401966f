"""Segmentation heads: PSPNet's pyramid pooling, PSANet's attention and a plain FCN.

Each maps features ``(N, C, H, W)`` to logits ``(N, K, H, W)``. Legend of masks: N images, H × W
positions of a map, Mh × Mw offsets of a mask, both odd. Arguments of all heads: ``in_channels`` is
C, ``num_classes`` K, ``norm`` Detectron2's name of a norm layer, and ``dropout`` the share of
channels dropped before the classifier, in [0, 1).
"""

import functools
from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn
from torch.nn import functional as F

_SHRINK = 2
MODES = ("collect", "distribute")


class FCNHead(nn.Module):
    """A 3×3 convolution and a classifier, for the auxiliary loss.

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
    """PSPNet: averages over grids of several sizes are concatenated with the features.

    Args:
        channels: of each pooled branch and of the fused map.
        pool_scales: cells along each side of the grids.
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
        self._scales, self._align_corners = tuple(pool_scales), align_corners
        self.branches = nn.ModuleList(_conv(in_channels, channels, 1, norm) for _ in pool_scales)
        self.bottleneck = _conv(in_channels + len(self._scales) * channels, channels, 3, norm)
        self.predictor = _predictor(channels, num_classes, dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return self.predictor(self.bottleneck(self.pyramid(features)))

    def pyramid(self, features: Tensor) -> Tensor:
        """Return the features followed by each branch: ``(N, C + channels·scales, H, W)``."""
        maps = [features]
        for scale, branch in zip(self._scales, self.branches, strict=True):
            pooled = branch(F.adaptive_avg_pool2d(features, scale))
            maps.append(_resize(pooled, features.shape[2:], align_corners=self._align_corners))
        return torch.cat(maps, 1)


class PSAHead(nn.Module):
    """PSANet: every position gathers from all others, and sends to all others, by learnt masks.

    The masks are predicted on maps of half the size. The 1×1 convolution behind them has no
    padding, as in the paper's code; mmsegmentation pads it by one and squeezes the result back.

    Args:
        channels: of both attention branches and of the fused map.
        mask_size: (height, width) of the masks, odd; 2n - 1 reaches all of a map of n positions.

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
    """One direction of PSANet's attention, ``mode`` "collect" or "distribute"."""

    def __init__(
        self, in_channels: int, channels: int, mask_size: tuple[int, int], mode: str, *, norm: str
    ) -> None:
        super().__init__()
        self._mask_size, self._mode = mask_size, mode
        self.reduce = _conv(in_channels, channels, 1, norm)
        self.attention = _conv(channels, channels, 1, norm)
        self.mask = Conv2d(channels, mask_size[0] * mask_size[1], kernel_size=1, bias=False)

    def forward(self, features: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        """Return the context ``(N, channels, *size)`` of each position of the shrunk map."""
        reduced = _resize(self.reduce(features), size, align_corners=align_corners)
        weight, reach = reachable(self.mask.weight, self._mask_size, size)
        # Not kept in a variable, the mask is freed as soon as it is placed.
        placed = psa_mask(F.conv2d(self.attention(reduced), weight), self._mode, reach)
        return attend(reduced, placed)


def attend(features: Tensor, placed: Tensor) -> Tensor:
    """Return features gathered from the whole map for every position.

    Args:
        features: ``(N, C, H, W)``.
        placed: ``(N, H·W, H, W)`` logits of each sending position, in rows, for each receiving one;
            see :func:`psa_mask`. Positions that a mask does not reach have the logit 0, and count.

    Returns:
        ``(N, C, H, W)``: sums of features, weighted by the softmax over all sending positions.
    """
    logits = placed.flatten(2)
    # "distribute" is a transposed view, of which a softmax over this axis would make a copy.
    weights = logits.softmax(1) if logits.is_contiguous() else logits.mT.softmax(2).mT
    return (features.flatten(2) @ weights.to(features.dtype)).view_as(features)


def reachable(
    weight: Tensor, mask_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """Drop the offsets that lead out of the map from every position, to save their computation.

    ``weight`` ``(Mh·Mw, C, 1, 1)`` is that of the convolution that predicts the mask, ``size``
    (H, W). Returns the weights of the mask's middle, and its size: at most (2H - 1, 2W - 1).
    """
    reach = tuple(min(m, 2 * n - 1) for m, n in zip(mask_size, size, strict=True))
    rows, columns = (
        slice((m - r) // 2, (m + r) // 2) for m, r in zip(mask_size, reach, strict=True)
    )
    middle = weight.unflatten(0, mask_size)[rows, columns].flatten(0, 1)
    return middle, (reach[0], reach[1])


def shrunk_size(height: int, width: int) -> tuple[tuple[int, int], bool]:
    """Return the size of the map for the masks, and whether its corners are aligned.

    A map with both sides odd keeps its outermost positions; others are cut in half.
    """
    if height % 2 and width % 2:
        return ((height - 1) // _SHRINK + 1, (width - 1) // _SHRINK + 1), True
    return (height // _SHRINK, width // _SHRINK), False


def psa_mask(mask: Tensor, mode: str, mask_size: tuple[int, int]) -> Tensor:
    """Move each mask around a position to the positions of the map that its offsets point to.

    Let an offset (i, j) of the position (h, w) mean the target
    (i + h - (Mh - 1) / 2, j + w - (Mw - 1) / 2). Offsets that lead out of the map are dropped, and
    targets that no offset reaches are 0.

    - *collect*: ``out[target, (h, w)] = mask[(i, j), (h, w)]``: how a position gathers;
    - *distribute*: ``out[(h, w), target] = mask[(i, j), (h, w)]``: how it sends.

    Args:
        mask: ``(N, Mh·Mw, H, W)``.
        mode: "collect" or "distribute".
        mask_size: (Mh, Mw).

    Returns:
        ``(N, H·W, H, W)``; for *distribute* a transposed view.

    Raises:
        ValueError: another mode, an even mask size, or a mask of another number of channels.

    Source: PSANet (ECCV 2018), section 3.2. By slices: memory holds the mask, the result, and
    in between the masks placed along one axis only.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if mask_size[0] % 2 == 0 or mask_size[1] % 2 == 0:
        raise ValueError(f"both sides of mask_size must be odd, got {tuple(mask_size)}")
    if mask.ndim != 4 or mask.shape[1] != mask_size[0] * mask_size[1]:
        raise ValueError(
            f"expected a mask (N, {mask_size[0]}·{mask_size[1]}, H, W), got {tuple(mask.shape)}"
        )
    height, width = mask.shape[2:]
    rows = _Place.apply(mask.unflatten(1, tuple(mask_size)), 1, 3)  # (N, H, Mw, H, W)
    del mask  # Freed before more is allocated, unless the caller holds it.
    collected = _Place.apply(rows, 2, 4).flatten(1, 2)  # (N, H·W, H, W)
    if mode == "collect":
        return collected
    return collected.flatten(2).transpose(1, 2).unflatten(2, (height, width))


class _Place(torch.autograd.Function):
    """Turn offsets along one axis into targets along it: its adjoint copies the slices back."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, offset_dim: int, place_dim: int) -> Tensor:
        ctx.dims = offset_dim, place_dim
        ctx.offsets = source.shape[offset_dim]
        shape = list(source.shape)
        shape[offset_dim] = source.shape[place_dim]
        out = source.new_zeros(shape)
        _copy(source, out, *ctx.dims)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        shape = list(grad.shape)
        shape[ctx.dims[0]] = ctx.offsets
        out = grad.new_zeros(shape)
        _copy(out, grad, *ctx.dims, back=True)
        return out, None, None


def _copy(
    offsets: Tensor, targets: Tensor, offset_dim: int, place_dim: int, *, back: bool = False
) -> None:
    """Copy between offsets and targets, place by place: target = offset + place - half."""
    count, places = offsets.shape[offset_dim], offsets.shape[place_dim]
    half = (count - 1) // 2
    for place in range(places):
        first = max(0, place - half)  # the first target that an offset reaches
        length = min(places, place + half + 1) - first
        at_offset = offsets.select(place_dim, place).narrow(
            offset_dim, first - place + half, length
        )
        at_target = targets.select(place_dim, place).narrow(offset_dim, first, length)
        if back:
            at_offset.copy_(at_target)
        else:
            at_target.copy_(at_offset)


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
