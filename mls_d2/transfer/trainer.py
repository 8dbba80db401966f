"""The training loop of a transfer run, from Detectron2's parts."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, create_ddp_model, hooks
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from mls_d2.core.files import trim_metrics
from mls_d2.run.checkpointer import AtomicCheckpointer
from mls_d2.run.environment import seed_everything
from mls_d2.run.guards import FiniteLossGuard, InterruptGuard, train_guarded
from mls_d2.run.heartbeat import ReportProgress
from mls_d2.run.hooks import (
    PeriodicCheckpointer,
    PreciseBN,
    StopOnInterrupt,
    Throughput,
    peak_memory_mb,
    share_statistics,
)
from mls_d2.run.progress import METRICS_FILE, build_writers
from mls_d2.transfer.tasks import task_of

logger = logging.getLogger(__name__)

_WRITE_PERIOD = 20
_KEPT_CHECKPOINTS = 2


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training run took.

    Attributes:
        seconds: in training steps.
        images_per_s: over all processes; NaN where nothing was trained.
        peak_mb: peak memory of the main process, in MiB.
    """

    seconds: float
    images_per_s: float
    peak_mb: float

    @staticmethod
    def none() -> Training:
        """Return what a run without training took."""
        return Training(0.0, float("nan"), peak_memory_mb())


def train(
    cfg: CfgNode, model: nn.Module, interrupt: InterruptGuard, *, metadata: dict[str, Any]
) -> Training:
    """Train ``model`` in place, continuing from the newest checkpoint in ``OUTPUT_DIR``.

    With ``SOLVER.MAX_ITER`` 0 there is nothing to train.

    Args:
        cfg: a Detectron2 config.
        model: with its initial weights.
        interrupt: entered; tells when to stop.
        metadata: plain values to store in every checkpoint.

    Raises:
        UserError: a loss that is not finite, a full disk, damaged checkpoints.
        KeyboardInterrupt: after a signal; a checkpoint has been written.
    """
    if cfg.SOLVER.MAX_ITER == 0:
        return Training.none()
    guard = FiniteLossGuard()
    throughput = Throughput(cfg.SOLVER.IMS_PER_BATCH)
    task = task_of(cfg)
    optimizer = task.optimizer(cfg, model)
    scheduler = task.scheduler(cfg, optimizer)
    scaler = torch.amp.GradScaler("cuda", enabled=cfg.SOLVER.AMP.ENABLED)
    checkpointer = AtomicCheckpointer(
        model,
        cfg.OUTPUT_DIR,
        metadata=metadata,
        optimizer=optimizer,
        scheduler=scheduler,
        grad_scaler=scaler,
        throughput=throughput,
    )
    start = (checkpointer.resume() or {}).get("iteration", -1) + 1
    if start:
        seed_everything(cfg, start_iteration=start)
    if comm.is_main_process():
        trim_metrics(os.path.join(cfg.OUTPUT_DIR, METRICS_FILE), start)
    if start < cfg.SOLVER.MAX_ITER:
        trainer = _build_trainer(cfg, model, optimizer, scaler)
        watch = trainer.model.register_forward_hook(
            lambda module, _, losses: guard.check(losses, trainer.iter) if module.training else None
        )
        trainer.register_hooks(
            [
                hooks.IterationTimer(),
                hooks.LRScheduler(optimizer, scheduler),
                throughput,
                ReportProgress(),
                *_build_hooks(cfg, trainer.model, checkpointer, guard),
                StopOnInterrupt(interrupt, checkpointer, guard=guard),
                *_build_writing(cfg),
            ]
        )
        relief = (
            f"SOLVER.IMS_PER_BATCH ({cfg.SOLVER.IMS_PER_BATCH}, over all processes), "
            f"SOLVER.AMP.ENABLED ({cfg.SOLVER.AMP.ENABLED}), "
            f"{task.input_size(cfg)}"
        )
        train_guarded(lambda: trainer.train(start, cfg.SOLVER.MAX_ITER), guard, relief=relief)
        watch.remove()
        share_statistics(model)
    return Training(throughput.seconds, throughput.images_per_s, throughput.peak_mb)


def _build_trainer(
    cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> SimpleTrainer:
    wrapped = create_ddp_model(model, broadcast_buffers=False)
    loader = task_of(cfg).train_loader(cfg)
    if cfg.SOLVER.AMP.ENABLED:
        return AMPTrainer(wrapped, loader, optimizer, grad_scaler=scaler)
    return SimpleTrainer(wrapped, loader, optimizer)


def _build_hooks(
    cfg: CfgNode, model: nn.Module, checkpointer: AtomicCheckpointer, guard: FiniteLossGuard
) -> list[HookBase]:
    """Return, in Detectron2's order: precise BN, then what saves it, then what measures it."""
    result: list[HookBase] = []
    if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(model):
        in_process = cfg.clone()
        in_process.DATALOADER.NUM_WORKERS = 0  # Few batches: not worth workers of its own.
        loader = task_of(cfg).train_loader(in_process)
        num_iter = cfg.TEST.PRECISE_BN.NUM_ITER
        result.append(PreciseBN(cfg.TEST.EVAL_PERIOD, model, loader, num_iter))
    if comm.is_main_process():
        period = cfg.SOLVER.CHECKPOINT_PERIOD
        result.append(
            PeriodicCheckpointer(checkpointer, period, guard=guard, max_to_keep=_KEPT_CHECKPOINTS)
        )
    if cfg.TEST.EVAL_PERIOD > 0:
        result.append(PeriodicEvaluation(cfg, model))
    return result


def _build_writing(cfg: CfgNode) -> list[HookBase]:
    if not comm.is_main_process():
        return []
    writers = build_writers(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER)
    return [hooks.PeriodicWriter(writers, period=_WRITE_PERIOD)]


class PeriodicEvaluation(HookBase):
    """Evaluates every ``TEST.EVAL_PERIOD`` iterations, but not after the last.

    That one is evaluated outside of the loop, where an interruption loses no training.

    Args:
        cfg: a Detectron2 config.
        model: what is trained.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self._cfg = cfg
        self._model = model

    def after_step(self) -> None:
        """Evaluate if it is time, and log ``<task>/<metric>``."""
        done = self.trainer.iter + 1
        if done % self._cfg.TEST.EVAL_PERIOD == 0 and done < self.trainer.max_iter:
            share_statistics(self._model)
            metrics = task_of(self._cfg).evaluate(self._cfg, self._model)
            for task, values in metrics.items():
                # What cannot be measured is NaN, which is not JSON.
                known = {name: value for name, value in values.items() if math.isfinite(value)}
                scalars = {f"{task}/{name}": value for name, value in known.items()}
                self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
            comm.synchronize()
