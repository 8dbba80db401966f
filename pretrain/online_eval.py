"""Evaluation during training: weighted nearest neighbours on a labelled dataset."""

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from mls_d2.core.errors import UserError
from mls_d2.data.dataset_files import explain_missing, missing_of
from mls_d2.data.images import BrokenImageError, read_image
from mls_d2.evaluation.classification_evaluator import mean_average_precision
from mls_d2.modeling.fitted_heads import knn_scores
from pretrain.annotations import Annotations, load_annotations
from pretrain.encoder import pooled
from pretrain.views.crops import Crop, cut
from pretrain.views.photometric import normalize

logger = logging.getLogger(__name__)

_BATCH = 64
_TEMPERATURE = 0.07  # of the votes, see :func:`knn_scores`


class OnlineEvaluation(HookBase):
    """Logs ``knn_map`` every so many epochs: labels are used for measuring only.

    The main process measures and the others wait. No random number is drawn, so the run ends as it
    would without it.

    Args:
        backbone: the online encoder, in training mode.
        train: images and categories of the neighbours.
        test: those of the queries.
        period: iterations.
        size: side of the views in pixels: the whole central square, resized.
        mean: ``MODEL.PIXEL_MEAN``, RGB.
        std: ``MODEL.PIXEL_STD``.
        k: neighbours.
    """

    def __init__(
        self,
        backbone: nn.Module,
        train: Annotations,
        test: Annotations,
        *,
        period: int,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        k: int = 20,
    ) -> None:
        self._backbone, self._train, self._test = backbone, train, test
        self._period, self._size, self._mean, self._std = period, size, mean, std
        self._k = k

    def after_step(self) -> None:
        """Measure if it is due."""
        done = self.trainer.iter + 1
        if done % self._period and done < self.trainer.max_iter:
            return
        if comm.is_main_process():
            value = self.measure()
            self.trainer.storage.put_scalar("knn_map", value, smoothing_hint=False)
            logger.info("nearest neighbours after %d steps: mAP %.4f", done, value)
        comm.synchronize()

    def measure(self) -> float:
        """Return the mAP of the test images."""
        training = self._backbone.training
        self._backbone.eval()  # Running statistics: a feature must not depend on its batch.
        try:
            features, targets = self._features(self._train)
            queries, wanted = self._features(self._test)
        finally:
            self._backbone.train(training)
        k = min(self._k, len(features))
        scores = knn_scores(queries, features, targets, k=k, temperature=_TEMPERATURE)
        return mean_average_precision(scores, wanted)

    @torch.no_grad()
    def _features(self, data: Annotations) -> tuple[Tensor, Tensor]:
        """Return ``(N, d)`` unit features of the readable images, and their ``(N, C)`` targets."""
        device, rows, kept = next(self._backbone.parameters()).device, [], []
        for first in range(0, len(data.paths), _BATCH):
            chosen = range(first, min(first + _BATCH, len(data.paths)))
            views = {
                i: view for i in chosen if (view := _central(data.paths[i], self._size)) is not None
            }
            if views:
                pixels = torch.from_numpy(np.stack(list(views.values()))).to(device)
                images = pixels.permute(0, 3, 1, 2).contiguous().float() / 255
                feature = pooled(self._backbone, normalize(images, self._mean, self._std))
                rows.append(torch.nn.functional.normalize(feature.float(), dim=1))
                kept += list(views)
        return torch.cat(rows), torch.from_numpy(data.shown()[kept]).to(device)


def build_online_eval(
    cfg: CfgNode, backbone: nn.Module, iters_per_epoch: int
) -> list[OnlineEvaluation]:
    """Return the hook, if ``PRETRAIN.ONLINE_EVAL.PERIOD`` is set.

    Raises:
        UserError: a bad value, a dataset without annotations or with missing images, or two with
            different categories.
    """
    node = cfg.PRETRAIN.ONLINE_EVAL
    if node.PERIOD <= 0:
        return []
    if node.MAX_IMAGES < 1:
        raise UserError(
            f"PRETRAIN.ONLINE_EVAL.MAX_IMAGES must be >= 1, got {node.MAX_IMAGES}", code="bad-value"
        )

    def data(name: str) -> Annotations:
        if not comm.is_main_process():
            return Annotations((), (), (), ())  # It only waits; those of COCO take 3 GB to read.
        found = load_annotations([node[name]], key=f"PRETRAIN.ONLINE_EVAL.{name}")
        absent = missing_of(found.paths)
        if absent:
            raise explain_missing(node[name], absent, len(found.paths), "images")
        return spaced(found, node.MAX_IMAGES)

    train, test = data("TRAIN"), data("TEST")
    if train.names != test.names:
        raise UserError(
            f"PRETRAIN.ONLINE_EVAL: the datasets '{node.TRAIN}' and '{node.TEST}' have different "
            "categories",
            code="other-classes",
        )
    hook = OnlineEvaluation(
        backbone,
        train,
        test,
        period=max(1, round(node.PERIOD * iters_per_epoch)),
        size=cfg.PRETRAIN.AUGMENT.CROP_SIZE,
        mean=cfg.MODEL.PIXEL_MEAN,
        std=cfg.MODEL.PIXEL_STD,
    )
    return [hook]


def spaced(data: Annotations, count: int) -> Annotations:
    """Return evenly spaced images of a dataset, ``count`` at most."""
    step = max(1, math.ceil(len(data.paths) / count))
    return Annotations(data.paths[::step], data.boxes[::step], data.categories[::step], data.names)


def _central(path: str, size: int) -> np.ndarray | None:
    try:
        image = read_image(path)
    except BrokenImageError:
        return None
    height, width = image.shape[:2]
    side = min(height, width)
    return cut(image, Crop((width - side) // 2, (height - side) // 2, side, side, False), size)
