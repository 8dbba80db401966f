"""The training of a transfer run."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from mls_d2.run import watchdog
from mls_d2.run.checkpointer import AtomicCheckpointer
from mls_d2.run.environment import seed_everything
from mls_d2.run.hooks import PreciseBN, Throughput, peak_memory_mb, shared_hooks
from mls_d2.run.loop import TrainingLoop
from mls_d2.run.processes import distribute, share_statistics
from mls_d2.run.signals import InterruptGuard
from mls_d2.transfer.tasks import task_of

logger = logging.getLogger(__name__)

_LOG_PERIOD = 20
KEPT_CHECKPOINTS = 2


@dataclasses.dataclass(frozen=True)
class Training:
    """The cost of a training run."""

    seconds: float  # in training steps
    images_per_s: float  # over all processes; NaN if nothing was trained
    peak_mb: float  # peak memory of the main process, in MiB

    @staticmethod
    def none() -> Training:
        """Return the cost of a run without training."""
        return Training(0.0, float("nan"), peak_memory_mb())


def train(
    cfg: CfgNode, model: nn.Module, interrupt: InterruptGuard, *, metadata: dict[str, Any]
) -> Training:
    """Train ``model`` in place, continuing from the newest checkpoint in ``OUTPUT_DIR``.

    ``SOLVER.MAX_ITER`` 0 trains nothing.

    Args:
        cfg: a Detectron2 config.
        model: with its initial weights.
        interrupt: entered.
        metadata: plain values to store in every checkpoint.

    Raises:
        UserError: a loss that is not finite, a full disk, damaged checkpoints.
        KeyboardInterrupt: after a signal; a checkpoint has been written.
    """
    if cfg.SOLVER.MAX_ITER == 0:
        return Training.none()
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
    start = checkpointer.first_iteration()
    if start:
        seed_everything(cfg, start_iteration=start)
    if start < cfg.SOLVER.MAX_ITER:
        loop = _build_loop(cfg, model, optimizer, scaler)
        evaluation = [PeriodicEvaluation(cfg, loop.model)] if cfg.TEST.EVAL_PERIOD > 0 else []
        loop.register_hooks(
            shared_hooks(
                cfg,
                optimizer=optimizer,
                scheduler=scheduler,
                throughput=throughput,
                interrupt=interrupt,
                checkpointer=checkpointer,
                guard=loop.guard,
                max_iter=cfg.SOLVER.MAX_ITER,
                log_period=_LOG_PERIOD,
                keep_checkpoints=KEPT_CHECKPOINTS,
                before_saving=_precise_bn(cfg, loop.model),
                after_saving=evaluation,
            )
        )
        loop.train(start, cfg.SOLVER.MAX_ITER)
        share_statistics(model)
    return Training(throughput.seconds, throughput.images_per_s, throughput.peak_mb)


def _build_loop(
    cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> TrainingLoop:
    return TrainingLoop(
        distribute(model.train(), torch.device(cfg.MODEL.DEVICE)),
        task_of(cfg).train_loader(cfg),
        optimizer,
        amp_dtype=torch.float16 if cfg.SOLVER.AMP.ENABLED else None,
        scaler=scaler,
        relief=memory_relief(cfg),
    )


def memory_relief(cfg: CfgNode) -> str:
    """Return the settings, with their values, that reduce the memory of a step."""
    return (
        f"SOLVER.IMS_PER_BATCH ({cfg.SOLVER.IMS_PER_BATCH}, over all processes), "
        f"SOLVER.AMP.ENABLED ({cfg.SOLVER.AMP.ENABLED}), {task_of(cfg).input_size(cfg)}"
    )


def _precise_bn(cfg: CfgNode, model: nn.Module) -> list[HookBase]:
    if not cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(model):
        return []
    in_process = cfg.clone()
    in_process.DATALOADER.NUM_WORKERS = 0  # A few batches do not need workers.
    loader = task_of(cfg).train_loader(in_process)
    return [PreciseBN(cfg.TEST.EVAL_PERIOD, model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)]


class PeriodicEvaluation(HookBase):
    """Evaluates every ``TEST.EVAL_PERIOD`` iterations, but not after the last.

    The last one is evaluated after the loop, when an interruption loses no training.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self._cfg, self._model = cfg, model

    def after_step(self) -> None:
        """Evaluate if it is time, and log ``<task>/<metric>``."""
        done = self.trainer.iter + 1
        if done % self._cfg.TEST.EVAL_PERIOD == 0 and done < self.trainer.max_iter:
            share_statistics(self._model)
            with watchdog.progress.paused():
                metrics = task_of(self._cfg).evaluate(self._cfg, self._model)
            for task, values in metrics.items():
                # A metric without a value is NaN, which is not JSON.
                known = {name: value for name, value in values.items() if math.isfinite(value)}
                scalars = {f"{task}/{name}": value for name, value in known.items()}
                self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
            comm.synchronize()
