"""The polynomial learning rate schedule of semantic segmentation."""

from __future__ import annotations

from fvcore.common.param_scheduler import ParamScheduler


class PolyParamScheduler(ParamScheduler):
    """Falls from 1 to a floor: ``(1 - floor) · (1 - t)^power + floor``.

    Args:
        power: 1 is linear.
        floor: what is left at the end, in [0, 1].

    Source: mmsegmentation's ``poly`` policy, whose ``min_lr`` is the floor times the initial rate.
    """

    def __init__(self, power: float, floor: float) -> None:
        self._power = power
        self._floor = floor

    def __call__(self, where: float) -> float:
        """Return the factor at the share ``where`` of training, in [0, 1]."""
        return (1 - self._floor) * (1 - where) ** self._power + self._floor
