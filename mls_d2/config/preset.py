"""Whether a run is still the published recipe whose config it was started from."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode

from mls_d2.config.recipes import differing_keys, transfer_recipe

logger = logging.getLogger(__name__)


def mark_changed_recipe(cfg: CfgNode, published: CfgNode) -> None:
    """Set ``cfg.PRESET`` from ``"paper"`` to ``"custom"`` where options change the recipe.

    Nothing of such a run may stand beside published numbers. Seed, device, folders and how often
    something is reported are no part of a recipe.

    Args:
        cfg: the config of a run, options merged in.
        published: the config of the file alone.
    """
    if cfg.PRESET != "paper":
        return
    changed = differing_keys([transfer_recipe(item.dump()) for item in (cfg, published)])
    if changed:
        cfg.PRESET = "custom"
        logger.warning("PRESET is custom, not paper: %s differ from the recipe", ", ".join(changed))
