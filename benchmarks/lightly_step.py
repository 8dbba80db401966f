#!/usr/bin/env python3
"""MoCo-v2 here and the plain loop of lightly's documentation: same backbone, batch and device.

Both loops take turns, step by step: first from normalised views, then from JPEGs, which each loads
in this process with its own transforms. Needs lightly.

Example:
    python benchmarks/lightly_step.py datasets/coco/train2017 SOLVER.IMS_PER_BATCH 8
"""

import copy
import itertools
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from PIL import Image
from timing import parse, take_turns
from torch import Tensor, nn

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import UserError, run_tool
from mls_d2.data.images import list_images
from mls_d2.run.environment import resolve_device
from pretrain.batch import whole_images
from pretrain.data import build_loader
from pretrain.encoder import pooled
from pretrain.methods import build_method
from pretrain.optim import build_optimizer
from pretrain.samples import take_step
from pretrain.sources import FileSource
from pretrain.views import augment_from_config

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
        first, second = self.augment(next(self.batches).groups, next(self.iteration))
        return first, second

    def step(self, views: Views) -> None:
        """Take one step."""
        take_step(self.method, self.optimizer, whole_images(views), 0)


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
    args = parse(
        __doc__, "folder", opts=True, config_file="pretrain/configs/mocov2_coco_400ep.yaml", steps=8
    )
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
        raise UserError(f"this benchmark needs lightly: {error}", code="missing-package") from None
    views = {name: loop.load() for name, loop in loops.items()}
    side, batch = cfg.PRETRAIN.AUGMENT.CROP_SIZE, cfg.SOLVER.IMS_PER_BATCH
    where = f"{cfg.MODEL.DEVICE}, {torch.get_num_threads()} threads"
    print(f"{args.config_file}: batch {batch}, views of {side}², {where}")
    print("a step, from normalised views")
    steps = {name: partial(loop.step, views[name]) for name, loop in loops.items()}
    take_turns(steps, rounds=args.steps).show("lightly", "here")
    print("loading and a step, from JPEGs")
    whole = {name: partial(load_and_step, loop) for name, loop in loops.items()}
    take_turns(whole, rounds=args.steps).show("lightly", "here")


def load_and_step(loop: Here | Lightly) -> None:
    """Take one step from JPEGs."""
    loop.step(loop.load())


if __name__ == "__main__":
    run_tool(main)
