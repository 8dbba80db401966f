"""MoCo-v2's photometric augmentation on batches, every image with parameters of its own.

Shape legend: N images, C = 3 channels, H × W pixels, S = side. All operations work on float RGB in
[0, 1] and mean what torchvision's per-image functions of the same name mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow and torchvision


@dataclass(frozen=True)
class Photometric:
    """Colour jitter, grey, blur and normalisation, in the order of MoCo-v2.

    Args:
        jitter_prob: probability of colour jitter, its four steps in an order drawn for each image.
        brightness: factors are drawn from [1 - s, 1 + s]; contrast and saturation likewise.
        contrast: see ``brightness``.
        saturation: see ``brightness``.
        hue: shifts are drawn from [-s, s] of a full turn, s <= 0.5.
        gray_prob: probability of conversion to grey.
        blur_prob: probability of a Gaussian blur; several numbers are those of equal parts of the
            batch, such as its first and its second views (BYOL).
        blur_sigma: bounds of its standard deviation, in pixels.
        solarize_prob: probability that what is brighter than half is inverted (BYOL); as above.
    """

    jitter_prob: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    gray_prob: float
    blur_prob: float | tuple[float, ...]
    blur_sigma: tuple[float, float]
    solarize_prob: float | tuple[float, ...] = 0.0

    def draw(self, count: int, generator: torch.Generator) -> Parameters:
        """Draw the parameters of ``count`` images, on the CPU, so that no step waits."""

        def chosen(probability: float | tuple[float, ...]) -> Tensor:
            parts = torch.tensor(probability).reshape(-1)
            each = parts.repeat_interleave(count // len(parts))
            return torch.rand(count, generator=generator) < each

        def factors(strength: float) -> Tensor:
            return _uniform(count, 1 - strength, 1 + strength, generator)

        return Parameters(
            jitter=chosen(self.jitter_prob),
            brightness=factors(self.brightness),
            contrast=factors(self.contrast),
            saturation=factors(self.saturation),
            hue=_uniform(count, -self.hue, self.hue, generator),
            order=torch.rand(count, 4, generator=generator).argsort(dim=1),
            gray=chosen(self.gray_prob),
            blur=chosen(self.blur_prob),
            sigma=_uniform(count, *self.blur_sigma, generator),
            solarize=chosen(self.solarize_prob),
        )

    def __call__(self, views: Tensor, generator: torch.Generator) -> Tensor:
        """Augment ``(N, 3, H, W)`` float in [0, 1] in place with parameters drawn here."""
        return augment(views, self.draw(len(views), generator))


@dataclass(frozen=True)
class Parameters:
    """What happens to each of N images: tensors ``(N,)``, bool for whether, float for how much.

    ``order`` ``(N, 4)`` is the order of brightness, contrast, saturation and hue (0 to 3).
    """

    jitter: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    gray: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor

    def __getitem__(self, index: Tensor | slice) -> Parameters:
        """Return the parameters of some of the images: ``(M,)`` positions, or a slice."""
        return Parameters(**{name: value[index] for name, value in vars(self).items()})


def augment(views: Tensor, parameters: Parameters) -> Tensor:
    """Change every image according to its parameters.

    Args:
        views: ``(N, 3, H, W)`` float in [0, 1], on any device; changed in place.
        parameters: of the N images, on the CPU.

    Returns:
        ``views``, ``(N, 3, H, W)`` in [0, 1].
    """
    steps = (
        (adjust_brightness, parameters.brightness),
        (adjust_contrast, parameters.contrast),
        (adjust_saturation, parameters.saturation),
        (adjust_hue, parameters.hue),
    )
    jitter, order = parameters.jitter.tolist(), parameters.order.tolist()
    for turn in range(len(steps)):
        turns: list[list[int]] = [[] for _ in steps]
        for image, wanted in enumerate(jitter):
            if wanted:
                turns[order[image][turn]].append(image)
        for chosen, (step, values) in zip(turns, steps, strict=True):
            _apply(views, chosen, step, values)
    _apply(views, _positions(parameters.gray), grayscale)
    _apply(views, _positions(parameters.blur), gaussian_blur, parameters.sigma)
    _apply(views, _positions(parameters.solarize), solarize)
    return views


def normalize(views: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return ``(views - mean) / std`` of ``(N, 3, H, W)`` in [0, 1]; mean, std: 0–255 scale."""
    shape = (1, -1, 1, 1)
    offset = (
        torch.tensor(mean, dtype=views.dtype).view(shape).to(views.device, non_blocking=True) / 255
    )
    scale = (
        torch.tensor(std, dtype=views.dtype).view(shape).to(views.device, non_blocking=True) / 255
    )
    return (views - offset) / scale


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend ``(N, 3, H, W)`` with black: factor ``(N,)`` >= 0, 1 changes nothing."""
    return (images * _column(factor, images)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend ``(N, 3, H, W)`` with the mean grey of each image: factor ``(N,)`` >= 0."""
    mean = _luma(images).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean.expand_as(images), images, _column(factor, images)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend ``(N, 3, H, W)`` with its own grey version: factor ``(N,)`` >= 0."""
    return torch.lerp(_luma(images).expand_as(images), images, _column(factor, images)).clamp_(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of ``(N, 3, H, W)`` by ``shift`` ``(N,)`` of a full turn, in [-0.5, 0.5].

    HSV without its detour: with value V, chroma C and hue h in [0, 6), channel n of the result is
    V - C · clamp(min(k, 4 - k), 0, 1), where k = (n + h) mod 6 and n = 5, 3, 1 for R, G, B.
    """
    red, green, blue = images.unbind(dim=1)
    value = torch.maximum(red, green).maximum(blue)
    chroma = value - torch.minimum(red, green).minimum(blue)
    scale = 1 / chroma.clamp_min(1e-12)
    hue = torch.where(
        value == red,
        (green - blue) * scale,
        torch.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4),
    )
    hue += 6 * _column(shift, images)[:, 0]
    hue -= (hue / 6).floor_().mul_(6)
    out = torch.empty_like(images)
    for channel, opposite in enumerate((3, 5, 1)):
        # min(k, 4 - k) is 2 less the distance, around the circle, to the hue without this colour.
        distance = (hue - opposite).abs_()
        distance = torch.minimum(distance, 6 - distance)
        out[:, channel] = value - chroma * distance.neg_().add_(2).clamp_(0, 1)
    return out


def grayscale(images: Tensor) -> Tensor:
    """Return the luma of ``(N, 3, H, W)`` in all three channels."""
    return _luma(images).expand_as(images)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur ``(N, C, H, W)`` by Gaussians of ``sigma`` ``(N,)`` > 0 pixels, borders reflected.

    Each is cut at three of its deviations, and no further out than the image has pixels.
    """
    side = min(images.shape[2:])
    radius = min(int(torch.ceil(3 * sigma.max()).item()), side - 1)
    offset = torch.arange(-radius, radius + 1)
    deviation = sigma.view(-1, 1)
    weight = torch.exp(-0.5 * (offset / deviation) ** 2)
    weight = weight * (offset.abs() <= torch.ceil(3 * deviation))
    weight = weight / weight.sum(dim=1, keepdim=True)
    columns = _column(weight, images).view(*weight.shape, 1, 1, 1)
    for axis, border in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded, length = pad(images, border, mode="reflect"), images.shape[axis]
        images = padded.narrow(axis, 0, length) * columns[:, 0]
        for tap in range(1, 2 * radius + 1):
            images.addcmul_(padded.narrow(axis, tap, length), columns[:, tap])
    return images


def solarize(images: Tensor) -> Tensor:
    """Invert what is brighter than half in ``(N, 3, H, W)``, as BYOL and Pillow do."""
    return torch.where(images < 0.5, images, 1 - images)


def _positions(chosen: Tensor) -> list[int]:
    return chosen.nonzero().flatten().tolist()


def _apply(
    views: Tensor, chosen: list[int], operation: Callable[..., Tensor], *parameters: Tensor
) -> None:
    """Replace the images at the chosen positions by what ``operation`` makes of them."""
    if len(chosen) == len(views):
        views.copy_(operation(views, *parameters))
    elif chosen:
        positions = torch.tensor(chosen)
        index = positions.to(views.device, non_blocking=True)
        mine = (values[positions] for values in parameters)
        views.index_copy_(0, index, operation(views.index_select(0, index), *mine))


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(dim=1)
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]).unsqueeze(1)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype, non_blocking=True).view(-1, 1, 1, 1)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low
