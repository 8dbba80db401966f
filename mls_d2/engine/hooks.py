"""Hooks of Detectron2's training loop that both phases use."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import detectron2.utils.comm as comm
import torch
import torch.distributed as dist
from detectron2.engine import HookBase, hooks
from fvcore.nn.precise_bn import get_bn_modules

from mls_d2.engine.checkpointer import AtomicCheckpointer
from mls_d2.engine.guards import FiniteLossGuard, InterruptGuard

# How often processes ask each other whether one was interrupted, in iterations.
_AGREE_PERIOD = 10


def peak_memory_mb() -> float:
    """Return the peak memory of this process in MiB: of the GPU if one is used, else resident."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class Throughput(HookBase):
    """Logs ``images_per_s`` and ``peak_memory_mb`` and sums up the time of all steps.

    The sums survive a resume.

    Args:
        images_per_step: over all processes.
    """

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._seconds = 0.0
        self._steps = 0
        self._peak_mb = 0.0
        self._start = 0.0

    def before_step(self) -> None:
        """Note the time."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Log the rate of this step."""
        seconds = time.perf_counter() - self._start
        self._seconds += seconds
        self._steps += 1
        self._peak_mb = max(self._peak_mb, peak_memory_mb())
        storage = self.trainer.storage
        storage.put_scalar("images_per_s", self._images_per_step / seconds)
        storage.put_scalar("peak_memory_mb", self._peak_mb, smoothing_hint=False)

    @property
    def seconds(self) -> float:
        """Time spent in training steps so far, in seconds."""
        return self._seconds

    @property
    def images_per_s(self) -> float:
        """Mean rate of all steps so far; NaN before the first."""
        if not self._seconds:
            return float("nan")
        return self._images_per_step * self._steps / self._seconds

    @property
    def peak_mb(self) -> float:
        """Peak memory of the training steps so far, in MiB."""
        return self._peak_mb

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return {"seconds": self._seconds, "steps": self._steps, "peak_mb": self._peak_mb}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums of an earlier process."""
        self._seconds, self._steps = state["seconds"], state["steps"]
        self._peak_mb = state["peak_mb"]


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook, which saves only when all losses up to this step are known to be finite.

    Args:
        checkpointer: what saves; use the hook in the main process only.
        period: in iterations; the last iteration is always saved, as ``model_final.pth``.
        guard: of the losses.
        max_to_keep: number of periodic checkpoints that stay, or None for all.
    """

    def __init__(
        self,
        checkpointer: AtomicCheckpointer,
        period: int,
        *,
        guard: FiniteLossGuard,
        max_to_keep: int | None = None,
    ) -> None:
        super().__init__(checkpointer, period, max_to_keep=max_to_keep)
        self._guard = guard

    def after_step(self) -> None:
        """Save if it is time."""
        done = self.trainer.iter + 1
        if done % self.period == 0 or done >= self.trainer.max_iter:
            self._guard.flush()
        super().after_step()


class StopOnInterrupt(HookBase):
    """Saves a checkpoint and ends the run at the end of the step in which a signal came.

    Register it in every process, after the hooks whose state belongs into a checkpoint.

    Raises:
        KeyboardInterrupt: after the checkpoint was written. A signal during the last step does not
            raise, because the run is over; look at ``interrupt.requested`` afterwards.
    """

    def __init__(
        self,
        interrupt: InterruptGuard,
        checkpointer: AtomicCheckpointer,
        *,
        guard: FiniteLossGuard,
    ) -> None:
        self._interrupt = interrupt
        self._checkpointer = checkpointer
        self._guard = guard

    def after_step(self) -> None:
        """Stop if asked to."""
        done = self.trainer.iter + 1
        alone = comm.get_world_size() == 1
        if done >= self.trainer.max_iter or not (alone or done % _AGREE_PERIOD == 0):
            return
        if self._interrupt.agreed():
            self._guard.flush()
            self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            comm.synchronize()
            raise KeyboardInterrupt


class PreciseBN(hooks.PreciseBN):
    """Detectron2's hook, after which all processes hold the same statistics.

    Each process estimates them from its own share of the data, and only one of them is saved
    (facebookresearch/detectron2 issue 5398).
    """

    def update_stats(self) -> None:
        """Estimate the statistics, then take those of the main process everywhere."""
        super().update_stats()
        if self._disabled or comm.get_world_size() == 1:
            return
        for module in get_bn_modules(self._model):
            dist.broadcast(module.running_mean, 0)
            dist.broadcast(module.running_var, 0)
