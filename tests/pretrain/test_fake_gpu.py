"""Steps of every method on a GPU that is not there (tests/fake_gpu.py)."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage
from torch.testing._internal.distributed.fake_pg import FakeStore

from pretrain import online_eval
from pretrain.annotations import Annotations
from pretrain.label_quality import LabelQuality
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


# Branches of a step that the quick configs do not take.
BRANCHES = (
    ("mls", "MLS.LOSS", "knn"),
    ("mls", "MLS.LOSS", "bce_pos"),
    ("mls", "MLS.LOSS", "none"),
    ("mls", "MLS.DICTIONARIES", "g"),
    ("swav", "SWAV.QUEUE_SIZE", "128", "SWAV.QUEUE_START", "0.0"),
    ("pixpro", "PIXPRO.LOSS", "contrast", "PIXPRO.INSTANCE_WEIGHT", "1.0"),
    ("resim", "RESIM.NECK", "c4", "MODEL.RESNETS.OUT_FEATURES", "['res4', 'res5']"),
    ("setsim", "SETSIM.NEAREST", "True"),
)


@pytest.mark.parametrize(
    ("name", "words"),
    [*((name, ()) for name in METHODS.names()), *((name, words) for name, *words in BRANCHES)],
)
def test_no_tensor_is_on_the_wrong_device_and_no_step_waits(name, words):
    cfg = quick_cfg(name, *words)
    with fake_gpu() as gpu:
        check_steps(quick_trainer(cfg, DEVICE), gpu, name)


def test_measuring_with_labels_has_every_tensor_on_the_right_device(monkeypatch):
    data = Annotations(
        tuple(map(str, range(8))), (np.array([[0, 0, 90, 80]]),) * 8, (np.array([0]),) * 8, ("cup",)
    )
    monkeypatch.setattr(
        online_eval, "_central", lambda _, size: np.zeros((size, size, 3), np.uint8)
    )
    cfg = quick_cfg("mls", "SOLVER.IMS_PER_BATCH", "8", "MOCO.DICTIONARY_SIZE", "16")
    with fake_gpu(), EventStorage() as storage:
        trainer = quick_trainer(cfg, DEVICE, log_period=1)
        trainer.storage, trainer.label_quality = storage, LabelQuality(data, dictionary_size=16)
        for trainer.iter in range(3):  # after two of them the categories of all rows are known
            trainer.run_step()
        hook = online_eval.OnlineEvaluation(
            trainer.method.encoder.backbone,
            *(data, data),
            period=1,
            size=32,
            mean=cfg.MODEL.PIXEL_MEAN,
            std=cfg.MODEL.PIXEL_STD,
        )
        assert hook.measure() == 1.0  # as every number of the fake GPU
    assert "label_precision" in storage.histories()


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
