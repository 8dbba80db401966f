"""From the uint8 views of a batch to normalised float views on the device of the model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor

from pretrain.views.photometric import Parameters, Photometric, augment, normalize

# Keeps these random streams, one per group of views, apart from those of pretrain.data.
_FIRST_STREAM = 3
# Of float32: a megabyte.
_CACHED_VALUES = 2**18


class Augment:
    """Draws and applies the photometric augmentation of every view.

    Args:
        photometric: one per group of views, on float RGB in [0, 1].
        mean: ``MODEL.PIXEL_MEAN``, RGB, 0–255 scale.
        std: ``MODEL.PIXEL_STD``.
        device: of the model.
        seed: of the parameters, which depend on (seed, iteration, position in the batch of all
            processes) alone.
        rank: this process.
        world_size: processes, each with an equal share of the batch, in rank order.
    """

    def __init__(
        self,
        photometric: Sequence[Photometric],
        *,
        mean: list[float],
        std: list[float],
        device: torch.device,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.photometric, self.mean, self.std = tuple(photometric), mean, std
        self.device, self.seed = device, seed
        self.rank, self.world_size = rank, world_size

    def __call__(self, groups: Sequence[Tensor], iteration: int) -> list[Tensor]:
        """Turn groups ``(V_g, N, H, W, 3)`` uint8 into their views, ``(N, 3, H, W)`` float each."""
        views: list[Tensor] = []
        for number, pixels in enumerate(groups):
            generator = seeded_generator(self.seed, _FIRST_STREAM + number, iteration)
            count, share = pixels.shape[:2]
            total = count * share * self.world_size
            parameters = self.photometric[number].draw(total, generator)
            positions = torch.arange(total).view(count, self.world_size, share)
            mine = parameters[positions[:, self.rank].flatten()]
            views += self._changed(pixels.flatten(0, 1), mine).chunk(count)
        return views

    def _changed(self, pixels: Tensor, mine: Parameters) -> Tensor:
        """Return ``(M, H, W, 3)`` uint8 as ``(M, 3, H, W)`` float, augmented and normalised."""
        flat = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        out = torch.empty(flat.shape, device=self.device, memory_format=torch.channels_last)
        # A few images fit into a processor's cache, a batch does not: this is several times faster.
        step = len(out) if out.is_cuda else max(1, _CACHED_VALUES // out[0].numel())
        for first in range(0, len(out), step):
            part = slice(first, first + step)
            # Planar memory makes colour operations 1.5 times as fast.
            images = flat[part].contiguous().float().div_(255)
            out[part] = normalize(augment(images, mine[part]), self.mean, self.std)
        return out


def augment_from_config(cfg: CfgNode, device: torch.device) -> Augment:
    """Build the augmentation that ``PRETRAIN.AUGMENT`` describes."""
    node = cfg.PRETRAIN.AUGMENT
    base = Photometric(
        jitter_prob=node.JITTER_PROB,
        brightness=node.BRIGHTNESS,
        contrast=node.CONTRAST,
        saturation=node.SATURATION,
        hue=node.HUE,
        gray_prob=node.GRAY_PROB,
        blur_prob=node.BLUR_PROB,
        blur_sigma=tuple(node.BLUR_SIGMA),
        solarize_prob=node.SOLARIZE_PROB,
    )
    second, local = (
        {
            field: default if value is None else value
            for field, value, default in (
                ("blur_prob", other.BLUR_PROB, node.BLUR_PROB),
                ("solarize_prob", other.SOLARIZE_PROB, node.SOLARIZE_PROB),
            )
        }
        for other in (node.VIEW2, node.LOCAL)
    )
    pair: dict[str, Any] = {field: (getattr(base, field), value) for field, value in second.items()}
    return Augment(
        [dataclasses.replace(base, **pair), dataclasses.replace(base, **local)],
        mean=cfg.MODEL.PIXEL_MEAN,
        std=cfg.MODEL.PIXEL_STD,
        device=device,
        seed=cfg.SEED,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )


def seeded_generator(*seed: int) -> torch.Generator:
    """Return a CPU generator whose stream numbers such as (seed, purpose, iteration) fix."""
    state = np.random.SeedSequence(seed).generate_state(2)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
