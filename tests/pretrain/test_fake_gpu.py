"""Steps of every method on a GPU that is not there (tests/fake_gpu.py)."""

import pytest
import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage
from torch.testing._internal.distributed.fake_pg import FakeStore

from pretrain.methods import METHODS, mls
from pretrain.methods.mls import pseudo_labels
from tests.conftest import few
from tests.fake_gpu import DEVICE, SYNC_BATCH_NORM, fake_gpu
from tests.pretrain.quick_step import WAITS, quick_cfg, quick_trainer

SCALER = "mls_d2/run/loop.py"  # float16 alone: were all gradients finite?


def places(waits):
    return tuple(wait.partition(" at ")[2].rpartition(":")[0] for wait in waits)


def check_steps(trainer, gpu, name):
    """Take a step in float32, which is logged, and one in float16."""
    with EventStorage() as trainer.storage:
        trainer.iter, trainer.log_period = 0, 1
        trainer.run_step()
        trainer.iter, trainer.log_period = 1, 100
        gpu.waits.clear()
        trainer.amp_dtype = torch.float16
        trainer.scaler = torch.amp.GradScaler("cuda")
        trainer.run_step()
        assert places(gpu.waits) == (*WAITS.get(name, ()), SCALER)
    for key, weight in trainer.method.state_dict().items():
        assert weight.device == DEVICE, key


@pytest.mark.parametrize("name", METHODS.names())
def test_no_tensor_is_on_the_wrong_device_and_no_step_waits(name):
    cfg = quick_cfg(name)
    with fake_gpu() as gpu:
        check_steps(quick_trainer(cfg, DEVICE), gpu, name)


@pytest.fixture
def eight_ranks():
    """A group of eight of which this process is the first, and the others do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("eight_ranks")
@pytest.mark.parametrize("name", few(METHODS.names(), "mls", "simclr", "slotcon"))
def test_one_of_eight_processes_steps_alike(name):
    mode = "shuffled" if METHODS.get(name).has_keys else "sync"
    cfg = quick_cfg(name, "PRETRAIN.BATCH_NORM", mode, "SOLVER.REFERENCE_WORLD_SIZE", "0")
    with fake_gpu() as gpu:
        trainer = quick_trainer(cfg, DEVICE)
        trainer.amp_dtype = torch.bfloat16
        gpu.waits.clear()
        with EventStorage() as trainer.storage:
            trainer.iter = 0
            trainer.run_step()
        waits = [place for place in places(gpu.waits) if place != str(SYNC_BATCH_NORM)]
        assert tuple(waits) == WAITS.get(name, ())


@pytest.mark.parametrize(
    "plant",
    [
        lambda y: y.cpu(),
        lambda y: y & torch.ones(y.shape, dtype=torch.bool),
        lambda y: y if y.any() else ~y,
        lambda y: y.index_put_((y,), torch.ones((), dtype=torch.bool, device=y.device)),
    ],
)
def test_a_bug_that_only_a_gpu_would_show_is_found(plant, monkeypatch):
    monkeypatch.setattr(mls, "pseudo_labels", lambda *args: plant(pseudo_labels(*args)))
    with fake_gpu() as gpu, pytest.raises((RuntimeError, AssertionError)):
        check_steps(quick_trainer(quick_cfg("mls"), DEVICE), gpu, "mls")


def test_swav_counts_the_rows_of_its_queue_without_waiting():
    words = ("SWAV.QUEUE_SIZE", "128", "SWAV.QUEUE_START", "0.0")
    with fake_gpu() as gpu:
        check_steps(quick_trainer(quick_cfg("swav", *words), DEVICE), gpu, "swav")
