"""Steps of every method on a GPU that is not there (tests/fake_gpu.py)."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from pretrain.methods import METHODS
from tests.fake_gpu import DEVICE, fake_gpu
from tests.pretrain.quick_step import WAITS, quick_cfg, quick_trainer

SCALER = "mls_d2/run/loop.py"  # float16 alone: were all gradients finite?


def places(waits):
    return tuple(wait.partition(" at ")[2].rpartition(":")[0] for wait in waits)


def check_steps(trainer, gpu, name):
    """Take a step in float32, which is logged, one in bfloat16 and one in float16."""
    expected = WAITS.get(name, ())
    with EventStorage() as trainer.storage:
        trainer.iter, trainer.log_period = 0, 1
        trainer.run_step()
        trainer.iter, trainer.log_period = 1, 100
        gpu.waits.clear()
        trainer.amp_dtype = torch.bfloat16
        trainer.run_step()
        assert places(gpu.waits) == expected
        gpu.waits.clear()
        trainer.amp_dtype = torch.float16
        trainer.scaler = torch.amp.GradScaler("cuda")
        trainer.run_step()
        assert places(gpu.waits) == (*expected, SCALER)
    for key, weight in trainer.method.state_dict().items():
        assert weight.device == DEVICE, key


@pytest.mark.parametrize("name", METHODS.names())
def test_no_tensor_is_on_the_wrong_device_and_no_step_waits(name):
    cfg = quick_cfg(name)
    with fake_gpu() as gpu:
        check_steps(quick_trainer(cfg, DEVICE), gpu, name)
