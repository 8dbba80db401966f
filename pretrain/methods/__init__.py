"""The self-supervised methods and how a config builds one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import nn

from mls_d2.errors import UserError, nearest
from pretrain.heads import mlp_projector
from pretrain.methods.base import Method, StepOutput
from pretrain.methods.mls import DICTIONARIES, LOSSES, MLS
from pretrain.methods.moco import MoCo

__all__ = ["METHODS", "Method", "StepOutput", "build_method", "check_method_config"]


def _moco(cfg: CfgNode) -> MoCo:
    backbone, projector, _ = _encoder(cfg)
    return MoCo(backbone, projector, **_moco_arguments(cfg))


def _mls(cfg: CfgNode) -> MLS:
    backbone, projector, feature_dim = _encoder(cfg)
    return MLS(
        backbone,
        projector,
        **_moco_arguments(cfg),
        feature_dim=feature_dim,
        num_positives=cfg.MLS.K,
        loss_weight=cfg.MLS.LAMBDA,
        warmup=cfg.MLS.WARMUP,
        keep_nce=cfg.MLS.KEEP_NCE,
        loss=cfg.MLS.LOSS,
        dictionaries=cfg.MLS.DICTIONARIES,
    )


METHODS: dict[str, Callable[[CfgNode], Method]] = {"mocov2": _moco, "mls": _mls}


def build_method(cfg: CfgNode) -> Method:
    """Build ``PRETRAIN.METHOD`` on Detectron2's backbone.

    Raises:
        UserError: see :func:`check_method_config`.
    """
    check_method_config(cfg)
    return METHODS[cfg.PRETRAIN.METHOD](cfg)


def check_method_config(cfg: CfgNode) -> None:
    """Check the values that belong to the method.

    Raises:
        UserError: an unknown method, or a value out of range; names key, value and what is allowed.
    """
    name, size = cfg.PRETRAIN.METHOD, cfg.MOCO.DICTIONARY_SIZE
    if name not in METHODS:
        raise UserError(f"PRETRAIN.METHOD '{name}' is unknown; {nearest(name, METHODS)}")
    if size % cfg.SOLVER.IMS_PER_BATCH:
        raise UserError(
            "the batch must divide the dictionary: SOLVER.IMS_PER_BATCH is "
            f"{cfg.SOLVER.IMS_PER_BATCH}, MOCO.DICTIONARY_SIZE is {size}; change one of them"
        )
    rules = [
        ("MOCO.TEMPERATURE", cfg.MOCO.TEMPERATURE > 0, "> 0"),
        ("MOCO.MOMENTUM", 0 <= cfg.MOCO.MOMENTUM < 1, "in [0, 1)"),
        (
            "MOCO.MOMENTUM_SCHEDULE",
            cfg.MOCO.MOMENTUM_SCHEDULE in ("constant", "cosine"),
            "'constant' or 'cosine'",
        ),
        ("MOCO.PROJECTOR_NORM", cfg.MOCO.PROJECTOR_NORM in ("", "BN"), "'' or 'BN'"),
        ("MLS.K", 1 <= cfg.MLS.K < size, f"in [1, D) with D = MOCO.DICTIONARY_SIZE = {size}"),
        ("MLS.LAMBDA", cfg.MLS.LAMBDA >= 0, ">= 0"),
        ("MLS.WARMUP", cfg.MLS.WARMUP >= 0, ">= 0 epochs"),
        ("MLS.LOSS", cfg.MLS.LOSS in LOSSES, _one_of(LOSSES)),
        ("MLS.DICTIONARIES", cfg.MLS.DICTIONARIES in DICTIONARIES, _one_of(DICTIONARIES)),
    ]
    for key, holds, expected in rules:
        if not holds:
            node, leaf = key.split(".")
            raise UserError(f"{key} must be {expected}, got {cfg[node][leaf]!r}")


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(f"'{name}'" for name in names)


def _encoder(cfg: CfgNode) -> tuple[nn.Module, nn.Module, int]:
    backbone = build_backbone(cfg)
    feature_dim = list(backbone.output_shape().values())[-1].channels
    projector = mlp_projector(
        feature_dim,
        cfg.MOCO.PROJECTOR_HIDDEN_DIM,
        cfg.MOCO.PROJECTOR_OUT_DIM,
        norm=cfg.MOCO.PROJECTOR_NORM,
    )
    return backbone, projector, feature_dim


def _moco_arguments(cfg: CfgNode) -> dict:
    return {
        "embedding_dim": cfg.MOCO.PROJECTOR_OUT_DIM,
        "dictionary_size": cfg.MOCO.DICTIONARY_SIZE,
        "temperature": cfg.MOCO.TEMPERATURE,
        "momentum": cfg.MOCO.MOMENTUM,
    }
