"""The step of pretraining, and what is logged of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from mls_d2.run.loop import TrainingLoop
from pretrain.batch import Batch, StepOutput
from pretrain.batchnorm import gather
from pretrain.data import ImageReport, ViewBatch
from pretrain.label_quality import LabelQuality
from pretrain.methods import Method
from pretrain.views import Augment

logger = logging.getLogger(__name__)


class PretrainTrainer(TrainingLoop):
    """Takes the steps of a method; everything else is hooks.

    Args:
        method: what is trained, possibly wrapped for data parallelism.
        batches: of this process, from the iteration to run on.
        optimizer: over the method's parameters that require gradients.
        augment: turns uint8 views into network input.
        iters_per_epoch: steps per pass over the data.
        images: keeps count of unreadable images.
        log_period: iterations between two entries in the metrics, which are means over them.
        label_quality: measures the method's pseudo-labels.
        means: of what is logged, kept in checkpoints.
        settings: ``amp_dtype``, ``scaler`` and ``relief`` of :class:`TrainingLoop`.
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
        **settings: Any,
    ) -> None:
        super().__init__(method, batches, optimizer, **settings)
        # Without the wrapper of DistributedDataParallel.
        self.method = cast(Method, getattr(method, "module", method))
        self.augment = augment
        self.iters_per_epoch = iters_per_epoch
        self.images = images
        self.log_period = log_period
        self.label_quality = label_quality
        self.means = means or ScalarMeans()
        self._output = StepOutput({})

    def compute_losses(self, batch: ViewBatch) -> dict[str, Tensor]:
        """Augment the views and return the weighted losses of the method."""
        self.images.update(batch.broken, batch.enlarged)
        self.method.before_step(self.iter)
        with self.autocast():
            self._output = self.model(self._batch(batch))
        return self._output.weighted()

    def before_optimizer_step(self) -> None:
        """Let the method change gradients."""
        self.scaler.unscale_(self.optimizer)
        self.method.before_optimizer_step()

    def after_optimizer_step(self, batch: ViewBatch) -> None:
        """Let the method follow its weights, and enqueue the keys of all processes."""
        self.method.after_optimizer_step()
        self._measured = self._measure_labels(batch)
        keys = self._output.keys
        self.method.enqueue({name: gather(rows) for name, rows in keys.items()})

    def log(self, losses: Mapping[str, Tensor], total: Tensor) -> None:
        """Sum up the step; put means, diagnostics and label quality into a due entry."""
        output = self._output
        self.means.add({"total_loss": total, **output.losses, **output.metrics})
        if self._is_due():
            self._put({**self.means.take(), **self.method.diagnostics()}, self._measured)

    def _is_due(self) -> bool:
        return (self.iter + 1) % self.log_period == 0

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

    def _measure_labels(self, loaded: ViewBatch) -> dict[str, Tensor]:
        """Return the quality of the pseudo-labels if it is due, before rows are replaced."""
        if self.label_quality is None:
            return {}
        labels, found = self._output.labels, {}
        if self._is_due() and labels is not None:
            found = self.label_quality.measure(loaded, labels)
        device = next(self.method.parameters()).device
        self.label_quality.enqueue(loaded, self.iter, device)
        return found

    def _put(self, scalars: dict[str, Tensor], measured: dict[str, Tensor]) -> None:
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


class ScalarMeans:
    """Means of scalars over the steps since they were last taken, without a transfer to the host.

    A single batch is noisy: its BatchNorm statistics move all of its similarities together. A
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
        """Return the means by name and reset; empty if no step was added."""
        if self._sum is None:
            return {}
        means = dict(zip(self._names, (self._sum / self._count).unbind(), strict=True))
        self._sum, self._count = None, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return what is summed up since the means were last taken."""
        return {"names": self._names, "sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums of an earlier process."""
        self._names, self._sum, self._count = state["names"], state["sum"], state["count"]
