"""Semantic segmentation of Cityscapes: PSPNet and PSANet on a dilated ResNet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler
from torch import nn

from mls_d2.data.cityscapes import COLORS, prepare_cityscapes
from mls_d2.data.detection import TolerantMapper
from mls_d2.data.segmentation_mapper import SegmentationMapper
from mls_d2.evaluation.pictures import write_segmentations
from mls_d2.evaluation.segmentation_evaluator import SegmentationEvaluator
from mls_d2.transfer.poly_schedule import PolyParamScheduler
from mls_d2.transfer.segmentation_checks import check_batch, check_classes, check_values
from mls_d2.transfer.task import Task

_POLY = "WarmupPolyLR"


class Segmentation(Task):
    """A class for every pixel."""

    def name(self, cfg: CfgNode) -> str:
        """Return dataset and network, for example ``"cityscapes_pspnet"``."""
        dataset = cfg.DATASETS.TEST[0].partition("_")[0]
        head = cfg.MODEL.SEM_SEG_HEAD.NAME.removesuffix("Head")
        return f"{dataset}_{head.lower()}net"

    def check(self, cfg: CfgNode) -> None:
        """Check the config's values, and the datasets file by file; make missing train ids.

        Raises:
            UserError: names key, value and what is allowed, or the files.
        """
        check_values(cfg)
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
        return build_detection_train_loader(
            get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False),
            mapper=TolerantMapper(
                SegmentationMapper.from_config(cfg, is_train=True), is_train=True
            ),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=False,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )

    def test_loader(self, cfg: CfgNode, dataset: str) -> Iterable[list[dict[str, Any]]]:
        """Return Detectron2's loader of whole images."""
        return build_detection_test_loader(cfg, dataset, mapper=self.test_mapper(cfg))

    def test_mapper(self, cfg: CfgNode) -> TolerantMapper:
        """Return what scales a whole image."""
        return TolerantMapper(SegmentationMapper.from_config(cfg, is_train=False), is_train=False)

    def evaluator(self, cfg: CfgNode, dataset: str) -> DatasetEvaluator:
        """Return what counts pixels."""
        return SegmentationEvaluator(dataset)

    def scheduler(self, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Return the polynomial schedule, or one of Detectron2's where the config names it."""
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
        """Return the setting of the crops."""
        return f"INPUT.SEGMENTATION.CROP_SIZE ({cfg.INPUT.SEGMENTATION.CROP_SIZE})"

    def write_picture(self, path: str, model: nn.Module, cfg: CfgNode) -> None:
        """Draw image, ground truth and prediction."""
        records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
        write_segmentations(path, model, self.test_mapper(cfg), records, COLORS)
