"""What of a config decides the result: the part that runs must share to be compared."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from mls_d2.config.changes import decides, flatten
from mls_d2.core.errors import UserError

Recipe = Mapping[str, str]
"""Dotted config key to value as text."""

_TRANSFER_SECTIONS = (
    "CLASSIFICATION",
    "DATALOADER",
    "DATASETS",
    "INPUT",
    "MODEL",
    "SOLVER",
    "TEST",
)
# Beside what decides nothing: how kernels are chosen, what a run starts from, and its seed.
_NEVER_COMPARED = frozenset({"CUDNN_BENCHMARK", "MODEL.WEIGHTS", "SEED"})
# The input that a backbone was trained with belongs to the backbone, not to the transfer recipe.
_OF_THE_BACKBONE = frozenset({"INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"})
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def transfer_recipe(config: str) -> Recipe:
    """Return the recipe of a fine-tuning config.

    Args:
        config: the whole config, YAML.

    Raises:
        UserError: if ``config`` is not a YAML mapping.
    """
    return {
        key: value
        for key, value in _leaves(config).items()
        if key.partition(".")[0] in _TRANSFER_SECTIONS and key not in _OF_THE_BACKBONE
    }


def pretraining_recipe(config: str) -> Recipe:
    """Return the recipe of a pretraining config.

    Args:
        config: the whole config, YAML.

    Raises:
        UserError: if ``config`` is not a YAML mapping.
    """
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


@functools.lru_cache(maxsize=1024)
def _leaves(config: str) -> dict[str, str]:
    try:
        tree = yaml.load(config, Loader=_Loader)  # noqa: S506 - _Loader is a safe loader
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"its config is not readable YAML: {reason}") from error
    if not isinstance(tree, dict):
        raise UserError(f"its config is not a YAML mapping but {type(tree).__name__}")
    return {
        key: str(value)
        for key, value in flatten(tree).items()
        if decides(key) and key not in _NEVER_COMPARED
    }
