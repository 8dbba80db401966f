"""Hooks measure and save what they say."""

import math
import random
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import TrainerBase

from mls_d2.run.checkpointer import AtomicCheckpointer
from mls_d2.run.hooks import (
    PeriodicCheckpointer,
    PreciseBN,
    SeedSteps,
    Throughput,
    peak_memory_mb,
    share_statistics,
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


def test_old_checkpoints_go_and_the_last_is_named_final(tmp_path):
    checkpointer = AtomicCheckpointer(torch.nn.Linear(2, 2), str(tmp_path))
    hook = PeriodicCheckpointer(checkpointer, 2, guard=FiniteLossGuard(), max_to_keep=2)
    Loop([hook]).train(0, 9)
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == ["model_0000005.pth", "model_0000007.pth", "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    newest_first = [path.rsplit("/", 1)[1] for path in checkpointer.checkpoints()]
    assert newest_first == ["model_final.pth", "model_0000007.pth", "model_0000005.pth"]


def test_losses_still_on_their_way_are_looked_at_before_saving(tmp_path):
    class Late(FiniteLossGuard):
        def flush(self):
            raise NonFiniteLossError("late")

    checkpointer = AtomicCheckpointer(torch.nn.Linear(2, 2), str(tmp_path))
    hook = PeriodicCheckpointer(checkpointer, 2, guard=Late(), max_to_keep=2)
    with pytest.raises(NonFiniteLossError, match="late"):
        Loop([hook]).train(0, 9)
    assert list(tmp_path.iterdir()) == []


def test_metadata_and_iteration_come_back(tmp_path):
    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(model, str(tmp_path), metadata={"kind": "x"})
    assert checkpointer.resume() is None
    checkpointer.save("model_0000003", iteration=3)
    expected = model.weight.detach().clone()
    torch.nn.init.zeros_(model.weight)
    rest = checkpointer.resume()
    assert (rest["iteration"], rest["metadata"]) == (3, {"kind": "x"})
    assert torch.equal(model.weight, expected)


def statistics_of(rank):
    """Return the statistics of a process's own images, before and after they are shared."""
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=1.0), torch.nn.BatchNorm2d(3))
    generator = torch.Generator().manual_seed(rank)
    images = rank + torch.randn(4, 3, 5, 5, generator=generator)
    network(images)

    def copy():
        values = network.state_dict().items()
        return {name: value.clone() for name, value in values if "running" in name}

    own = copy()
    share_statistics(network)
    shared = copy()
    PreciseBN(1, network, [2 * images], 1).update_stats()
    return own, shared, copy()


def one_of_two(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(statistics_of(rank), folder / str(rank))
    dist.destroy_process_group()


def test_two_processes_end_with_the_statistics_of_the_main_one(tmp_path):
    # Forked, because a process of its own takes longer to import than all of this.
    processes = mp.start_processes(
        one_of_two, (tmp_path,), nprocs=2, join=False, daemon=True, start_method="fork"
    )
    for _ in range(2):
        done = processes.join(timeout=60)
    assert done
    (own, shared, precise), other = (torch.load(tmp_path / rank) for rank in "01")
    key = "0.running_mean"
    assert not torch.allclose(own[key], other[0][key])
    torch.testing.assert_close(shared, own)
    torch.testing.assert_close(other[1], own)
    torch.testing.assert_close(precise[key], 2 * own[key])
    torch.testing.assert_close(other[2], precise)


def test_one_process_keeps_its_statistics():
    own, shared, precise = statistics_of(3)
    torch.testing.assert_close(shared, own, rtol=0, atol=0)
    torch.testing.assert_close(precise["0.running_mean"], 2 * own["0.running_mean"])
