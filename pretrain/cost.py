"""What a pretraining run costs, before it is started (see :mod:`mls_d2.run.cost`)."""

from dataclasses import asdict

import torch
from detectron2.config import CfgNode
from torch import Tensor

from mls_d2.data.dataset_files import datasets_root
from mls_d2.data.preparation import SOURCES
from mls_d2.run.cost import RunCost, measure_step
from mls_d2.run.processes import scale_to_processes
from mls_d2.scenes import read_marker
from mls_d2.scenes.marker import SceneParams
from pretrain.data import image_source
from pretrain.methods import build_method
from pretrain.run import memory_relief, run_length
from pretrain.samples import noise_batch


def pretrain_cost(cfg: CfgNode, num_gpus: int) -> RunCost:
    """Return the cost of a pretraining; the data need not be there if they are official ones.

    Args:
        cfg: not scaled to ``num_gpus`` processes yet.
        num_gpus: processes.
    """
    cfg = scale_to_processes(cfg, num_gpus)
    with torch.device("meta"):
        method = build_method(cfg)
    images = cfg.SOLVER.IMS_PER_BATCH // num_gpus

    def loss() -> Tensor:
        output = method(noise_batch(cfg, images))
        return torch.stack([*output.weighted().values()]).sum()

    half = cfg.PRETRAIN.AMP_DTYPE if cfg.PRETRAIN.AMP_DTYPE != "auto" else "bfloat16"
    amp_dtype = getattr(torch, half) if cfg.SOLVER.AMP.ENABLED else None
    step = measure_step(method, loss, images=images, num_gpus=num_gpus, amp_dtype=amp_dtype)
    steps = run_length(cfg, count_images(cfg)).max_iter
    backbone = sum(4 * weight.numel() for weight in method.encoder.backbone.state_dict().values())
    files = step.weights + step.optimizer
    disk = checkpoints(cfg, steps) * files + backbone
    before = type(method).first_stage(cfg)
    first = None if before is None else pretrain_cost(before, num_gpus)
    disk += first.disk if first else 0
    return RunCost(step, steps, num_gpus, disk, memory_relief(cfg, num_gpus), first)


def checkpoints(cfg: CfgNode, steps: int) -> int:
    """Return how many checkpoints a finished run has: the newest, the permanent, the final one."""
    newest = min(cfg.PRETRAIN.KEEP_CHECKPOINTS, steps // cfg.SOLVER.CHECKPOINT_PERIOD)
    period = cfg.PRETRAIN.PERMANENT_PERIOD
    return newest + 1 + (int(cfg.PRETRAIN.EPOCHS // period) if period else 0)


def count_images(cfg: CfgNode) -> int:
    """Return the number of images in ``DATASETS.TRAIN``: official, of the scenes, or counted."""
    known = {name: count for item in SOURCES.values() for name, count in item.splits.items()}
    if cfg.PRESET == "quick":
        counts = read_marker(datasets_root()) or asdict(SceneParams())
        known = {f"coco_2017_{part}": counts[part] for part in ("train", "val", "unlabeled")}
    if all(name in known for name in cfg.DATASETS.TRAIN):
        return sum(known[name] for name in cfg.DATASETS.TRAIN)
    return int(image_source(cfg.DATASETS.TRAIN).counts.sum())
