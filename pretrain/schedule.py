"""Schedules of the learning rate and of the momentum coefficient."""

from __future__ import annotations

import math

from detectron2.engine import HookBase
from fvcore.common.param_scheduler import ParamScheduler

from pretrain.momentum import MomentumPair


class WarmupThen(ParamScheduler):
    """Rise linearly from 0 to the start value of a schedule, then follow that schedule.

    The schedule spans the time after the warm-up, so a cosine still ends at its end value.

    Args:
        schedule: what follows, a function of progress in [0, 1).
        warmup: share of the run that is warm-up, in [0, 1).
    """

    def __init__(self, schedule: ParamScheduler, warmup: float) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"the warm-up must be a share of the run in [0, 1), got {warmup}")
        self._schedule, self._warmup = schedule, warmup

    def __call__(self, where: float) -> float:
        """Return the multiplier at progress ``where`` in [0, 1]."""
        if where < self._warmup:
            return self._schedule(0.0) * where / self._warmup
        return self._schedule((where - self._warmup) / (1 - self._warmup))


class MomentumToOne(HookBase):
    """Raises the momentum coefficient of an EMA pair along a cosine: 1 - (1 - m)(cos πt + 1) / 2.

    t in [0, 1) is the progress of the run, so a resumed run goes on where it was.

    Args:
        pair: its ``momentum`` is m, that of the first step.

    Source: BYOL (arXiv 2006.07733), section 3.
    """

    def __init__(self, pair: MomentumPair) -> None:
        self._pair, self._start = pair, pair.momentum

    def before_step(self) -> None:
        """Set the coefficient of this step, and log it."""
        angle = math.pi * self.trainer.iter / self.trainer.max_iter
        self._pair.momentum = 1 - (1 - self._start) * (math.cos(angle) + 1) / 2
        self.trainer.storage.put_scalar("momentum", self._pair.momentum, smoothing_hint=False)
