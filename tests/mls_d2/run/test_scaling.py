"""The rule for another number of processes."""

import pytest

from mls_d2.config.defaults import get_cfg
from mls_d2.core.errors import UserError
from mls_d2.run.processes import scale_to_processes


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
    solver = (scaled := scale_to_processes(cfg, world_size)).SOLVER
    got = [solver.IMS_PER_BATCH, solver.BASE_LR, solver.CHECKPOINT_PERIOD]
    assert got == [batch, pytest.approx(lr), period]
    assert world_size == solver.REFERENCE_WORLD_SIZE
    assert cfg == config(8)
    assert scale_to_processes(scaled, world_size) == scaled


@pytest.mark.parametrize(("reference", "world_size"), [(0, 4), (8, 8)])
def test_without_another_number_nothing_changes(reference, world_size):
    cfg = config(reference)
    assert scale_to_processes(cfg, world_size) == config(reference)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="256 is not divisible by 6 processes"):
        scale_to_processes(config(6), 1)
