"""Steps and predictions of every transfer model on a GPU that is not there (tests/fake_gpu.py)."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from mls_d2.config.loading import load_cfg
from mls_d2.run.loop import TrainingLoop
from mls_d2.run.registration import register_all
from mls_d2.transfer.gpu_check import inputs
from mls_d2.transfer.tasks import task_of
from tests.conftest import few
from tests.fake_gpu import DEVICE, ROOT, fake_gpu

CONFIGS = sorted((ROOT / "transfer_configs").rglob("*_quick.yaml"))
FAST = (path for path in CONFIGS if path.parent.name != "classification" or "2007" in path.stem)


def batch_of(cfg):
    """Return two images with masks of pixels: polygons are cut by the numbers of boxes."""
    found = inputs(cfg)
    for item in found:
        masks = torch.ones(1, *item["image"].shape[1:], dtype=torch.bool)
        item["instances"].gt_masks = BitMasks(masks)
    return found


@pytest.mark.parametrize("path", few(CONFIGS, *FAST), ids=lambda path: path.stem)
def test_no_tensor_is_on_the_wrong_device(path):
    register_all()
    cfg = load_cfg(str(path), ["MODEL.DEVICE", "cuda:0"])
    with fake_gpu():
        model = build_model(cfg)
        if cfg.SOLVER.MAX_ITER:
            loop = TrainingLoop(model.train(), [], task_of(cfg).optimizer(cfg, model))
            loop._batches, loop.iter = iter([batch_of(cfg)]), 0
            loop.amp_dtype, loop.scaler = torch.float16, torch.amp.GradScaler("cuda")
            with EventStorage() as loop.storage:
                loop.run_step()
        with torch.no_grad():
            model.eval()(batch_of(cfg))
    for key, weight in model.state_dict().items():
        assert weight.device == DEVICE, key
