"""One rule for another number of processes than a config was made for, in both phases."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from mls_d2.core.errors import UserError


def scale_to_processes(cfg: CfgNode, world_size: int) -> CfgNode:
    """Return a config made for ``SOLVER.REFERENCE_WORLD_SIZE`` processes, adapted to W of them.

    Detectron2's rule: a process keeps its images; the learning rate follows the batch, and what is
    counted in iterations its inverse. Detectron2 logs what changed. A reference of 0 keeps all.

    Raises:
        UserError: the batch does not divide among the processes that the config is for.
    """
    processes = cfg.SOLVER.REFERENCE_WORLD_SIZE or world_size
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} does not divide among {processes} "
            f"processes; take a multiple of {processes}"
        )
    return DefaultTrainer.auto_scale_workers(cfg, world_size)


def images_normalised_together(cfg: CfgNode, norm: str, world_size: int) -> int:
    """Return the number of images from which a BatchNorm takes its statistics in training.

    Args:
        cfg: before it is scaled to the number of processes.
        norm: Detectron2's name of the norm.
        world_size: number of processes.
    """
    images = cfg.SOLVER.IMS_PER_BATCH // (cfg.SOLVER.REFERENCE_WORLD_SIZE or world_size)
    return images * world_size if "Sync" in norm else images
