"""The ROI head by which C4 detectors of self-supervised backbones are compared."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn


class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Detectron2's C4 head with one more norm after res5 (MoCo's detection recipe).

    The block's last sum has no norm of its own, and without one the features that reach the
    predictors have whatever scale pretraining left them. The norm is ``res5.norm``, the name that
    other projects' checkpoints have it under; it is no part of a backbone file.

    Args:
        extra_norm: applied to what res5 returns, ``(R, C, H, W)`` to the same shape; None for none.
        **kwargs: of Detectron2's ``Res5ROIHeads``.
    """

    @configurable
    def __init__(self, *, extra_norm: nn.Module | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if extra_norm is not None:
            self.res5.add_module("norm", extra_norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments that a config asks for; the norm is ``MODEL.RESNETS.NORM``."""
        arguments = super().from_config(cfg, input_shape)
        channels = arguments["res5"][-1].out_channels
        arguments["extra_norm"] = get_norm(cfg.MODEL.RESNETS.NORM, channels)
        return arguments
