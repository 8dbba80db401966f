"""Pretraining on Detectron2's loop: one step, and what is logged of it."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn

from mls_d2.run.loop import TrainingLoop
from pretrain.batchnorm import gather
from pretrain.data import ImageReport, ViewBatch
from pretrain.label_quality import LabelQuality
from pretrain.methods import Method
from pretrain.momentum import MomentumPair
from pretrain.views import Photometric
from pretrain.views.photometric import Parameters, augment, normalize

logger = logging.getLogger(__name__)

# Keeps these random streams apart from those of pretrain.data.
_AUGMENT_STREAM, _LOCAL_STREAM = 3, 4
# Of float32: a megabyte.
_CACHED_VALUES = 2**18


class PretrainTrainer(TrainingLoop):
    """Takes the steps of a method; everything else is hooks.

    Args:
        method: what is trained.
        batches: :class:`pretrain.data.ViewBatch`, from the iteration to run on.
        optimizer: over the method's parameters that require gradients.
        augment: turns uint8 views into network input.
        iters_per_epoch: steps a pass over the data.
        images: keeps count of unreadable images.
        log_period: iterations between two entries in the metrics, which are means over them.
        label_quality: measures the method's pseudo-labels.
        means: of what is logged, where they are kept in checkpoints.
        options: of :class:`mls_d2.run.loop.TrainingLoop`.
    """

    def __init__(
        self,
        method: nn.Module,
        batches: Iterable[ViewBatch],
        optimizer: torch.optim.Optimizer,
        augment: Augment,
        *,
        iters_per_epoch: int,
        images: ImageReport,
        log_period: int,
        label_quality: LabelQuality | None = None,
        means: ScalarMeans | None = None,
        **options: Any,
    ) -> None:
        super().__init__(method, batches, optimizer, **options)
        self.method, self.augment = method, augment
        self.iters_per_epoch = iters_per_epoch
        self.images = images
        self.log_period = log_period
        self.label_quality = label_quality
        self.means = means or ScalarMeans()

    def compute_losses(self, batch: ViewBatch) -> dict[str, Tensor]:
        """Augment the views and return the losses of the method."""
        self.images.update(batch.broken, batch.enlarged)
        views, local = self.augment(batch.views, self.iter), {}
        if batch.local_views is not None:
            local["local_views"] = self.augment.local(batch.local_views, self.iter)
        pair = inner(self.method).online_encoder
        if isinstance(pair, MomentumPair) and pair.shuffle is not None:
            pair.shuffle.iteration = self.iter
        with self.autocast():
            self.output = self.method(*views, epoch=self.iter / self.iters_per_epoch, **local)
        return self.output.losses

    def after_optimizer_step(self, batch: ViewBatch) -> None:
        """Update the method, measure its labels, and then enqueue its keys."""
        method = inner(self.method)
        method.after_optimizer_step()
        due = (self.iter + 1) % self.log_period == 0
        self.measured = self._measure_labels(batch, self.output.labels, due=due)
        method.enqueue({name: gather(rows) for name, rows in self.output.keys.items()})

    def log(self, losses: Mapping[str, Tensor], total: Tensor) -> None:
        """Add this step's scalars to the means, and log these if it is time."""
        self.means.add({"total_loss": total, **losses, **self.output.metrics})
        if (self.iter + 1) % self.log_period == 0:
            diagnostics = inner(self.method).diagnostics()
            self._log({**self.means.take(), **diagnostics}, self.measured)

    def _measure_labels(
        self, batch: ViewBatch, labels: Tensor | None, *, due: bool
    ) -> dict[str, Tensor]:
        """Return the quality of the pseudo-labels where it is due, before they leave the rows."""
        if self.label_quality is None:
            return {}
        found = self.label_quality.measure(batch, labels) if due and labels is not None else {}
        self.label_quality.enqueue(batch, self.iter)
        return found

    def _log(self, scalars: dict[str, Tensor], measured: dict[str, Tensor]) -> None:
        device = next(iter(scalars.values())).device
        # NCCL reduces what is on the GPU.
        found = {k: v.to(device, torch.float32) for k, v in (scalars | measured).items()}
        reduced = comm.reduce_dict(found)
        if comm.is_main_process():
            # One transfer to the host for all values. What no image of the batch lets one measure
            # is NaN, which is not JSON.
            values = torch.stack(list(reduced.values())).tolist()
            known = {k: v for k, v in zip(reduced, values, strict=True) if math.isfinite(v)}
            self.storage.put_scalars(smoothing_hint=False, **known)


class ScalarMeans:
    """Means of scalars over the steps since they were last taken, without a transfer to the host.

    One batch tells little: its BatchNorm statistics move all of its similarities together. A
    checkpoint keeps what the main process has summed up, so that the entry after a resume is a mean
    over as many steps as any other.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Add one step's scalars; the names must be the same in every step."""
        values = torch.stack([value.detach().float() for value in scalars.values()])
        self._names = list(scalars)
        self._sum = values if self._sum is None else self._sum.to(values.device) + values
        self._count += 1

    def take(self) -> dict[str, Tensor]:
        """Return the means by name and begin anew; empty where no step was added."""
        if self._sum is None:
            return {}
        means = dict(zip(self._names, (self._sum / self._count).unbind(), strict=True))
        self._sum, self._count = None, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return what is summed up since the means were last taken."""
        return {"names": self._names, "sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the sums of an earlier process."""
        self._names, self._sum, self._count = state["names"], state["sum"], state["count"]


class Augment:
    """From a batch's uint8 views to normalised float views on the model's device.

    Args:
        photometric: the augmentation on float RGB in [0, 1] of the two views, whose probabilities
            may differ between first and second views.
        local: that of local views; None: the same.
        mean: ``MODEL.PIXEL_MEAN``, RGB, 0–255 scale.
        std: ``MODEL.PIXEL_STD``.
        device: where the model is.
        seed: of the parameters; what is drawn depends on (seed, iteration, place in the batch of
            all processes) alone.
        rank: this process.
        world_size: processes, each with an equal share of the batch, in rank order.
    """

    def __init__(
        self,
        photometric: Photometric,
        *,
        local: Photometric | None = None,
        mean: list[float],
        std: list[float],
        device: torch.device,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.photometric, self.mean, self.std = photometric, mean, std
        self.local_photometric = local or photometric
        self.device, self.seed = device, seed
        self.rank, self.world_size = rank, world_size

    def __call__(self, views: Tensor, iteration: int) -> tuple[Tensor, Tensor]:
        """Turn ``(2, N, H, W, 3)`` uint8 into two ``(N, 3, H, W)`` float views."""
        generator = seeded_generator(self.seed, _AUGMENT_STREAM, iteration)
        share = views.shape[1]
        parameters = self.photometric.draw(2 * share * self.world_size, generator)
        places = torch.arange(2 * share * self.world_size).view(2, self.world_size, share)
        mine = parameters[places[:, self.rank].flatten()]
        first_views, second_views = self._changed(views.flatten(0, 1), mine).chunk(2)
        return first_views, second_views

    def local(self, views: Tensor, iteration: int) -> Tensor:
        """Turn local views ``(N, L, h, w, 3)`` uint8 into ``(N, L, 3, h, w)`` float."""
        generator = seeded_generator(self.seed, _LOCAL_STREAM, iteration)
        share = views.shape[0] * views.shape[1]
        parameters = self.local_photometric.draw(share * self.world_size, generator)
        mine = parameters[slice(self.rank * share, (self.rank + 1) * share)]
        return self._changed(views.flatten(0, 1), mine).unflatten(0, views.shape[:2])

    def _changed(self, pixels: Tensor, mine: Parameters) -> Tensor:
        """Return ``(M, H, W, 3)`` uint8 as ``(M, 3, H, W)`` float, augmented and normalised."""
        flat = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        out = torch.empty(flat.shape, device=self.device, memory_format=torch.channels_last)
        # A processor's cache holds a few images and not a batch: so it is several times as fast.
        step = len(out) if out.is_cuda else max(1, _CACHED_VALUES // out[0].numel())
        for first in range(0, len(out), step):
            part = slice(first, first + step)
            # Channel by channel in memory: colour operations are 1.5 times as fast so.
            images = flat[part].contiguous().float().div_(255)
            out[part] = normalize(augment(images, mine[part]), self.mean, self.std)
        return out


def augment_from_config(cfg: CfgNode, device: torch.device) -> Augment:
    """Build the augmentation that ``PRETRAIN.AUGMENT`` describes."""
    node = cfg.PRETRAIN.AUGMENT
    photometric = Photometric(
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
    blur, solarize = (
        first if second is None else (first, second)
        for first, second in (
            (node.BLUR_PROB, node.VIEW2.BLUR_PROB),
            (node.SOLARIZE_PROB, node.VIEW2.SOLARIZE_PROB),
        )
    )
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    return Augment(
        dataclasses.replace(photometric, blur_prob=blur, solarize_prob=solarize),
        local=photometric,
        mean=mean,
        std=std,
        device=device,
        seed=cfg.SEED,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )


def seeded_generator(*seed: int) -> torch.Generator:
    """Return a CPU generator whose stream numbers such as (seed, purpose, iteration) fix."""
    state = np.random.SeedSequence(seed).generate_state(2)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def inner(method: nn.Module) -> Method:
    """Return the method without its DistributedDataParallel wrapper."""
    module = getattr(method, "module", method)
    assert isinstance(module, Method), f"not a method: {type(module)}"
    return module
