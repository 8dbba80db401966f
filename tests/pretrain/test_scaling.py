"""The rule for another number of processes."""

import pytest

from mls_d2.config import get_cfg
from mls_d2.errors import UserError
from pretrain.scaling import scale_to_processes


def config(reference: int):
    cfg = get_cfg()
    cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH = reference, 256
    cfg.SOLVER.BASE_LR, cfg.SOLVER.CHECKPOINT_PERIOD = 0.3, 4620
    return cfg


@pytest.mark.parametrize(
    ("world_size", "batch", "lr", "period"), [(1, 32, 0.0375, 36960), (16, 512, 0.6, 2310)]
)
def test_a_process_keeps_its_images_and_the_rate_follows(world_size, batch, lr, period):
    cfg = config(8)
    scale_to_processes(cfg, world_size)
    solver = cfg.SOLVER
    got = [solver.IMS_PER_BATCH, solver.BASE_LR, solver.CHECKPOINT_PERIOD]
    assert got == [batch, pytest.approx(lr), period]
    assert world_size == solver.REFERENCE_WORLD_SIZE
    unchanged = cfg.clone()
    scale_to_processes(cfg, world_size)
    assert cfg == unchanged


@pytest.mark.parametrize(("reference", "world_size"), [(0, 3), (8, 8)])
def test_without_another_number_nothing_changes(reference, world_size):
    cfg = config(reference)
    scale_to_processes(cfg, world_size)
    assert cfg == config(reference)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="256 does not divide among the 6 processes"):
        scale_to_processes(config(6), 1)
