"""Self-supervised methods: every module of this package registers its own."""

import importlib
import pkgutil

from detectron2.config import CfgNode

from mls_d2.core.errors import UserError, nearest
from pretrain.methods.base import METHODS, Method

for _module in sorted(item.name for item in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

__all__ = ["METHODS", "Method", "build_method", "method_class"]


def method_class(cfg: CfgNode) -> type[Method]:
    """Return the class of ``PRETRAIN.METHOD``.

    Raises:
        UserError: an unknown method.
    """
    name = cfg.PRETRAIN.METHOD
    if name not in METHODS:
        known = nearest(name, METHODS.names())
        raise UserError(f"PRETRAIN.METHOD '{name}' is unknown; {known}", code="unknown-name")
    return METHODS.get(name)


def build_method(cfg: CfgNode) -> Method:
    """Build ``PRETRAIN.METHOD`` on Detectron2's backbone.

    Raises:
        UserError: an unknown method, or a value out of range; names key, value and what is allowed.
    """
    method = method_class(cfg)
    method.check_config(cfg)
    return method.from_config(cfg)
