"""Checks of fine-tuning on a machine: a step of every kind of task."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from mls_d2.config.loading import load_cfg
from mls_d2.run.gpu_check import Check, CheckFailed
from mls_d2.run.registration import register_all
from mls_d2.transfer.tasks import task_of

KINDS = (
    "coco/mask_rcnn_R_50_FPN",
    "coco/mask_rcnn_R_50_C4",
    "voc/faster_rcnn_R_50_C4",
    "cityscapes/pspnet_R_50",
    "cityscapes/psanet_R_50",
    "classification/voc2007_finetune",
    "classification/voc2007_linear",
)
_SIZE = (96, 128)


def transfer_checks(root: Path, device: torch.device) -> dict[str, Check]:
    """Return a check of every kind of task, by its quick config below ``root``."""

    def check_of(kind: str) -> Check:
        path = root / f"transfer_configs/{kind}_quick.yaml"
        return lambda: check_step(load_cfg(str(path), ()), device)

    return {f"task {kind.partition('/')[2]}": check_of(kind) for kind in KINDS}


def check_step(cfg: CfgNode, device: torch.device) -> str:
    """Take a step in float32 and, on a GPU, one in float16 autocast.

    Raises:
        CheckFailed: a loss or a weight is not finite, or no weight has changed.
    """
    register_all()
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = device.type
    torch.manual_seed(0)
    model, found = build_model(cfg).train(), []
    optimizer = task_of(cfg).optimizer(cfg, model)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in trained]
    for half in (False, True)[: 2 if device.type == "cuda" else 1]:
        # Detectron2's heads log to it.
        with EventStorage(), torch.autocast(device.type, torch.float16, enabled=half):
            losses: dict[str, torch.Tensor] = model(inputs(cfg))
        total = torch.stack([*losses.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        if not half:  # Half precision without a scaler: its gradients may vanish.
            optimizer.step()
        found.append(f"{'float16' if half else 'float32'} {total.item():.4f}")
        if not bool(torch.isfinite(total)):
            raise CheckFailed(f"the loss is not finite: {', '.join(found)}")
    if not all(bool(torch.isfinite(weight).all()) for weight in trained):
        raise CheckFailed(f"a weight is not finite after a step; loss {', '.join(found)}")
    if all(torch.equal(a, b) for a, b in zip(before, trained, strict=True)):
        raise CheckFailed(f"no weight has changed after a step; loss {', '.join(found)}")
    return f"loss {', '.join(found)}"


def inputs(cfg: CfgNode) -> list[dict[str, Any]]:
    """Return two images of noise with annotations, as the task's mapper makes them."""
    size = _SIZE
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        size = (cfg.CLASSIFICATION.CROP_SIZE,) * 2
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator)
    found: list[dict[str, Any]] = [{"image": image} for image in images]
    for item in found:
        item |= {"classes": [0], "difficult": [], "instances": _instances(size)}
        item["sem_seg"] = torch.zeros(size, dtype=torch.uint8)
    return found


def _instances(size: tuple[int, int]) -> Instances:
    x0, y0, x1, y1 = 20.0, 10.0, 84.0, 74.0
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor([[x0, y0, x1, y1]]))
    instances.gt_classes = torch.tensor([0])
    instances.gt_masks = PolygonMasks([[np.array([x0, y0, x1, y0, x1, y1, x0, y1])]])
    return instances
