"""Classification of whole images: fine-tuning, linear probes, and heads that are fitted."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import detectron2.utils.comm as comm
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from mls_d2.config.rules import Rule, above, at_least, bounds, check_rules, one_of
from mls_d2.core.errors import UserError
from mls_d2.data.classification import find, load_classification
from mls_d2.data.classification_loader import build_test_loader, build_train_loader, test_mapper
from mls_d2.evaluation.classification_evaluator import ClassificationEvaluator
from mls_d2.evaluation.pictures import write_classifications
from mls_d2.modeling.classifier import FITTED_HEADS, TRAINED_HEADS, ImageClassifier
from mls_d2.transfer.base import (
    TransferTask,
    check_num_classes,
    check_same_classes,
    refuse_single_images,
)
from mls_d2.transfer.fitting import fit_head

_STRIDE = 32  # of the last stage: smaller crops are a single position there.
_RULES: dict[str, Rule] = {
    "MODEL.CLASSIFIER.HEAD": one_of((*TRAINED_HEADS, *FITTED_HEADS)),
    "MODEL.CLASSIFIER.SVM_COSTS": Rule(lambda v: len(v) > 0 and min(v) > 0, "numbers > 0"),
    "MODEL.CLASSIFIER.KNN_K": at_least(1),
    "MODEL.CLASSIFIER.KNN_TEMPERATURE": above(0),
    "CLASSIFICATION.TRAIN_CROP": one_of(("random_resized", "random")),
    "CLASSIFICATION.TEST_CROP": one_of(("center", "squash")),
    "CLASSIFICATION.CROP_SIZE": at_least(32, " pixels"),
    "CLASSIFICATION.CROP_SCALE": bounds(1),
    "INPUT.FORMAT": one_of(("RGB", "BGR")),
}


class Classification(TransferTask):
    """One class or several per image; the model is an :class:`ImageClassifier`."""

    def name(self, cfg: CfgNode) -> str:
        """Return dataset and protocol, for example ``"cub200_finetune"`` or ``"voc2007_svm"``."""
        node = cfg.MODEL.CLASSIFIER
        trained = "linear" if node.FREEZE_BACKBONE else "finetune"
        protocol = node.HEAD if node.HEAD in FITTED_HEADS else trained
        return f"{find(cfg.DATASETS.TEST[0])[0]}_{protocol}"

    def check(self, cfg: CfgNode) -> None:
        """Compare the config with the datasets, and its values with what is allowed.

        Raises:
            UserError: names key, value and what is expected.
        """
        datasets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        found = {name: find(name)[2] for name in datasets}
        check_same_classes({name: data.names or (data.title,) for name, data in found.items()})
        for name in datasets:
            _check_dataset(cfg, name)
        resize = at_least(cfg.CLASSIFICATION.CROP_SIZE, " (CLASSIFICATION.CROP_SIZE)")
        check_rules(cfg, {**_RULES, "CLASSIFICATION.RESIZE": resize})
        fitted = cfg.MODEL.CLASSIFIER.HEAD in FITTED_HEADS
        if fitted and not cfg.DATASETS.TRAIN:
            raise UserError(
                f"MODEL.CLASSIFIER.HEAD {cfg.MODEL.CLASSIFIER.HEAD} has no trained weights: there "
                "is nothing to evaluate with --eval-only; run it without",
                code="bad-option",
            )
        if fitted != (cfg.SOLVER.MAX_ITER == 0):
            raise UserError(
                f"SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER} does not go with MODEL.CLASSIFIER.HEAD "
                f"{cfg.MODEL.CLASSIFIER.HEAD}: 'svm' and 'knn' are fitted without iterations, "
                "others need some",
                code="bad-value",
            )
        if cfg.DATASETS.TRAIN and not fitted:
            check_batch(cfg, comm.get_world_size())

    def train_loader(self, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """Return endless batches, cropped and flipped at random."""
        return build_train_loader(cfg)

    def test_loader(self, cfg: CfgNode, dataset: str) -> Iterable[list[dict[str, Any]]]:
        """Return batches, cropped in one fixed way."""
        return build_test_loader(cfg, [dataset])

    def test_mapper(self, cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
        """Return the mapper of the test loader."""
        return test_mapper(cfg)

    def input_size(self, cfg: CfgNode) -> str:
        """Return the size of the crops."""
        return f"CLASSIFICATION.CROP_SIZE ({cfg.CLASSIFICATION.CROP_SIZE})"

    def evaluator(self, cfg: CfgNode, dataset: str) -> DatasetEvaluator:
        """Return the evaluator of top-1 accuracy or average precision."""
        names = load_classification(dataset).names
        return ClassificationEvaluator(names, multi_label=cfg.MODEL.CLASSIFIER.MULTI_LABEL)

    def evaluate(self, cfg: CfgNode, model: nn.Module) -> dict[str, dict[str, float]]:
        """Fit a head that is not trained by SGD, then evaluate."""
        if cfg.MODEL.CLASSIFIER.HEAD in FITTED_HEADS:
            fit_head(cfg, cast(ImageClassifier, model))
        return super().evaluate(cfg, model)

    def watch(self, cfg: CfgNode, model: nn.Module) -> Callable[[], None]:
        """Copy a frozen backbone, to compare it after training."""
        if not cfg.MODEL.CLASSIFIER.FREEZE_BACKBONE:
            return super().watch(cfg, model)
        return watch_frozen(cast(ImageClassifier, model).backbone)

    def write_picture(self, path: str, model: nn.Module, cfg: CfgNode) -> None:
        """Draw test images with their true and predicted classes."""
        data = load_classification(cfg.DATASETS.TEST[0])
        mapper, colours = self.test_mapper(cfg), cfg.INPUT.FORMAT
        write_classifications(path, model, data.records, mapper, data.names, colours)


def check_batch(cfg: CfgNode, world_size: int) -> None:
    """Refuse batches of one image if a trained BatchNorm has a single value per image.

    ``cfg`` is not scaled to ``world_size`` processes yet.

    Raises:
        UserError: names the norm and the settings of the batch.
    """
    head, norm = cfg.MODEL.CLASSIFIER.HEAD, cfg.MODEL.RESNETS.NORM
    norms = {f"MODEL.CLASSIFIER.HEAD {head}": "SyncBN"} if head == "bn_linear" else {}
    one_value = cfg.CLASSIFICATION.CROP_SIZE <= _STRIDE and "BN" in norm and norm != "FrozenBN"
    if one_value and not cfg.MODEL.CLASSIFIER.FREEZE_BACKBONE:
        norms[f"MODEL.RESNETS.NORM {norm}"] = norm
    for layer, kind in norms.items():
        refuse_single_images(cfg, layer, kind, world_size)


def watch_frozen(module: nn.Module) -> Callable[[], None]:
    """Return a function that raises if a tensor of ``module``, buffers included, has changed since.

    Raises:
        UserError: names the tensors that changed.
    """
    before = {name: value.clone() for name, value in module.state_dict().items()}

    def compare() -> None:
        after = module.state_dict()
        changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
        if changed:
            raise UserError(
                f"the frozen backbone changed in training: {', '.join(changed[:5])} and "
                f"{max(len(changed) - 5, 0)} more tensors; these results would not be those of "
                "the given backbone. Please report this with environment.json",
                code="frozen-changed",
            )

    return compare


def _check_dataset(cfg: CfgNode, name: str) -> None:
    node, (_, _, data) = cfg.MODEL.CLASSIFIER, find(name)
    check_num_classes(cfg, "MODEL.CLASSIFIER.NUM_CLASSES", name, data.num_classes)
    if data.multi_label != node.MULTI_LABEL:
        raise UserError(
            f"dataset '{name}' has {'several classes' if data.multi_label else 'one class'} per "
            f"image; set MODEL.CLASSIFIER.MULTI_LABEL {data.multi_label}",
            code="bad-value",
        )
