"""Pretraining on Detectron2's loop: one step, and what is logged of it."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import Tensor, nn

from mls_d2.run.guards import FiniteLossGuard
from pretrain.batch import Batch
from pretrain.batchnorm import gather
from pretrain.data import ImageReport, ViewBatch
from pretrain.label_quality import LabelQuality
from pretrain.methods import Method
from pretrain.views import Augment

logger = logging.getLogger(__name__)


class PretrainTrainer(TrainerBase):
    """Takes the steps of a method; everything else is hooks.

    Args:
        method: what is trained, possibly wrapped for data parallelism.
        batches: iterator over :class:`pretrain.data.ViewBatch`, from the iteration to run on.
        optimizer: over the method's parameters that require gradients.
        augment: turns uint8 views into network input.
        iters_per_epoch: steps per pass over the data.
        images: keeps count of unreadable images.
        log_period: iterations between two entries in the metrics, which are means over them.
        amp_dtype: compute in this type where autocast deems it safe; None: never.
        scaler: of the gradients; without effect if it is not enabled.
        label_quality: measures the method's pseudo-labels.
        means: of what is logged, kept in checkpoints.
    """

    def __init__(
        self,
        method: nn.Module,
        batches: Iterator[ViewBatch],
        optimizer: torch.optim.Optimizer,
        augment: Augment,
        *,
        iters_per_epoch: int,
        images: ImageReport,
        log_period: int,
        amp_dtype: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        label_quality: LabelQuality | None = None,
        means: ScalarMeans | None = None,
    ) -> None:
        super().__init__()
        self.wrapped = method
        # Without the wrapper of DistributedDataParallel.
        self.method = cast(Method, getattr(method, "module", method))
        self.batches, self.optimizer, self.augment = batches, optimizer, augment
        self.iters_per_epoch = iters_per_epoch
        self.images = images
        self.log_period = log_period
        self.amp_dtype = amp_dtype
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        self.label_quality = label_quality
        self.guard = FiniteLossGuard()
        self.means = means or ScalarMeans()

    def run_step(self) -> None:
        """Load, augment, forward, backward, step, enqueue."""
        start = time.perf_counter()
        loaded = next(self.batches)
        data_time = time.perf_counter() - start
        self.images.update(loaded.broken, loaded.enlarged)
        method = self.method
        method.before_step(self.iter)
        with self._autocast():
            output = self.wrapped(self._batch(loaded))
        losses = output.weighted()
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.guard.check(losses, self.iter)
        self.scaler.unscale_(self.optimizer)
        method.before_optimizer_step()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        method.after_optimizer_step()
        due = (self.iter + 1) % self.log_period == 0
        measured = self._measure_labels(loaded, output.labels, due=due)
        method.enqueue({name: gather(rows) for name, rows in output.keys.items()})

        self.storage.put_scalar("data_time", data_time)
        self.means.add({"total_loss": total, **output.losses, **output.metrics})
        if due:
            self._log({**self.means.take(), **method.diagnostics()}, measured)

    def _batch(self, loaded: ViewBatch) -> Batch:
        views = self.augment(loaded.groups, self.iter)
        device = views[0].device

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            views=views,
            rectangles=moved(loaded.geometry[..., :4]),
            flips=moved(loaded.geometry[..., 4].bool()),
            image_sizes=moved(loaded.image_sizes),
            index=moved(loaded.index),
            epoch=self.iter / self.iters_per_epoch,
            progress=self.iter / self.max_iter,
            extras={name: moved(value) for name, value in loaded.extras.items()},
        )

    def _measure_labels(
        self, loaded: ViewBatch, labels: Tensor | None, *, due: bool
    ) -> dict[str, Tensor]:
        """Return the quality of the pseudo-labels if it is due, before rows are replaced."""
        if self.label_quality is None:
            return {}
        found = self.label_quality.measure(loaded, labels) if due and labels is not None else {}
        device = next(self.method.parameters()).device
        self.label_quality.enqueue(loaded, self.iter, device)
        return found

    def _log(self, scalars: dict[str, Tensor], measured: dict[str, Tensor]) -> None:
        device = next(iter(scalars.values())).device
        # NCCL reduces what is on the GPU.
        found = {k: v.to(device, torch.float32) for k, v in (scalars | measured).items()}
        reduced = comm.reduce_dict(found)
        if comm.is_main_process():
            # One transfer to the host for all values. What cannot be measured on this batch is NaN,
            # which is not JSON.
            values = torch.stack(list(reduced.values())).tolist()
            known = {k: v for k, v in zip(reduced, values, strict=True) if math.isfinite(v)}
            self.storage.put_scalars(smoothing_hint=False, **known)

    def _autocast(self) -> contextlib.AbstractContextManager:
        device = next(self.method.parameters()).device
        return torch.autocast(device.type, self.amp_dtype, enabled=self.amp_dtype is not None)


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
