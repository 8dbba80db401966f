"""Hooks of Detectron2's training loop that both phases use."""

import random
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import detectron2.utils.comm as comm
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks

from mls_d2.run.checkpointer import AtomicCheckpointer, is_due
from mls_d2.run.loop import FiniteLossGuard
from mls_d2.run.processes import share_statistics
from mls_d2.run.progress import build_writers
from mls_d2.run.signals import InterruptGuard
from mls_d2.run.trackers import build_trackers


def peak_memory_mb() -> float:
    """Return the peak memory of this process in MiB: of the GPU if one is used, else resident."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class Throughput(HookBase):
    """Logs ``images_per_s`` and ``peak_memory_mb`` and sums the time of all steps.

    The sums survive a resume.

    Args:
        images_per_step: over all processes.

    Attributes:
        seconds: spent in training steps so far.
        peak_mb: peak memory of the training steps so far, in MiB.
    """

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self.seconds = self.peak_mb = self._start = 0.0
        self._steps = 0

    def before_step(self) -> None:
        """Note the time."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Log the rate of this step."""
        seconds = time.perf_counter() - self._start
        self.seconds += seconds
        self._steps += 1
        self.peak_mb = max(self.peak_mb, peak_memory_mb())
        storage = self.trainer.storage
        storage.put_scalar("images_per_s", self._images_per_step / seconds)
        storage.put_scalar("peak_memory_mb", self.peak_mb, smoothing_hint=False)

    @property
    def images_per_s(self) -> float:
        """Mean rate of all steps so far; NaN before the first."""
        return self._images_per_step * self._steps / self.seconds if self.seconds else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return {"seconds": self.seconds, "steps": self._steps, "peak_mb": self.peak_mb}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums of an earlier process."""
        self.seconds, self._steps = state["seconds"], state["steps"]
        self.peak_mb = state["peak_mb"]


class SeedSteps(HookBase):
    """Seeds Python, NumPy and torch before every step from (seed >= 0, process, iteration).

    Random numbers are then the same in a resumed run, on the CPU and on GPUs, and no state of a
    generator has to be saved.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        """Seed the generators."""
        numbers = (self._seed, comm.get_rank(), self.trainer.iter)
        state = int(np.random.SeedSequence(numbers).generate_state(1)[0])
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)


class PeriodicCheckpointer(HookBase):
    """Saves once per period, when all losses up to this step are known to be finite.

    Detectron2's hook of the same name does not remove checkpoints from before a resume.

    Args:
        checkpointer: what saves; use the hook in the main process only.
        period: in iterations; the last iteration is always saved, as ``model_final.pth``.
        guard: of the losses.
        max_to_keep: number of periodic checkpoints that stay (>= 1).
        permanent_period: in iterations; what is saved at its multiples stays for good; 0 for none.
    """

    def __init__(
        self,
        checkpointer: AtomicCheckpointer,
        period: int,
        *,
        guard: FiniteLossGuard,
        max_to_keep: int,
        permanent_period: int = 0,
    ) -> None:
        self._checkpointer, self._guard = checkpointer, guard
        self._periods = [p for p in (period, permanent_period) if p]
        self._kept = {"keep": max_to_keep, "permanent_period": permanent_period}

    def after_step(self) -> None:
        """Save if it is time."""
        iteration = self.trainer.iter
        due = any(is_due(iteration, period) for period in self._periods)
        last = iteration + 1 >= self.trainer.max_iter
        if due or last:
            self._guard.flush()
        if due:
            self._checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        if last:
            self._checkpointer.save("model_final", iteration=iteration)
        if due:
            self._checkpointer.prune(iteration, **self._kept)


class StopOnInterrupt(HookBase):
    """Saves a checkpoint and ends the run after the step in which a signal came.

    Register it in every process, after the hooks that change what a checkpoint stores. The
    processes exchange their signals after every step, because a scheduler gives them only seconds.
    In the last step nothing is raised: call ``interrupt.raise_if_agreed`` after the run.

    Raises:
        KeyboardInterrupt: after the checkpoint was written; Preempted if a scheduler asked.
    """

    def __init__(
        self, interrupt: InterruptGuard, checkpointer: AtomicCheckpointer, *, guard: FiniteLossGuard
    ) -> None:
        self._interrupt, self._checkpointer, self._guard = interrupt, checkpointer, guard

    def after_step(self) -> None:
        """Stop if asked to."""
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        try:
            self._interrupt.raise_if_agreed()
        except KeyboardInterrupt:
            self._guard.flush()
            self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            comm.synchronize()
            raise


class PreciseBN(hooks.PreciseBN):
    """Detectron2's hook, after which all processes have the same statistics.

    Each process estimates them from its own share of the data, and only one of them is saved
    (facebookresearch/detectron2 issue 5398).
    """

    def update_stats(self) -> None:
        """Estimate the statistics, then use those of the main process everywhere."""
        super().update_stats()
        if not self._disabled:
            share_statistics(self._model)


def shared_hooks(
    cfg: CfgNode,
    *,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    throughput: Throughput,
    interrupt: InterruptGuard,
    checkpointer: AtomicCheckpointer,
    guard: FiniteLossGuard,
    max_iter: int,
    log_period: int,
    keep_checkpoints: int,
    permanent_period: int = 0,
    show: Sequence[str] = (),
    before_saving: Sequence[HookBase] = (),
    after_saving: Sequence[HookBase] = (),
) -> list[HookBase]:
    """Return the hooks of both phases: time, schedule, checkpoints, metrics, stop on a signal.

    ``cfg`` has ``OUTPUT_DIR``, ``TRACKERS`` and ``SOLVER.CHECKPOINT_PERIOD``; all periods are in
    iterations, for ``keep_checkpoints`` and ``permanent_period`` see :class:`PeriodicCheckpointer`.
    The interrupt is entered already. The metrics get an entry every ``log_period``; ``show`` names
    further scalars to print. Hooks of the phase ``before_saving`` log, or change what a checkpoint
    stores; those ``after_saving`` log and may fail. If there are none of these, metrics are written
    before a checkpoint, so that a kill between the two loses no entry.
    """
    saving: list[HookBase] = []
    writing: list[HookBase] = []
    if comm.is_main_process():
        writers = build_writers(cfg.OUTPUT_DIR, max_iter, show=show)
        writers += build_trackers(cfg.TRACKERS, cfg.OUTPUT_DIR, cfg.dump())
        writing = [hooks.PeriodicWriter(writers, log_period)]
        saving = [
            PeriodicCheckpointer(
                checkpointer,
                cfg.SOLVER.CHECKPOINT_PERIOD,
                guard=guard,
                max_to_keep=keep_checkpoints,
                permanent_period=permanent_period,
            )
        ]
    return [
        throughput,
        hooks.IterationTimer(),
        hooks.LRScheduler(optimizer, scheduler),
        *before_saving,
        *([*saving, *after_saving, *writing] if after_saving else [*writing, *saving]),
        StopOnInterrupt(interrupt, checkpointer, guard=guard),
    ]
