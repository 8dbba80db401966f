#!/usr/bin/env python3
"""What PSANet's training step costs over PSPNet's: both in turn, in one run; and their memory.

With --memory the heads run on the features of one test image without gradients, and what PyTorch
allocates and frees meanwhile is summed up: the peak that each needs beyond weights and features.

Example:
    python benchmarks/segmentation_step.py
    python benchmarks/segmentation_step.py --memory 1024 2048
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import torch
from detectron2.modeling import build_model

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import run_tool
from mls_d2.modeling.encoder_decoder import build_head
from mls_d2.run.environment import resolve_device
from mls_d2.run.registration import register_all
from mls_d2.transfer.segmentation import Segmentation

FOLDER = Path(__file__).resolve().parent.parent / "transfer_configs" / "cityscapes"
BASE, OTHER = "pspnet", "psanet"


class Stepper:
    """Takes whole training steps of one network on the same random crops."""

    def __init__(self, config: str, opts: list[str]) -> None:
        cfg = load_cfg(str(FOLDER / f"{config}.yaml"), opts)
        resolve_device(cfg)
        torch.manual_seed(0)
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.model = build_model(cfg)
        self.optimizer = Segmentation().optimizer(cfg, self.model)
        size = tuple(cfg.INPUT.SEGMENTATION.CROP_SIZE)
        self.batch = [
            {
                "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
                "sem_seg": torch.randint(0, 19, size, dtype=torch.uint8),
            }
            for _ in range(cfg.SOLVER.IMS_PER_BATCH)
        ]

    def step(self) -> float:
        """Take one step and return its seconds."""
        start = time.perf_counter()
        losses = self.model(self.batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start


@torch.no_grad()
def print_memory(recipe: str, image: tuple[int, int], opts: list[str]) -> None:
    """Print the peak of each head's allocations, in MiB, on the CPU."""
    print(f"heads on the features of {image[0]}x{image[1]} pixels, output stride 8, float32")
    for name in (BASE, OTHER):
        cfg = load_cfg(str(FOLDER / f"{name}_{recipe}.yaml"), opts)
        channels = 8 * cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
        head = build_head(cfg, channels).eval()
        features = torch.rand(1, channels, image[0] // 8, image[1] // 8)
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            head(features)
        events = profile.profiler.kineto_results.events()
        sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
        print(f"  {name:8s} {max(itertools.accumulate(sizes)) / 2**20:8.0f} MiB")


def print_steps(recipe: str, steps: int, warmup: int, opts: list[str]) -> None:
    """Time pairs of steps and print medians and their ratio."""
    base, other = (Stepper(f"{name}_{recipe}", opts) for name in (BASE, OTHER))
    pairs = [(base.step(), other.step()) for _ in range(warmup + steps)][warmup:]
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    ratios = sorted(b / a for a, b in pairs)
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    print(f"{recipe} on {base.device}, {torch.get_num_threads()} threads")
    for name, seconds in zip((BASE, OTHER), medians, strict=True):
        print(f"  {name:8s} {seconds * 1000:8.1f} ms a step (median of {len(pairs)})")
    ratio = statistics.median(ratios)
    print(f"  {OTHER} / {BASE} = {ratio:.3f} (median of pairs; quartiles {low:.3f}, {high:.3f})")


def main() -> int:
    """Print times, or memory where it is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="R_50_quick", help="of the configs (default quick)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each (default 20)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before (default 3)")
    parser.add_argument(
        "--memory",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="measure the memory of R_50_40k's heads on an image of this size instead",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args()
    register_all()
    if args.memory:
        print_memory("R_50_40k", tuple(args.memory), args.opts)
    else:
        print_steps(args.recipe, args.steps, args.warmup, args.opts)
    return 0


if __name__ == "__main__":
    run_tool(main)
