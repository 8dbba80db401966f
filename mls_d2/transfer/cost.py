"""What a transfer run costs, before it is started (see :mod:`mls_d2.run.cost`)."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from mls_d2.run.cost import RunCost, StepCost, measure_step
from mls_d2.run.processes import scale_to_processes
from mls_d2.transfer.trainer import KEPT_CHECKPOINTS, memory_relief

# COCO's and VOC's usual images, 640 × 480 and 500 × 375.
_ASPECT = 4 / 3


def transfer_cost(cfg: CfgNode, num_gpus: int) -> RunCost:
    """Return the cost of fine-tuning; evaluation is not counted.

    Time is that of images of the mean size, memory that of the largest.

    Args:
        cfg: not scaled to ``num_gpus`` processes yet.
        num_gpus: processes.
    """
    relief = memory_relief(cfg)
    cfg = scale_to_processes(cfg, num_gpus)
    if cfg.SOLVER.MAX_ITER == 0:
        return RunCost(None, 0, num_gpus, 0)
    mean, largest = _sizes(cfg)
    step = _measure(cfg, num_gpus, mean)
    if largest != mean:
        tensors = _measure(cfg, num_gpus, largest).tensors
        step = StepCost(step.images, step.operators, *tensors)
    kept = min(KEPT_CHECKPOINTS, cfg.SOLVER.MAX_ITER // cfg.SOLVER.CHECKPOINT_PERIOD) + 1
    disk = kept * (step.weights + step.optimizer)
    return RunCost(step, cfg.SOLVER.MAX_ITER, num_gpus, disk, relief)


def _sizes(cfg: CfgNode) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return height and width of a batch: the mean, and the largest."""
    if cfg.MODEL.META_ARCHITECTURE == "EncoderDecoder":
        height, width = cfg.INPUT.SEGMENTATION.CROP_SIZE
        return (height, width), (height, width)
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        side = cfg.CLASSIFICATION.CROP_SIZE
        return (side, side), (side, side)
    sides, longest = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN
    mean = sum(sides) / len(sides)
    return (round(mean), min(longest, round(mean * _ASPECT))), (max(sides), longest)


def _measure(cfg: CfgNode, num_gpus: int, size: tuple[int, int]) -> StepCost:
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg).train()
    images = cfg.SOLVER.IMS_PER_BATCH // num_gpus
    return measure_step(
        model,
        lambda: _loss(cfg, model, images, size),
        images=images,
        num_gpus=num_gpus,
        amp_dtype=torch.float16 if cfg.SOLVER.AMP.ENABLED else None,
    )


def _loss(cfg: CfgNode, model: nn.Module, images: int, size: tuple[int, int]) -> Tensor:
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        return _detector(cfg, model, images, size)
    item = {"image": torch.zeros(3, *size, dtype=torch.uint8), "classes": [0], "difficult": []}
    item["sem_seg"] = torch.zeros(size, dtype=torch.long)
    losses: dict[str, Tensor] = model([item] * images)
    return torch.stack(list(losses.values())).sum()


def _detector(cfg: CfgNode, model: Any, images: int, size: tuple[int, int]) -> Tensor:
    """Return the sum of a detector's outputs on images and on as many regions as it trains with.

    What depends on values is left out: anchors, matching, suppression and pooling.
    """
    divisor = max(model.backbone.size_divisibility, 1)
    height, width = (-(-side // divisor) * divisor for side in size)
    features = model.backbone(torch.zeros(images, 3, height, width))
    proposals = model.proposal_generator
    maps = proposals.rpn_head([features[name] for name in proposals.in_features])
    outputs = [part for kind in maps for part in kind]
    heads = model.roi_heads
    regions = images * cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    channels = features[heads.in_features[0]].shape[1]

    def pooled(count: int, side: int) -> Tensor:
        return torch.zeros(count, channels, side, side, requires_grad=True)

    found = pooled(regions, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION)
    positive = round(regions * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION)
    if hasattr(heads, "res5"):
        found = heads.res5(found)
        outputs += heads.box_predictor(found.mean(dim=(2, 3)))
        masked = found[:positive]
    else:
        outputs += heads.box_predictor(heads.box_head(found))
        masked = pooled(positive, cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION)
    if cfg.MODEL.MASK_ON:
        outputs.append(heads.mask_head.layers(masked))
    return torch.stack([part.sum() for part in outputs]).sum()
