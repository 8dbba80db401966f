#!/usr/bin/env python3
"""The share of a training step's speed that is left when images have to be loaded.

The same steps run twice: on batches that are on the device already, and on those of the loader.

Example:
    python benchmarks/end_to_end.py datasets/coco/train2017 SOLVER.AMP.ENABLED True
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import torch
from detectron2.utils.events import EventStorage
from timing import parse, wait

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import UserError, run_tool
from mls_d2.run.environment import resolve_device
from pretrain.data import DevicePrefetcher, ImageReport, ViewBatch, build_loader, image_source
from pretrain.methods import build_method
from pretrain.optim import build_optimizer
from pretrain.trainer import PretrainTrainer
from pretrain.views import augment_from_config


def main() -> None:
    """Time both and print images per second and their ratio."""
    args = parse(
        __doc__,
        "data",
        opts=True,
        config_file="pretrain/configs/mls_coco_400ep.yaml",
        steps=50,
        warmup=10,
    )
    cfg = load_cfg(args.config_file, ["SEED", "0", *args.opts])
    resolve_device(cfg)
    device, source = torch.device(cfg.MODEL.DEVICE), image_source([args.data])
    images, batch = int(source.counts.sum()), cfg.SOLVER.IMS_PER_BATCH
    if images < batch:
        raise UserError(f"{images} images do not fill a batch of {batch}", code="missing-data")
    loader = build_loader(cfg, source, start=0, rank=0, world_size=1)
    loaded: Iterator[ViewBatch] = iter(
        DevicePrefetcher(loader, device) if device.type == "cuda" else loader
    )
    first = next(loaded)
    first.groups = [group.to(device) for group in first.groups]
    method = build_method(cfg).to(device).to(memory_format=torch.channels_last)
    trainer = PretrainTrainer(
        method,
        itertools.repeat(first),
        build_optimizer(cfg, method),
        augment_from_config(cfg, device),
        iters_per_epoch=1000,
        images=ImageReport(images, 1.0),
        log_period=1 << 30,
        amp_dtype=getattr(torch, cfg.PRETRAIN.AMP_DTYPE) if cfg.SOLVER.AMP.ENABLED else None,
    )
    trainer._batches = itertools.repeat(first)
    bound = batch / seconds_per_step(trainer, args.warmup, args.steps)
    trainer._batches = loaded
    rate = batch / seconds_per_step(trainer, args.warmup, args.steps)
    workers = cfg.DATALOADER.NUM_WORKERS
    print(f"{args.config_file}: batch {batch}, {device}, {workers} workers")
    print(f"  on the device already  {bound:8.1f} images/s")
    print(f"  loaded                 {rate:8.1f} images/s, {rate / bound:.3f} of that")


def seconds_per_step(trainer: PretrainTrainer, warmup: int, steps: int) -> float:
    """Return the mean time of ``steps`` steps after ``warmup`` others."""
    start, trainer.max_iter = 0.0, warmup + steps
    with EventStorage() as trainer.storage:
        for trainer.iter in range(warmup + steps):
            if trainer.iter == warmup:
                wait()
                start = time.perf_counter()
            trainer.run_step()
        wait()
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    run_tool(main)
