"""The self-supervised methods and how a config builds one."""

from __future__ import annotations

from detectron2.config import CfgNode

from mls_d2.core.errors import UserError, nearest
from pretrain.methods.barlow_twins import BarlowTwins
from pretrain.methods.base import DictionaryMethod, Method, MomentumMethod, StepOutput
from pretrain.methods.byol import BYOL
from pretrain.methods.densecl import DenseCL
from pretrain.methods.mls import MLS
from pretrain.methods.moco import MoCo
from pretrain.methods.revisiting import Revisiting
from pretrain.methods.simclr import SimCLR
from pretrain.methods.simsiam import SimSiam

__all__ = [
    "METHODS",
    "DictionaryMethod",
    "Method",
    "MomentumMethod",
    "StepOutput",
    "build_method",
    "check_method_config",
]

# PRETRAIN.METHOD → class.
METHODS: dict[str, type[Method]] = {
    "mocov2": MoCo,
    "mls": MLS,
    "densecl": DenseCL,
    "revisiting": Revisiting,
    "byol": BYOL,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "barlowtwins": BarlowTwins,
}


def build_method(cfg: CfgNode) -> Method:
    """Build ``PRETRAIN.METHOD`` on Detectron2's backbone.

    Raises:
        UserError: see :func:`check_method_config`.
    """
    check_method_config(cfg)
    return METHODS[cfg.PRETRAIN.METHOD].from_config(cfg)


def check_method_config(cfg: CfgNode) -> None:
    """Check the values that belong to the method.

    Raises:
        UserError: an unknown method, or a value out of range; names key, value and what is allowed.
    """
    name = cfg.PRETRAIN.METHOD
    if name not in METHODS:
        raise UserError(f"PRETRAIN.METHOD '{name}' is unknown; {nearest(name, METHODS)}")
    METHODS[name].check_config(cfg)
