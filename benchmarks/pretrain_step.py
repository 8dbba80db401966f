#!/usr/bin/env python3
"""The cost of a pretraining step of methods relative to MoCo-v2: time and peak memory.

Each method has the views, heads and optimizer of its config, and the batch of MoCo-v2's.
Steps are timed in turn, in one run; memory is that of two steps in a process of their own: of the
GPU, or what the resident memory grows by.

Example:
    python benchmarks/pretrain_step.py --methods mls densecl byol
    python benchmarks/pretrain_step.py --methods all
    python benchmarks/pretrain_step.py --methods all --recipe coco_400ep --steps 3 --warmup 1 \
      SOLVER.IMS_PER_BATCH 8
"""

import dataclasses
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from timing import parse, take_turns

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import run_tool
from mls_d2.run.environment import resolve_device
from mls_d2.run.hooks import peak_memory_mb
from pretrain.batch import whole_images
from pretrain.methods import METHODS, build_method
from pretrain.optim import build_optimizer
from pretrain.samples import noise_batch, take_step
from pretrain.views import augment_from_config

BASE = "mocov2"


class Stepper:
    """Takes whole steps of one method on the same uint8 views."""

    def __init__(self, name: str, recipe: str, opts: list[str]) -> None:
        cfg = load_cfg(f"pretrain/configs/{name}_{recipe}.yaml", opts)
        resolve_device(cfg)
        self.device = torch.device(cfg.MODEL.DEVICE)
        torch.manual_seed(0)
        self.method = build_method(cfg).to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(cfg, self.method)
        self.augment = augment_from_config(cfg, self.device)
        crops, batch = METHODS.get(name).crops(cfg), cfg.SOLVER.IMS_PER_BATCH
        shapes = [(group.count, batch, group.size, group.size, 3) for group in crops.groups]
        self.groups = [torch.randint(0, 256, shape).byte() for shape in shapes]
        extras = noise_batch(cfg, batch).extras
        self.extras = {key: values.to(self.device) for key, values in extras.items()}
        self.iteration = 0

    def step(self) -> None:
        """Take one step, with augmentation and without loading."""
        views = self.augment(self.groups, self.iteration)
        batch = whole_images(views, epoch=1e9, progress=0.5)
        batch = dataclasses.replace(batch, extras=self.extras)
        take_step(self.method, self.optimizer, batch, self.iteration)
        self.iteration += 1


def peak_memory(name: str, recipe: str, opts: list[str]) -> float:
    """Return the peak memory of building a method and of two steps, in MiB."""
    before = peak_memory_mb()
    stepper = Stepper(name, recipe, opts)
    for _ in range(2):
        stepper.step()
    return peak_memory_mb() - (0 if stepper.device.type == "cuda" else before)


def main() -> None:
    """Time rounds of steps and print a table of medians, their ratios, and peak memory."""
    args = parse(__doc__, opts=True, methods=["mls"], recipe="quick", steps=40, warmup=5)
    base = load_cfg(f"pretrain/configs/{BASE}_{args.recipe}.yaml", args.opts)
    batch = base.SOLVER.IMS_PER_BATCH
    opts = [*args.opts, "SOLVER.IMS_PER_BATCH", str(batch)]
    names = [name for name in METHODS.names() if name != BASE]
    names = names if args.methods == ["all"] else args.methods
    memory = {}
    for name in (BASE, *names):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            memory[name] = fresh.submit(peak_memory, name, args.recipe, opts).result()
    steppers = {name: Stepper(name, args.recipe, opts) for name in (BASE, *names)}
    work = {name: stepper.step for name, stepper in steppers.items()}
    times = take_turns(work, rounds=args.steps, warmup=args.warmup)
    where = f"{steppers[BASE].device}, {torch.get_num_threads()} threads"
    print(f"A step of {batch} images on {where}:\n")
    print(f"| method | ms | / {BASE} (quartiles) | peak MiB | / {BASE} |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in (BASE, *names):
        low, ratio, high = times.ratio(name, BASE)
        print(
            f"| {name} | {1000 * times.median(name):.1f} | {ratio:.3f} ({low:.3f}–{high:.3f}) "
            f"| {memory[name]:.0f} | {memory[name] / memory[BASE]:.2f} |"
        )


if __name__ == "__main__":
    run_tool(main)
