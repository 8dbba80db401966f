"""What a transfer run needs from a kind of model: data, optimizer, evaluation, picture."""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.solver import build_lr_scheduler, build_optimizer
from torch import nn

from mls_d2.config.rules import value_at
from mls_d2.core.errors import UserError


class TransferTask(abc.ABC):
    """One kind of transfer; everything else of a run is the same for all of them."""

    @abc.abstractmethod
    def name(self, cfg: CfgNode) -> str:
        """Return the name of the measurement, for example ``"coco_mask_rcnn_fpn"``."""

    @abc.abstractmethod
    def check(self, cfg: CfgNode) -> None:
        """Check the keys of this kind of model, before anything is built.

        Raises:
            UserError: names key, value and what is allowed, or the missing data.
        """

    @abc.abstractmethod
    def train_loader(self, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """Return the endless batches of this process, in the model's input format."""

    @abc.abstractmethod
    def test_loader(self, cfg: CfgNode, dataset: str) -> Iterable[list[dict[str, Any]]]:
        """Return this process's share of a test dataset."""

    def test_mapper(self, cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
        """Return the mapper from a record with ``file_name`` to the model's input: Detectron2's."""
        return DatasetMapper(cfg, is_train=False)

    @abc.abstractmethod
    def evaluator(self, cfg: CfgNode, dataset: str) -> DatasetEvaluator:
        """Return the evaluator of the model's outputs on a test dataset.

        Raises:
            UserError: no evaluator for that kind of dataset.
        """

    def optimizer(self, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer: Detectron2's."""
        return build_optimizer(cfg, model)

    def scheduler(self, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Return the learning rate's schedule, by iteration: Detectron2's."""
        return build_lr_scheduler(cfg, optimizer)

    def input_size(self, cfg: CfgNode) -> str:
        """Return the key, with its value, that sets the size of training images."""
        return f"INPUT.MIN_SIZE_TRAIN ({cfg.INPUT.MIN_SIZE_TRAIN})"

    def watch(self, cfg: CfgNode, model: nn.Module) -> Callable[[], None]:
        """Return a check to be made after training, given a model with its initial weights.

        It raises if training changed what it must not; here nothing is checked.
        """
        return lambda: None

    @abc.abstractmethod
    def write_picture(self, path: str, model: nn.Module, cfg: CfgNode) -> None:
        """Write a PNG of predictions on test images."""

    def evaluate(self, cfg: CfgNode, model: nn.Module) -> dict[str, dict[str, float]]:
        """Evaluate a model on ``cfg.DATASETS.TEST``.

        Returns:
            ``{task: {metric: value}}`` on the main process, ``{}`` on the others. With several
            datasets a task is named ``<dataset>/<task>``.
        """
        results: dict[str, dict[str, float]] = {}
        for name in cfg.DATASETS.TEST:
            evaluator = self.evaluator(cfg, name)
            metrics = inference_on_dataset(model, self.test_loader(cfg, name), evaluator)
            if comm.is_main_process():
                prefix = f"{name}/" if len(cfg.DATASETS.TEST) > 1 else ""
                results |= {f"{prefix}{task}": values for task, values in metrics.items()}
        return results


def check_same_classes(classes: Mapping[str, Sequence[str]]) -> None:
    """Compare the classes of datasets: their names, in the order of their numbers, by dataset.

    Raises:
        UserError: a dataset has other classes than another one.
    """
    (first, known), *others = classes.items()
    for dataset, names in others:
        if list(names) != list(known):
            odd = sorted(set(names) ^ set(known))
            shown = ", ".join(odd[:5]) + ", …" * (len(odd) > 5)
            alone = f"{shown} in one of them alone" if odd else "the same in another order"
            raise UserError(
                f"datasets '{first}' and '{dataset}' have different classes: {alone}; a model has "
                "one list of classes for all datasets",
                code="other-classes",
            )


def check_num_classes(cfg: CfgNode, key: str, dataset: str, found: int) -> None:
    """Compare the number of a dataset's classes with that of the model, the value of ``key``.

    Raises:
        UserError: they differ.
    """
    expected = value_at(cfg, key)
    if found != expected:
        raise UserError(
            f"dataset '{dataset}' has {found} classes, the model {expected}; set {key} {found}",
            code="bad-value",
        )


def refuse_single_images(cfg: CfgNode, layer: str, norm: str, world_size: int) -> None:
    """Refuse to train a BatchNorm, with one value per image and channel, on one image at a time.

    Args:
        cfg: not scaled to ``world_size`` processes yet.
        layer: what to call the layer.
        norm: its kind, by Detectron2's name.
        world_size: number of processes.

    Raises:
        UserError: it gets a single image; names the layer and the settings of the batch.
    """
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    images = batch // (reference or world_size) * (world_size if "Sync" in norm else 1)
    if images == 1:
        raise UserError(
            f"{layer} normalises one image at a time (SOLVER.IMS_PER_BATCH {batch}, "
            f"SOLVER.REFERENCE_WORLD_SIZE {reference}, {world_size} processes), one value per "
            "channel, which has no variance; use two or more images",
            code="batch-too-small",
        )
