#!/usr/bin/env python3
"""What a pretraining step of MLS costs over one of MoCo-v2: both in turn, in one run."""

from __future__ import annotations

import argparse
import statistics
import time

import torch

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

    def step(self) -> float:
        """Take one step and return its seconds; augmentation included, loading not."""
        start = time.perf_counter()
        output = self.method(*self.augment(self.views, self.iteration), epoch=1e9)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(output.losses.values())).sum().backward()
        self.optimizer.step()
        self.method.enqueue(output.keys)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.iteration += 1
        return time.perf_counter() - start


def main() -> int:
    """Time pairs of steps and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default="pretrain/configs/mls_quick.yaml")
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each (default 40)")
    parser.add_argument("--warmup", type=int, default=5, help="steps before (default 5)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args()
    base, other = (Stepper(args.config_file, name, args.opts) for name in (BASE, OTHER))
    pairs = [(base.step(), other.step()) for _ in range(args.warmup + args.steps)][args.warmup :]
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    ratios = sorted(b / a for a, b in pairs)
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    print(f"{args.config_file} on {base.device}, {torch.get_num_threads()} threads")
    for name, seconds in zip((BASE, OTHER), medians, strict=True):
        print(f"  {name:8s} {seconds * 1000:8.1f} ms a step (median of {len(pairs)})")
    ratio = statistics.median(ratios)
    print(f"  {OTHER} / {BASE} = {ratio:.3f} (median of pairs; quartiles {low:.3f}, {high:.3f})")
    return 0


if __name__ == "__main__":
    run_tool(main)
