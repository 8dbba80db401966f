"""The learning rate over a run, by hand."""

import math

import pytest
from fvcore.common.param_scheduler import CosineParamScheduler

from pretrain.schedule import WarmupThen


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
