#!/usr/bin/env python3
"""The cost of a pretraining step of methods relative to MoCo-v2: all in turn, in one run.

Each method has the views, heads and optimizer of its quick config, and the batch of MoCo-v2's.

Example:
    python benchmarks/pretrain_step.py --methods mls densecl byol
"""

from __future__ import annotations

import torch
from timing import parse, take_turns

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import run_tool
from mls_d2.run.environment import resolve_device
from pretrain.batch import whole_images
from pretrain.methods import METHODS, build_method
from pretrain.optim import build_optimizer
from pretrain.views import augment_from_config

BASE = "mocov2"


class Stepper:
    """Takes whole steps of one method on the same uint8 views."""

    def __init__(self, name: str, opts: list[str]) -> None:
        cfg = load_cfg(f"pretrain/configs/{name}_quick.yaml", opts)
        resolve_device(cfg)
        self.device = torch.device(cfg.MODEL.DEVICE)
        torch.manual_seed(0)
        self.method = build_method(cfg).to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(cfg, self.method)
        self.augment = augment_from_config(cfg, self.device)
        self.groups = [
            torch.randint(
                0, 256, (group.count, cfg.SOLVER.IMS_PER_BATCH, group.size, group.size, 3)
            ).byte()
            for group in METHODS.get(name).crops(cfg).groups
        ]
        self.iteration = 0

    def step(self) -> None:
        """Take one step, with augmentation and without loading."""
        self.method.before_step(self.iteration)
        views = self.augment(self.groups, self.iteration)
        output = self.method(whole_images(views, epoch=1e9, progress=0.5))
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(output.weighted().values())).sum().backward()
        self.method.before_optimizer_step()
        self.optimizer.step()
        self.method.after_optimizer_step()
        self.method.enqueue(output.keys)
        self.iteration += 1


def main() -> None:
    """Time rounds of steps and print medians and their ratios."""
    args = parse(__doc__, opts=True, methods=["mls"], steps=40, warmup=5)
    batch = load_cfg(f"pretrain/configs/{BASE}_quick.yaml", args.opts).SOLVER.IMS_PER_BATCH
    opts = [*args.opts, "SOLVER.IMS_PER_BATCH", str(batch)]
    steppers = {name: Stepper(name, opts) for name in (BASE, *args.methods)}
    work = {name: stepper.step for name, stepper in steppers.items()}
    times = take_turns(work, rounds=args.steps, warmup=args.warmup)
    print(f"batch {batch} on {steppers[BASE].device}, {torch.get_num_threads()} threads, per step")
    for name in args.methods:
        times.show(name, BASE)


if __name__ == "__main__":
    run_tool(main)
