"""The schedule of the learning rate."""

from fvcore.common.param_scheduler import ParamScheduler


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
