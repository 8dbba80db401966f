"""Steps of every method in its quick config, on any device."""

import itertools

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from mls_d2.config.loading import load_cfg
from pretrain.data import ImageReport, ViewBatch
from pretrain.methods import METHODS
from pretrain.optim import build_optimizer
from pretrain.run import method_on_device
from pretrain.trainer import PretrainTrainer
from pretrain.views import augment_from_config
from tests.fake_gpu import ROOT
from tests.pretrain.methods.tiny import object_boxes

# Waits for the device that a step cannot do without, with the reason.
WAITS = {
    "slotcon": ("pretrain/methods/slotcon.py",) * 2,  # BatchNorm over the active slots: how many?
}


def quick_cfg(name: str, *words: str) -> CfgNode:
    """Return the quick config of a method, with a ResNet-18."""
    small = ("MODEL.RESNETS.DEPTH", "18", "SEED", "1")
    return load_cfg(str(ROOT / f"pretrain/configs/{name}_quick.yaml"), [*small, *words])


def quick_batch(cfg: CfgNode) -> ViewBatch:
    """Return a batch of one process as the loader brings it: on the CPU, views in uint8."""
    count = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    groups = METHODS.get(cfg.PRETRAIN.METHOD).crops(cfg).groups
    shapes = [(group.count, count, group.size, group.size, 3) for group in groups]
    views = [torch.randint(0, 256, shape, dtype=torch.uint8) for shape in shapes]
    geometry = torch.tensor([0.0, 0.0, 90.0, 80.0, 0.0]).expand(sum(s[0] for s in shapes), count, 5)
    sizes = torch.tensor([[80, 90]]).expand(count, 2)
    extras = {"boxes": object_boxes(count, len(geometry) - 1)}
    return ViewBatch(views, geometry, sizes, torch.arange(count), extras, [], [])


def quick_trainer(cfg: CfgNode, device: torch.device, *, log_period: int = 100) -> PretrainTrainer:
    """Return a trainer of endless equal batches."""
    method = method_on_device(cfg, device)
    trainer = PretrainTrainer(
        method,
        [],
        build_optimizer(cfg, method),
        augment_from_config(cfg, device),
        iters_per_epoch=2,
        images=ImageReport(100, 0.0),
        log_period=log_period,
        scaler=torch.amp.GradScaler(device.type, enabled=False),
    )
    trainer._batches = itertools.repeat(quick_batch(cfg))
    trainer.max_iter = 10
    return trainer
