"""The polynomial schedule against its formula, through Detectron2's scheduler."""

import pytest
import torch

from mls_d2.config.loading import load_cfg
from mls_d2.run.processes import scale_to_processes
from mls_d2.transfer.poly_schedule import PolyParamScheduler
from mls_d2.transfer.segmentation import Segmentation

CONFIG = "transfer_configs/cityscapes/pspnet_R_50_40k.yaml"


def rates(cfg, at):
    """Return the learning rates of some iterations of a run."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    scheduler = Segmentation().scheduler(cfg, optimizer)
    found = []
    for iteration in range(max(at) + 1):
        if iteration in at:
            found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.fixture
def recipe(request):
    return load_cfg(str(request.config.rootpath / CONFIG))


def test_the_recipe_falls_from_a_hundredth_to_its_floor_without_warm_up(recipe):
    at = [0, 1, 500, 2000, 3999]
    recipe.SOLVER.MAX_ITER = 4000
    expected = [(0.01 - 1e-4) * (1 - t / 4000) ** 0.9 + 1e-4 for t in at]
    assert rates(recipe, at) == pytest.approx(expected, rel=1e-12)
    assert PolyParamScheduler(0.9, 0.01)(1.0) == pytest.approx(0.01)


def test_the_floor_follows_the_learning_rate_when_the_batch_is_scaled(recipe):
    recipe.SOLVER.MAX_ITER = 100
    one = scale_to_processes(recipe, 1)
    assert (one.SOLVER.IMS_PER_BATCH, one.SOLVER.BASE_LR, one.SOLVER.MAX_ITER) == (2, 0.0025, 400)
    assert rates(one, [0, 40]) == pytest.approx([r / 4 for r in rates(recipe, [0, 10])])


def test_warm_up_and_detectron2s_schedules_are_there_for_those_who_ask(recipe):
    recipe.SOLVER.MAX_ITER, recipe.SOLVER.WARMUP_ITERS = 100, 10
    recipe.SOLVER.WARMUP_FACTOR = 0.0
    after = PolyParamScheduler(0.9, 0.01)(0.1) * 0.01
    assert rates(recipe, [0, 5, 10]) == pytest.approx([0.0, after / 2, after])
    recipe.SOLVER.LR_SCHEDULER_NAME, recipe.SOLVER.WARMUP_ITERS = "WarmupMultiStepLR", 0
    recipe.SOLVER.STEPS = (5,)
    assert rates(recipe, [4, 5]) == pytest.approx([0.01, 0.001])
