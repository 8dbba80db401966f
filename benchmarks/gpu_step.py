#!/usr/bin/env python3
"""Images per second of a pretraining step on a GPU, its share of the GPU's peak, and the loader's.

The same steps run on a batch that is on the device already, and on those of the loader, which is
also timed alone: the lower of the two bounds is what limits training. The arithmetic of a step
(MFU: matrix products and convolutions, forward and backward) is counted as it runs; the peak is the
dense half-precision one of the GPU's data sheet, or --peak in TFLOP/s.

Example:
    python benchmarks/gpu_step.py datasets/coco/train2017 SOLVER.IMS_PER_BATCH 256
"""

import itertools
import time
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from timing import parse, wait
from torch.utils.flop_counter import FlopCounterMode

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import UserError, run_tool
from mls_d2.run.environment import resolve_device
from pretrain.data import DevicePrefetcher, ImageReport, ViewBatch, build_loader, image_source
from pretrain.optim import build_optimizer
from pretrain.run import method_on_device
from pretrain.trainer import PretrainTrainer
from pretrain.views import augment_from_config

# TFLOP/s of dense half-precision products, by a part of the name; the first that fits.
PEAKS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "V100": 125}


def main() -> None:
    """Time the parts and print images per second."""
    args = parse(
        __doc__,
        "data",
        opts=True,
        config_file="pretrain/configs/mls_coco_400ep.yaml",
        device="cuda",
        steps=50,
        warmup=10,
        peak=0.0,
    )
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("no GPU found; --device cpu tries the benchmark out", code="no-gpu")
    fixed = ["SEED", "0", "SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", args.device]
    cfg = load_cfg(args.config_file, [*fixed, *args.opts])
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
    trainer = make_trainer(cfg, device)

    trainer._batches = itertools.repeat(first)
    seconds = seconds_per_step(trainer, args.warmup, args.steps)
    work = arithmetic(trainer)
    ready = (loader.prefetch_factor or 0) * loader.num_workers
    loading = seconds_per_batch(loaded, args.warmup + ready, args.steps)
    trainer._batches = loaded
    rate = batch / seconds_per_step(trainer, args.warmup, args.steps)

    amp = cfg.PRETRAIN.AMP_DTYPE if cfg.SOLVER.AMP.ENABLED else "float32"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{args.config_file}: {cfg.PRETRAIN.METHOD}, batch {batch}, {amp}, {name}")
    share = share_of_peak(work / seconds, name, args.peak)
    print(f"  step alone    {batch / seconds:8.1f} images/s, {share}")
    print(f"  loader alone  {batch / loading:8.1f} images/s, {cfg.DATALOADER.NUM_WORKERS} workers")
    share = rate * max(seconds, loading) / batch
    print(f"  both          {rate:8.1f} images/s, {share:.3f} of the lower")


def make_trainer(cfg: CfgNode, device: torch.device) -> PretrainTrainer:
    """Return the trainer of a config, without log, hooks and batches."""
    method = method_on_device(cfg, device)
    amp_dtype = getattr(torch, cfg.PRETRAIN.AMP_DTYPE) if cfg.SOLVER.AMP.ENABLED else None
    return PretrainTrainer(
        method,
        [],
        build_optimizer(cfg, method),
        augment_from_config(cfg, device),
        iters_per_epoch=1000,
        images=ImageReport(1, 1.0),
        log_period=1 << 30,
        amp_dtype=amp_dtype,
        scaler=torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16),
    )


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


def seconds_per_batch(batches: Iterator[ViewBatch], warmup: int, steps: int) -> float:
    """Return the mean time of loading ``steps`` batches, after ``warmup`` that may be ready."""
    for _ in itertools.islice(batches, warmup):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(batches, steps):
        wait()
    return (time.perf_counter() - start) / steps


def arithmetic(trainer: PretrainTrainer) -> float:
    """Return the floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter, EventStorage() as trainer.storage:
        trainer.run_step()
    return counter.get_total_flops()


def share_of_peak(rate: float, name: str, peak: float) -> str:
    """Describe ``rate`` operations per second on a device; ``peak`` 0 looks it up, in TFLOP/s."""
    known = peak or next((value for part, value in PEAKS.items() if part in name), 0)
    share = f"MFU {rate / known / 1e12:.3f} of {known:g}" if known else "MFU unknown: give --peak"
    return f"{rate / 1e12:.3f} TFLOP/s, {share}"


if __name__ == "__main__":
    run_tool(main)
