#!/usr/bin/env python3
"""The cost of a pretraining step of MLS relative to MoCo-v2: both in turn, in one run."""

from __future__ import annotations

import torch
from timing import parse, take_turns

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import run_tool
from mls_d2.run.environment import resolve_device
from pretrain.methods import build_method
from pretrain.optim import build_optimizer
from pretrain.trainer import augment_from_config

BASE, OTHER = "mocov2", "mls"


class Stepper:
    """Takes whole steps of one method on the same uint8 views."""

    def __init__(self, config_file: str, method: str, opts: list[str]) -> None:
        cfg = load_cfg(config_file, [*opts, "PRETRAIN.METHOD", method])
        resolve_device(cfg)
        self.device = torch.device(cfg.MODEL.DEVICE)
        torch.manual_seed(0)
        self.method = build_method(cfg).to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(cfg, self.method)
        self.augment = augment_from_config(cfg, self.device)
        side = cfg.PRETRAIN.AUGMENT.CROP_SIZE
        shape = (2, cfg.SOLVER.IMS_PER_BATCH, side, side, 3)
        self.views = torch.randint(0, 256, shape, dtype=torch.uint8)
        self.iteration = 0

    def step(self) -> None:
        """Take one step, with augmentation and without loading."""
        output = self.method(*self.augment(self.views, self.iteration), epoch=1e9)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(output.losses.values())).sum().backward()
        self.optimizer.step()
        self.method.enqueue(output.keys)
        self.iteration += 1


def main() -> None:
    """Time pairs of steps and print medians and their ratio."""
    args = parse(
        __doc__, opts=True, config_file="pretrain/configs/mls_quick.yaml", steps=40, warmup=5
    )
    steppers = {name: Stepper(args.config_file, name, args.opts) for name in (BASE, OTHER)}
    work = {name: stepper.step for name, stepper in steppers.items()}
    times = take_turns(work, rounds=args.steps, warmup=args.warmup)
    device = steppers[BASE].device
    print(f"{args.config_file} on {device}, {torch.get_num_threads()} threads, per step")
    times.show(OTHER, BASE)


if __name__ == "__main__":
    run_tool(main)
