"""Semantic segmentation of Cityscapes: PSPNet and PSANet on a dilated ResNet."""

from collections.abc import Iterable
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from mls_d2.config.rules import (
    Rule,
    above,
    at_least,
    below_one,
    bounds,
    check_rules,
    one_of,
    within,
)
from mls_d2.core.errors import UserError
from mls_d2.data.cityscapes import COLORS, prepare_cityscapes
from mls_d2.data.detection import TolerantMapper, number_of_files
from mls_d2.data.segmentation_mapper import SegmentationMapper
from mls_d2.evaluation.pictures import write_segmentations
from mls_d2.evaluation.segmentation_evaluator import SegmentationEvaluator
from mls_d2.modeling.encoder_decoder import HEADS
from mls_d2.transfer.base import TransferTask, check_num_classes, refuse_single_images

_POLY = "WarmupPolyLR"
_EVALUATOR = "cityscapes_sem_seg"


def _is_size(value: Any) -> bool:
    return len(value) == 2 and all(side >= 1 for side in value)


_SIZE = Rule(_is_size, "a height and a width >= 1")
_RULES: dict[str, Rule] = {
    "MODEL.SEM_SEG_HEAD.NAME": one_of(HEADS),
    "MODEL.SEM_SEG_HEAD.DROPOUT": below_one(),
    "MODEL.SEM_SEG_HEAD.POOL_SCALES": Rule(lambda v: len(v) > 0 and min(v) >= 1, "numbers >= 1"),
    "MODEL.SEM_SEG_HEAD.PSA_MASK_SIZE": Rule(
        lambda v: _is_size(v) and all(n % 2 for n in v), "an odd height and an odd width"
    ),
    "MODEL.AUXILIARY_HEAD.LOSS_WEIGHT": at_least(0),
    "INPUT.FORMAT": one_of(["RGB"]),
    "INPUT.RANDOM_FLIP": one_of(["horizontal", "none"]),
    "INPUT.SEGMENTATION.BASE_SIZE": _SIZE,
    "INPUT.SEGMENTATION.CROP_SIZE": _SIZE,
    "INPUT.SEGMENTATION.SCALE_RANGE": bounds(float("inf")),
    "INPUT.SEGMENTATION.MAX_CLASS_SHARE": Rule(lambda v: 0 < v <= 1, "in (0, 1]"),
    "TEST.SLIDING_WINDOW": Rule(
        lambda v: _is_size(v) or tuple(v) == (0, 0), f"{_SIZE.expected}, or (0, 0)"
    ),
    "TEST.SLIDING_STRIDE": _SIZE,
    "SOLVER.POLY_POWER": above(0),
    "SOLVER.POLY_FLOOR": within(1),
}


class PolyParamScheduler(ParamScheduler):
    """Falls from 1 to a floor in [0, 1]: ``(1 - floor) · (1 - t)^power + floor``.

    Source: mmsegmentation's ``poly`` policy, whose ``min_lr`` is the floor times the initial rate.
    """

    def __init__(self, power: float, floor: float) -> None:
        self._power, self._floor = power, floor

    def __call__(self, where: float) -> float:
        """Return the factor at the share ``where`` of training."""
        return (1 - self._floor) * (1 - where) ** self._power + self._floor


class Segmentation(TransferTask):
    """A class for every pixel."""

    def name(self, cfg: CfgNode) -> str:
        """Return dataset and network, for example ``"cityscapes_pspnet"``."""
        dataset = cfg.DATASETS.TEST[0].partition("_")[0]
        head = cfg.MODEL.SEM_SEG_HEAD.NAME.removesuffix("Head")
        return f"{dataset}_{head.lower()}net"

    def check(self, cfg: CfgNode) -> None:
        """Check the config's values, and the datasets file by file; write missing train ids.

        Raises:
            UserError: names key, value and what is allowed, or the files.
        """
        check_segmentation(cfg)
        check_batch(cfg, comm.get_world_size())
        datasets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        for dataset in datasets:
            check_classes(cfg, dataset)
        if comm.get_local_rank() == 0:
            for dataset in datasets:
                prepare_cityscapes(dataset)
        comm.synchronize()

    def train_loader(self, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """Return Detectron2's loader of augmented crops."""
        records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
        mapper = SegmentationMapper.from_config(cfg, is_train=True)
        return build_detection_train_loader(
            records,
            mapper=TolerantMapper(mapper, is_train=True, total=number_of_files(records)),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=False,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )

    def test_loader(self, cfg: CfgNode, dataset: str) -> Iterable[list[dict[str, Any]]]:
        """Return Detectron2's loader of whole images."""
        return build_detection_test_loader(cfg, dataset, mapper=self.test_mapper(cfg))

    def test_mapper(self, cfg: CfgNode) -> TolerantMapper:
        """Return the mapper that scales a whole image."""
        return TolerantMapper(SegmentationMapper.from_config(cfg, is_train=False), is_train=False)

    def evaluator(self, cfg: CfgNode, dataset: str) -> DatasetEvaluator:
        """Return the evaluator that counts pixels."""
        return SegmentationEvaluator(dataset)

    def scheduler(self, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Return the polynomial schedule, or one of Detectron2's if the config names it."""
        if cfg.SOLVER.LR_SCHEDULER_NAME != _POLY:
            return super().scheduler(cfg, optimizer)
        schedule = WarmupParamScheduler(
            PolyParamScheduler(cfg.SOLVER.POLY_POWER, cfg.SOLVER.POLY_FLOOR),
            cfg.SOLVER.WARMUP_FACTOR,
            min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0),
            cfg.SOLVER.WARMUP_METHOD,
        )
        return LRMultiplier(optimizer, schedule, cfg.SOLVER.MAX_ITER)

    def input_size(self, cfg: CfgNode) -> str:
        """Return the size of the crops."""
        return f"INPUT.SEGMENTATION.CROP_SIZE ({cfg.INPUT.SEGMENTATION.CROP_SIZE})"

    def write_picture(self, path: str, model: nn.Module, cfg: CfgNode) -> None:
        """Draw image, ground truth and prediction."""
        records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
        write_segmentations(path, model, self.test_mapper(cfg), records, COLORS)


def check_segmentation(cfg: CfgNode) -> None:
    """Check single values, and that sliding windows leave no gaps.

    Raises:
        UserError: names key, value and what is allowed.
    """
    check_rules(cfg, _RULES)
    window, stride = cfg.TEST.SLIDING_WINDOW, cfg.TEST.SLIDING_STRIDE
    if any(window) and any(s > w for s, w in zip(stride, window, strict=True)):
        raise UserError(
            f"TEST.SLIDING_STRIDE must be at most TEST.SLIDING_WINDOW {window!r}, got {stride!r}: "
            "pixels between the windows would have no prediction",
            code="bad-value",
        )


def check_batch(cfg: CfgNode, world_size: int) -> None:
    """Refuse batches of one image if PSPNet normalises its average over a whole image.

    Arguments and errors are those of :func:`mls_d2.transfer.base.refuse_single_images`.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NAME == "PSPHead" and 1 in head.POOL_SCALES and "BN" in head.NORM:
        layer = f"MODEL.SEM_SEG_HEAD.NORM {head.NORM}, after PSPNet's average over a whole image,"
        refuse_single_images(cfg, layer, head.NORM, world_size)


def check_classes(cfg: CfgNode, dataset: str) -> None:
    """Compare a dataset's classes with the model's.

    Raises:
        UserError: another number of classes, or not a dataset for semantic segmentation.
    """
    metadata = MetadataCatalog.get(dataset)
    if metadata.get("evaluator_type") != _EVALUATOR:
        raise UserError(
            f"dataset '{dataset}' is of kind '{metadata.get('evaluator_type')}', which has no "
            "evaluator here; use cityscapes_fine_sem_seg_train and …_val",
            code="no-evaluator",
        )
    found = len(metadata.stuff_classes)
    check_num_classes(cfg, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", dataset, found)
