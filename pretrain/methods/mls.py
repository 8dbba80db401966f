"""MLS: multi-label self-supervised learning with scene images (arXiv 2308.03286, ICCV 2023).

Shape legend: N images of the batch, Q queries (see ``moco.py``), D rows of the dictionaries, d_g
and d_z channels of the backbone feature g and of the embedding z.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from mls_d2.config.options import option
from mls_d2.config.rules import Rule, at_least, one_of
from pretrain.batch import Batch, StepOutput
from pretrain.losses import knn_softmax, multi_label_bce, positive_bce, similarities
from pretrain.methods.base import METHODS, Method
from pretrain.methods.moco import Contrast, MoCo
from pretrain.numerics import wide

logger = logging.getLogger(__name__)

# The term added to InfoNCE (Table 6); "none" is MoCo-v2.
LOSSES = {"none": None, "knn": knn_softmax, "bce_pos": positive_bce, "bce": multi_label_bce}
# Which dictionary gives the labels and which the logits (Table 7).
DICTIONARIES = {"g": ("g", "g"), "z": ("z", "z"), "both": ("g", "z")}


@METHODS.register("mls")
class MLS(MoCo):
    """MoCo-v2 plus one term: multi-label classification of each image against the dictionary.

    The backbone feature g1 selects its k nearest rows of Q_g; the embedding z1 is classified
    against the rows of Q_z at the same positions with binary cross-entropy.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MoCo.Options):
        """Options of the multi-label term."""

        group = "MLS"
        k: int = option(20, "pseudo-positives per image, below D", at_least(1), symbol="k")
        loss_weight: float = option(
            0.5, "weight of the multi-label loss", at_least(0), symbol="λ", key="LAMBDA"
        )
        warmup: float = option(
            0.0, "epochs of InfoNCE alone before the multi-label loss (section 3.3)", at_least(0)
        )
        keep_nce: bool = option(
            True,
            "whether InfoNCE stays after the warm-up",
            Rule(lambda value: isinstance(value, bool), "True or False"),
        )
        loss: str = option("bce", "the term added to InfoNCE (Table 6)", one_of(LOSSES))
        dictionaries: str = option(
            "both", "dictionaries of labels and logits (Table 7)", one_of(DICTIONARIES)
        )

        def joint_rules(self) -> Iterator[tuple[str, bool, str]]:
            """Yield that k is below D."""
            size = self.dictionary_size
            yield "MLS.K", self.k < size, f"in [1, D) with D = MOCO.DICTIONARY_SIZE = {size}"

    further_tables = ("g",)
    has_labels = True

    options: MLS.Options

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Method:
        """Build MLS, or the variant of Tables 6 and 7 that a config chooses."""
        if cfg.MLS.WARMUP >= cfg.PRETRAIN.EPOCHS and cfg.MLS.LOSS != "none":
            logger.warning(
                "MLS.WARMUP %g is not shorter than the run, PRETRAIN.EPOCHS %g: the multi-label "
                "loss never counts",
                cfg.MLS.WARMUP,
                cfg.PRETRAIN.EPOCHS,
            )
        is_paper = cfg.MLS.LOSS == "bce" and cfg.MLS.DICTIONARIES == "both"
        return super(MLS, cls if is_paper else AblatedMLS).from_config(cfg)

    def forward(self, batch: Batch) -> StepOutput:
        """Compute Eqs. 6 to 10."""
        step = self.contrast(batch)
        loss_ml, y = self.multi_label_loss(step)
        nce_weight, ml_weight = self._weights(batch.epoch)
        return StepOutput(
            losses={"loss_nce": self.info_nce(step), "loss_ml": loss_ml},
            weights={"loss_nce": nce_weight, "loss_ml": ml_weight},  # Eq. 10
            metrics=step.metrics() | self._label_metrics(step, y),
            keys={"g": step.g2, "z": step.z2},
            labels=None if y is None else y[: len(step.z2)],
        )

    def multi_label_loss(self, step: Contrast) -> tuple[Tensor, Tensor | None]:
        """Return L_ml and the labels y ``(Q, D)``."""
        y = pseudo_labels(step.g1, self.dictionary["g"], self.options.k)  # Eq. 7
        p = step.negative  # Eq. 8: z1ᵀ Q_z, the cosines that InfoNCE takes for negatives
        return multi_label_bce(p, y, self.options.temperature), y  # Eq. 9

    def _weights(self, epoch: float) -> tuple[float, float]:
        if epoch < self.options.warmup:
            return 1.0, 0.0
        return float(self.options.keep_nce), self.options.loss_weight

    @torch.no_grad()
    def _label_metrics(self, step: Contrast, y: Tensor | None) -> dict[str, Tensor]:
        if y is None:
            return {}
        # Of the rows that the batch could have selected: few, if all images select the same.
        most = min(y.shape[1], len(y) * self.options.k)
        return {
            "label_similarity": (step.negative * y).sum(dim=1).mean() / self.options.k,
            "label_spread": y.any(dim=0).sum() / most,
        }


@torch.no_grad()
def pseudo_labels(features: Tensor, dictionary: Tensor, k: int) -> Tensor:
    """Mark the k rows of the dictionary most similar to each feature (MLS, Eq. 7).

    Args:
        features: ``(N, d)``; they need no normalisation, since length does not change the order.
        dictionary: ``(D, d)``, rows should be L2-normalised.
        k: pseudo-positives per image, 1 <= k < D.

    Returns:
        ``(N, D)`` bool with exactly k True per row.

    Raises:
        ValueError: k outside [1, D), or shapes that do not fit.
    """
    if features.ndim != 2 or features.shape[1:] != dictionary.shape[1:]:
        raise ValueError(
            "expected features (N, d) and dictionary (D, d), got "
            f"{tuple(features.shape)} and {tuple(dictionary.shape)}"
        )
    if not 1 <= k < len(dictionary):
        raise ValueError(f"k must be in [1, D) with D = {len(dictionary)} rows, got {k}")
    features = wide(features)
    with torch.autocast(features.device.type, enabled=False):
        scores = features @ dictionary.to(features.dtype).T
    top = scores.topk(k, dim=1, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, top, True)


class AblatedMLS(MLS):
    """MLS with another term added to InfoNCE (Table 6) or other dictionaries (Table 7)."""

    def multi_label_loss(self, step: Contrast) -> tuple[Tensor, Tensor | None]:
        """Return the term that the options choose and its labels; 0 without labels for "none"."""
        loss = LOSSES[self.options.loss]
        if loss is None:
            return step.negative.new_zeros(()), None
        label_table, logit_table = DICTIONARIES[self.options.dictionaries]
        features = {"g": step.g1, "z": step.z1}[label_table]
        y = pseudo_labels(features, self.dictionary[label_table], self.options.k)
        p = step.negative
        if logit_table == "g":
            unit = F.normalize(step.g1.float(), dim=1)
            p = similarities(unit, unit, self.dictionary["g"])[1]
        return loss(p, y, self.options.temperature), y
