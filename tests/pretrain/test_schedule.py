"""The learning rate over a run, by hand."""

import math
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage
from fvcore.common.param_scheduler import CosineParamScheduler

from pretrain.schedule import MomentumToOne, WarmupThen


def test_it_rises_linearly_and_then_spans_the_whole_cosine():
    schedule = WarmupThen(CosineParamScheduler(1, 0), 0.2)
    assert [schedule(where) for where in (0, 0.05, 0.1)] == pytest.approx([0, 0.25, 0.5])
    for where in (0.2, 0.4, 0.6, 1.0):
        expected = (1 + math.cos(math.pi * (where - 0.2) / 0.8)) / 2
        assert schedule(where) == pytest.approx(expected)


def test_without_a_warm_up_it_is_the_schedule_itself():
    cosine = CosineParamScheduler(1, 0)
    schedule = WarmupThen(cosine, 0.0)
    assert [schedule(x / 10) for x in range(11)] == [cosine(x / 10) for x in range(11)]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_warm_up_that_leaves_no_run_is_refused(share):
    with pytest.raises(ValueError, match=r"share of the run in \[0, 1\)"):
        WarmupThen(CosineParamScheduler(1, 0), share)


def test_the_momentum_rises_along_a_cosine_to_one_wherever_the_run_begins():
    for first in (0, 7):
        pair = SimpleNamespace(momentum=0.9)
        hook = MomentumToOne(pair)
        hook.trainer = SimpleNamespace(max_iter=10, storage=EventStorage())
        for iteration in range(first, 10):
            hook.trainer.iter = iteration
            hook.before_step()
            expected = 1 - 0.1 * (1 + math.cos(math.pi * iteration / 10)) / 2
            assert pair.momentum == pytest.approx(expected)
            assert hook.trainer.storage.latest()["momentum"][0] == pair.momentum
