#!/usr/bin/env python3
"""The cost of a training step of PSANet relative to PSPNet, in turn in one run; and their memory.

With --memory H W the heads of R_50_40k run without gradients on the features of one test image of
that size, and the peak of PyTorch's allocations beyond weights and features is printed.

Example:
    python benchmarks/segmentation_step.py
    python benchmarks/segmentation_step.py --memory 1024 2048
"""

import itertools
from pathlib import Path

import torch
from detectron2.modeling import build_model
from timing import parse, take_turns

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

    def step(self) -> None:
        """Take one step."""
        losses = self.model(self.batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()


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


def main() -> None:
    """Print times, or memory with ``--memory``."""
    args = parse(__doc__, opts=True, recipe="R_50_quick", steps=20, warmup=3, memory=[0])
    register_all()
    if len(args.memory) == 2:
        print_memory("R_50_40k", tuple(args.memory), args.opts)
        return
    steppers = {name: Stepper(f"{name}_{args.recipe}", args.opts) for name in (BASE, OTHER)}
    work = {name: stepper.step for name, stepper in steppers.items()}
    times = take_turns(work, rounds=args.steps, warmup=args.warmup)
    device = steppers[BASE].device
    print(f"{args.recipe} on {device}, {torch.get_num_threads()} threads, per step")
    times.show(OTHER, BASE)


if __name__ == "__main__":
    run_tool(main)
