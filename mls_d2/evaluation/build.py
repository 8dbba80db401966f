"""From a config to the evaluation of a model on its test datasets."""

from __future__ import annotations

import logging

import detectron2.utils.comm as comm
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import nn

from mls_d2.errors import UserError
from mls_d2.evaluation.coco import CocoEvaluator

logger = logging.getLogger(__name__)


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """Return the evaluator for a registered dataset.

    Raises:
        UserError: no evaluator for that kind of dataset.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind == "coco":
        return CocoEvaluator(dataset_name, ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",))
    raise UserError(
        f"dataset '{dataset_name}' is of kind '{kind}', which has no evaluator here; "
        "use one in COCO format"
    )


def evaluate_model(cfg: CfgNode, model: nn.Module) -> dict[str, dict[str, float]]:
    """Evaluate a model on ``cfg.DATASETS.TEST``.

    Returns:
        ``{task: {metric: value}}`` on the main process, ``{}`` on the others. With several datasets
        a task is named ``<dataset>/<task>``.
    """
    results: dict[str, dict[str, float]] = {}
    for name in cfg.DATASETS.TEST:
        loader = build_detection_test_loader(cfg, name)
        metrics = inference_on_dataset(model, loader, build_evaluator(cfg, name))
        if comm.is_main_process():
            prefix = f"{name}/" if len(cfg.DATASETS.TEST) > 1 else ""
            results |= {f"{prefix}{task}": values for task, values in metrics.items()}
    return results
