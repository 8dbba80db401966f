#!/usr/bin/env python3
"""MoCo-v2 here against the plain loop of lightly's documentation: same backbone, batch and device.

Both loops take turns, step by step: once from normalised views on, once from JPEGs on, loaded in
this process with their own transforms. Needs lightly.

Example:
    python benchmarks/lightly_step.py datasets/coco/train2017 SOLVER.IMS_PER_BATCH 8
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from PIL import Image
from torch import Tensor, nn

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import UserError, run_tool
from mls_d2.data.images import list_images
from mls_d2.run.environment import resolve_device
from pretrain.data import build_loader
from pretrain.encoder import pooled
from pretrain.methods import build_method
from pretrain.optim import build_optimizer
from pretrain.sources import FileSource
from pretrain.trainer import augment_from_config

Views = tuple[Tensor, Tensor]


class Here:
    """A MoCo-v2 step as :class:`pretrain.trainer.PretrainTrainer` takes it."""

    def __init__(self, cfg: CfgNode, paths: list[str]) -> None:
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.method = build_method(cfg).to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(cfg, self.method)
        self.augment = augment_from_config(cfg, self.device)
        self.batches = iter(build_loader(cfg, FileSource(paths), start=0, rank=0, world_size=1))
        self.iteration = itertools.count()

    def load(self) -> Views:
        """Return two normalised views of the next images."""
        return self.augment(next(self.batches).views, next(self.iteration))

    def step(self, views: Views) -> None:
        """Take one step."""
        output = self.method(*views, epoch=0.0)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(output.losses.values())).sum().backward()
        self.optimizer.step()
        self.method.enqueue(output.keys)


class Lightly:
    """The loop of lightly's MoCo example, with MoCo-v2's transform and the same sizes."""

    def __init__(self, cfg: CfgNode, paths: list[str]) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import deactivate_requires_grad
        from lightly.transforms import MoCoV2Transform

        self.device = torch.device(cfg.MODEL.DEVICE)
        self.batch = cfg.SOLVER.IMS_PER_BATCH
        backbone = build_backbone(cfg)
        channels = list(backbone.output_shape().values())[-1].channels
        dim = cfg.MOCO.PROJECTOR_OUT_DIM
        head = MoCoProjectionHead(channels, cfg.MOCO.PROJECTOR_HIDDEN_DIM, dim)
        self.online = nn.ModuleList([backbone, head]).to(self.device)
        self.follower = copy.deepcopy(self.online)
        for part in self.follower:
            deactivate_requires_grad(part)
        size = (cfg.MOCO.DICTIONARY_SIZE, dim)
        self.criterion = NTXentLoss(temperature=cfg.MOCO.TEMPERATURE, memory_bank_size=size)
        self.optimizer = build_optimizer(cfg, self.online)
        self.momentum = cfg.MOCO.MOMENTUM
        self.transform = MoCoV2Transform(input_size=cfg.PRETRAIN.AUGMENT.CROP_SIZE)
        self.paths = itertools.cycle(paths)

    def load(self) -> Views:
        """Return two normalised views of the next images."""
        chosen = itertools.islice(self.paths, self.batch)
        pairs = [self.transform(Image.open(path).convert("RGB")) for path in chosen]
        first, second = (torch.stack(views).to(self.device) for views in zip(*pairs, strict=True))
        return first, second

    def step(self, views: Views) -> None:
        """Take one step."""
        from lightly.models.utils import update_momentum

        for part, copied in zip(self.online, self.follower, strict=True):
            update_momentum(part, copied, m=self.momentum)
        query = self.online[1](pooled(self.online[0], views[0]))
        with torch.no_grad():
            key = self.follower[1](pooled(self.follower[0], views[1]))
        loss = self.criterion(query, key)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    """Time both loops in turn; print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="of JPEGs")
    parser.add_argument("--config-file", default="pretrain/configs/mocov2_coco_400ep.yaml")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each (default 8)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    args = parser.parse_intermixed_args()
    single = ["SEED", "0", "DATALOADER.NUM_WORKERS", "0", "PRETRAIN.METHOD", "mocov2"]
    cfg = load_cfg(args.config_file, [*single, *args.opts])
    resolve_device(cfg)
    paths = list_images(args.folder)
    try:
        loops: dict[str, Here | Lightly] = {
            "lightly": Lightly(cfg, paths),
            "here": Here(cfg, paths),
        }
    except ImportError as error:
        raise UserError(f"this benchmark needs lightly: {error}") from None
    views = {name: loop.load() for name, loop in loops.items()}
    side, batch = cfg.PRETRAIN.AUGMENT.CROP_SIZE, cfg.SOLVER.IMS_PER_BATCH
    where = f"{cfg.MODEL.DEVICE}, {torch.get_num_threads()} threads"
    print(f"{args.config_file}: batch {batch}, views of {side}², {where}")
    compare(
        "a step, from normalised views on",
        {name: partial(loop.step, views[name]) for name, loop in loops.items()},
        args.steps,
    )
    compare(
        "loading and a step, from JPEGs on",
        {name: partial(load_and_step, loop) for name, loop in loops.items()},
        args.steps,
    )


def load_and_step(loop: Here | Lightly) -> None:
    """Take one step from JPEGs on."""
    loop.step(loop.load())


def compare(title: str, steps: dict[str, Callable[[], None]], count: int) -> None:
    """Run steps in turn after one of each; print medians and the median of the pairs' ratios."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for timed in range(count + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if timed:
                seconds[name].append(time.perf_counter() - start)
    print(title)
    for name, times in seconds.items():
        print(f"  {name:8s} {1000 * statistics.median(times):8.1f} ms (median of {count})")
    base, other = seconds.values()
    ratios = sorted(first / second for first, second in zip(base, other, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    print(f"  {statistics.median(ratios):.2f} times as fast (quartiles {low:.2f}, {high:.2f})")


if __name__ == "__main__":
    run_tool(main)
