"""Detection and instance segmentation: Detectron2's GeneralizedRCNN."""

import os
from collections.abc import Iterable
from typing import Any

import detectron2.utils.comm as comm
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from mls_d2.core.errors import UserError
from mls_d2.data.annotations_coco import check_evaluation
from mls_d2.data.detection import DetectionMapper, number_of_files, training_records
from mls_d2.evaluation.coco_evaluator import CocoEvaluator
from mls_d2.evaluation.pictures import write_detections
from mls_d2.evaluation.voc_evaluator import VocEvaluator
from mls_d2.transfer.base import TransferTask, check_num_classes, check_same_classes


class Detection(TransferTask):
    """Boxes, and masks if ``MODEL.MASK_ON``."""

    def name(self, cfg: CfgNode) -> str:
        """Return dataset, network and neck, for example ``"coco_mask_rcnn_fpn"``."""
        dataset = cfg.DATASETS.TEST[0].partition("_")[0]
        network = "mask_rcnn" if cfg.MODEL.MASK_ON else "faster_rcnn"
        neck = "fpn" if "fpn" in cfg.MODEL.BACKBONE.NAME else "c4"
        return f"{dataset}_{network}_{neck}"

    def check(self, cfg: CfgNode) -> None:
        """Compare the categories of the datasets and of the model, and check the test objects.

        Raises:
            UserError: categories differ, a test dataset is of a kind that has no evaluator, or its
                objects are crowds only or have no masks.
        """
        datasets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        classes = {dataset: _categories(dataset) for dataset in datasets}
        check_same_classes(classes)
        dataset, names = next(iter(classes.items()))
        check_num_classes(cfg, "MODEL.ROI_HEADS.NUM_CLASSES", dataset, len(names))
        if comm.get_local_rank() == 0:
            for dataset in cfg.DATASETS.TEST:
                if _evaluation_kind(dataset) == "coco":
                    path = MetadataCatalog.get(dataset).json_file
                    check_evaluation(path, masks=cfg.MODEL.MASK_ON)

    def train_loader(self, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """Return Detectron2's loader, without objects that cannot be learnt from."""
        records = training_records(cfg)
        mapper = DetectionMapper(cfg, is_train=True, total=number_of_files(records))
        return build_detection_train_loader(cfg, mapper=mapper, dataset=records)

    def test_loader(self, cfg: CfgNode, dataset: str) -> Iterable[list[dict[str, Any]]]:
        """Return Detectron2's loader."""
        return build_detection_test_loader(cfg, dataset, mapper=self.test_mapper(cfg))

    def test_mapper(self, cfg: CfgNode) -> DetectionMapper:
        """Return Detectron2's mapper; its errors name the image that cannot be read."""
        return DetectionMapper(cfg, is_train=False)

    def evaluator(self, cfg: CfgNode, dataset: str) -> DatasetEvaluator:
        """Return the evaluator for the format of a dataset."""
        if _evaluation_kind(dataset) == "coco":
            path = os.path.join(cfg.OUTPUT_DIR, f"predictions-{dataset.replace(os.sep, '-')}.json")
            return CocoEvaluator(
                dataset,
                ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",),
                save_to=path if cfg.TEST.SAVE_PREDICTIONS else "",
            )
        return VocEvaluator(dataset)

    def write_picture(self, path: str, model: nn.Module, cfg: CfgNode) -> None:
        """Draw ground truth and detections."""
        write_detections(path, model, cfg)


def _evaluation_kind(dataset: str) -> str:
    kind = str(MetadataCatalog.get(dataset).get("evaluator_type"))
    if kind not in ("coco", "pascal_voc"):
        raise UserError(
            f"dataset '{dataset}' is of kind '{kind}', which has no evaluator here; "
            "use one in COCO's or VOC's format",
            code="no-evaluator",
        )
    return kind


def _categories(dataset: str) -> list[str]:
    metadata = MetadataCatalog.get(dataset)
    if not metadata.get("thing_classes"):
        DatasetCatalog.get(dataset)  # A custom dataset has categories once it is read.
    return list(metadata.get("thing_classes", ()))
