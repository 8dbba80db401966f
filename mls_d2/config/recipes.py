"""The recipe of a run: the part of its config that runs must share to be compared."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from mls_d2.config.changes import affects_results, flatten
from mls_d2.core.errors import UserError
from mls_d2.core.files import YAML_FAULTS

if TYPE_CHECKING:  # Reports are made without Detectron2.
    from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

Recipe = Mapping[str, str]
"""Dotted config key to value as text."""

_SECTIONS = ("CLASSIFICATION", "DATALOADER", "DATASETS", "INPUT", "MODEL", "SOLVER", "TEST")
# Besides keys that do not affect results: how kernels are chosen, the initial weights, the seed.
_NEVER_COMPARED = frozenset({"CUDNN_BENCHMARK", "MODEL.WEIGHTS", "SEED"})
# The input format that a backbone was trained with is a property of the backbone.
_OF_THE_BACKBONE = frozenset({"INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"})
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def transfer_recipe(config: str) -> Recipe:
    """Return the recipe of a fine-tuning config, YAML.

    Raises:
        UserError: if ``config`` is not a YAML mapping.
    """
    return {
        key: value
        for key, value in _leaves(config).items()
        if key.partition(".")[0] in _SECTIONS and key not in _OF_THE_BACKBONE
    }


def pretraining_recipe(config: str) -> Recipe:
    """Return the recipe of a pretraining config; arguments and errors as above."""
    return {
        key: value
        for key, value in _leaves(config).items()
        if not key.startswith(("DATALOADER.", "TEST."))
    }


def differing_keys(recipes: Iterable[Recipe]) -> list[str]:
    """Return the sorted keys whose value, or presence, is not the same in all ``recipes``."""
    items = [frozenset(recipe.items()) for recipe in recipes]
    if not items:
        return []
    common = items[0].intersection(*items)
    return sorted({key for key, _ in items[0].union(*items) - common})


def changed_keys(config: str, published: str, phase: str) -> list[str]:
    """Return the keys of a recipe that differ from those of the published one.

    Seed, device, folders and how often something is reported are not part of a recipe.

    Args:
        config: of a run, YAML.
        published: of the config file alone, YAML.
        phase: ``"pretraining"`` or ``"transfer"``.
    """
    recipe = {"pretraining": pretraining_recipe, "transfer": transfer_recipe}[phase]
    # The mark itself is the result of this comparison.
    return [key for key in differing_keys(map(recipe, (config, published))) if key != "PRESET"]


def mark_if_changed(cfg: CfgNode, published: CfgNode, phase: str) -> None:
    """Set ``cfg.PRESET`` from ``"paper"`` to ``"custom"`` if options change the recipe.

    The results of such a run must not be compared with published numbers. ``published`` is the
    config of the file alone, without options; ``phase`` is that of :func:`changed_keys`.
    """
    if cfg.PRESET != "paper":
        return
    changed = changed_keys(cfg.dump(), published.dump(), phase)
    if changed:
        cfg.PRESET = "custom"
        logger.warning("PRESET is custom, not paper: %s differ from the recipe", ", ".join(changed))


@functools.lru_cache(maxsize=1024)
def _leaves(config: str) -> dict[str, str]:
    try:
        tree = yaml.load(config, Loader=_Loader)  # noqa: S506 - _Loader is a safe loader
    except YAML_FAULTS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"its config is not readable YAML: {reason}", code="bad-config") from error
    if not isinstance(tree, dict):
        raise UserError(
            f"its config is not a YAML mapping but {type(tree).__name__}", code="bad-config"
        )
    return {
        key: str(value)
        for key, value in flatten(tree).items()
        if affects_results(key) and key not in _NEVER_COMPARED
    }
