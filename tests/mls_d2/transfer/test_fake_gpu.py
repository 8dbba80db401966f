"""Steps and predictions of every transfer model on a GPU that is not there (tests/fake_gpu.py)."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from mls_d2.config.loading import load_cfg
from mls_d2.run.loop import TrainingLoop
from mls_d2.run.registration import register_all
from mls_d2.transfer.tasks import task_of
from tests.conftest import few
from tests.fake_gpu import DEVICE, ROOT, fake_gpu

CONFIGS = sorted((ROOT / "transfer_configs").rglob("*_quick.yaml"))
FAST = (path for path in CONFIGS if path.parent.name != "classification" or "2007" in path.stem)
SIDE = 128


def inputs(cfg):
    """Two images as the mappers bring them, with what any of the models learns from."""
    objects = Instances((SIDE, SIDE))
    objects.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 90.0, 80.0], [20.0, 30.0, 60.0, 120.0]]))
    objects.gt_classes = torch.tensor([0, 1])
    objects.gt_masks = BitMasks(torch.ones(2, SIDE, SIDE, dtype=torch.bool))
    item = {
        "image": torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8),
        "height": SIDE,
        "width": SIDE,
        "instances": objects,
        "sem_seg": torch.randint(0, 8, (SIDE, SIDE), dtype=torch.uint8),
        "classes": [1],
        "difficult": [],
    }
    return [item, dict(item)]


@pytest.mark.parametrize("path", few(CONFIGS, *FAST), ids=lambda path: path.stem)
def test_no_tensor_is_on_the_wrong_device(path):
    register_all()
    cfg = load_cfg(str(path), ["MODEL.DEVICE", "cuda:0"])
    with fake_gpu():
        model = build_model(cfg)
        if cfg.SOLVER.MAX_ITER:
            loop = TrainingLoop(model.train(), [], task_of(cfg).optimizer(cfg, model))
            loop._batches, loop.iter = iter([inputs(cfg)]), 0
            loop.amp_dtype, loop.scaler = torch.float16, torch.amp.GradScaler("cuda")
            with EventStorage() as loop.storage:
                loop.run_step()
        with torch.no_grad():
            model.eval()(inputs(cfg))
    for key, weight in model.state_dict().items():
        assert weight.device == DEVICE, key
