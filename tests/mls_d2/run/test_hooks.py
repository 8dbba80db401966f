"""Hooks measure, seed and save."""

import math
import random
import time

import numpy as np
import pytest
import torch
from detectron2.engine import TrainerBase

from mls_d2.run.checkpointer import AtomicCheckpointer
from mls_d2.run.hooks import (
    PeriodicCheckpointer,
    SeedSteps,
    Throughput,
    peak_memory_mb,
)
from mls_d2.run.loop import FiniteLossGuard, NonFiniteLossError


class Loop(TrainerBase):
    """Sleeps instead of training."""

    def __init__(self, hooks, seconds=0.0):
        super().__init__()
        self.seconds = seconds
        self.logged = []
        self.register_hooks(hooks)

    def run_step(self):
        time.sleep(self.seconds)

    def after_step(self):
        super().after_step()
        self.logged.append({name: value for name, (value, _) in self.storage.latest().items()})


def test_throughput_counts_the_time_of_steps_and_goes_on_after_a_resume():
    hook = Throughput(images_per_step=8)
    assert math.isnan(hook.images_per_s)
    loop = Loop([hook], seconds=0.02)
    loop.train(0, 3)
    # Sleeping never takes less than asked for.
    assert hook.seconds >= 0.06
    assert hook.images_per_s == pytest.approx(24 / hook.seconds)
    assert [line["images_per_s"] <= 8 / 0.02 for line in loop.logged] == [True] * 3
    resumed = Throughput(images_per_step=8)
    resumed.load_state_dict(hook.state_dict())
    Loop([resumed], seconds=0.02).train(3, 4)
    assert resumed.seconds >= hook.seconds + 0.02
    assert resumed.images_per_s == pytest.approx(32 / resumed.seconds)


def test_steps_draw_by_seed_and_iteration_alone():
    class Drawing(Loop):
        def run_step(self):
            self.drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))

    def draws(seed, start, stop):
        loop = Drawing([SeedSteps(seed)])
        loop.drawn = []
        loop.train(start, stop)
        return loop.drawn

    whole = draws(3, 0, 4)
    assert len(set(whole)) == 4
    assert draws(3, 2, 4) == whole[2:]
    assert not set(draws(4, 0, 4)) & set(whole)


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_mb()
    block = torch.ones(2**20 * (int(before) + 64) // 4)
    assert peak_memory_mb() >= before + 32
    del block
    # A peak does not fall again.
    assert peak_memory_mb() >= before + 32


def test_losses_still_on_their_way_are_looked_at_before_saving(tmp_path):
    class Late(FiniteLossGuard):
        def flush(self):
            raise NonFiniteLossError("late")

    checkpointer = AtomicCheckpointer(torch.nn.Linear(2, 2), str(tmp_path))
    hook = PeriodicCheckpointer(checkpointer, 2, guard=Late(), max_to_keep=2)
    with pytest.raises(NonFiniteLossError, match="late"):
        Loop([hook]).train(0, 9)
    assert list(tmp_path.iterdir()) == []
