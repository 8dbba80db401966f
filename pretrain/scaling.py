"""One rule for another number of processes than a config was made for."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode

from mls_d2.errors import UserError

logger = logging.getLogger(__name__)


def scale_to_processes(cfg: CfgNode, world_size: int) -> None:
    """Adapt a config made for ``SOLVER.REFERENCE_WORLD_SIZE`` processes to W of them, in place.

    Detectron2's rule: a process keeps its images, so with s = W / reference the batch and the
    learning rate are multiplied by s and ``SOLVER.CHECKPOINT_PERIOD`` is divided by it. The length
    is in epochs and stays; the dictionary keeps its rows. What changed is logged, and the run's
    config.yaml holds the values used. A reference of 0 leaves everything as it is.

    Raises:
        UserError: the batch does not divide among the reference's processes.
    """
    solver = cfg.SOLVER
    reference = solver.REFERENCE_WORLD_SIZE
    if reference in (0, world_size):
        return
    if solver.IMS_PER_BATCH % reference:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} does not divide among the {reference} "
            "processes of SOLVER.REFERENCE_WORLD_SIZE; change one of them, or set the latter to 0"
        )
    before = (solver.IMS_PER_BATCH, solver.BASE_LR)
    solver.IMS_PER_BATCH = solver.IMS_PER_BATCH // reference * world_size
    solver.BASE_LR = solver.BASE_LR * world_size / reference
    solver.CHECKPOINT_PERIOD = max(1, round(solver.CHECKPOINT_PERIOD * reference / world_size))
    solver.REFERENCE_WORLD_SIZE = world_size
    logger.warning(
        "the config is for %d processes, there are %d: SOLVER.IMS_PER_BATCH %d -> %d, "
        "SOLVER.BASE_LR %g -> %g, an epoch has as many images; SOLVER.REFERENCE_WORLD_SIZE 0 "
        "would keep them",
        reference,
        world_size,
        before[0],
        solver.IMS_PER_BATCH,
        before[1],
        solver.BASE_LR,
    )
