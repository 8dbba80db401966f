"""What every method is to the trainer."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from mls_d2.core.errors import UserError
from pretrain.dictionary import Dictionary, effective_rank
from pretrain.encoder import Encoder
from pretrain.momentum import MomentumPair

# Key of the config, whether its value is allowed, and what is.
Rule = tuple[str, bool, str]


@dataclass
class StepOutput:
    """What one forward pass gives.

    Attributes:
        losses: name → scalar with gradient; their sum is minimised.
        metrics: name → detached scalar, for the log.
        keys: table name → ``(N, d)`` rows of this process, to be enqueued after the loss.
        labels: ``(N, D)`` bool, the pseudo-labels of a method that has them; for measuring.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None


class Method(nn.Module, abc.ABC):
    """A self-supervised method: an ``encoder``, and a loss of two views of each image.

    The trainer calls ``forward``, backpropagates the sum of the losses, lets the optimizer step,
    and then calls ``after_optimizer_step``, and ``enqueue`` with the keys of all processes in rank
    order, so a method knows neither devices nor processes. What has a momentum pair is a
    :class:`MomentumMethod`, what has a dictionary besides a :class:`DictionaryMethod`.
    """

    encoder: Encoder

    # Whether ``forward`` takes PRETRAIN.AUGMENT.LOCAL_CROPS as ``local_views`` (N, L, 3, h, w).
    takes_local_views: ClassVar[bool] = False

    @classmethod
    @abc.abstractmethod
    def from_config(cls, cfg: CfgNode) -> Method:
        """Build the method on Detectron2's backbone."""

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the values that belong to the method.

        Raises:
            UserError: names key, value and what is allowed.
        """
        if not issubclass(cls, MomentumMethod) and cfg.PRETRAIN.BATCH_NORM == "shuffled":
            raise UserError(
                "PRETRAIN.BATCH_NORM shuffled shuffles the keys of a momentum encoder, which "
                f"PRETRAIN.METHOD '{cfg.PRETRAIN.METHOD}' does not have: take sync or local"
            )
        if cfg.PRETRAIN.AUGMENT.LOCAL_CROPS and not cls.takes_local_views:
            raise UserError(
                f"PRETRAIN.METHOD '{cfg.PRETRAIN.METHOD}' is defined on two views: set "
                f"PRETRAIN.AUGMENT.LOCAL_CROPS to 0, got {cfg.PRETRAIN.AUGMENT.LOCAL_CROPS}"
            )

    @property
    def online_encoder(self) -> Encoder:
        """The encoder that is trained, whose backbone a run exports."""
        return self.encoder

    def candidates(self, batch_size: int) -> int | None:
        """Return among how many ``loss_nce`` looks for the positive: log of it is chance level.

        Args:
            batch_size: images a step over all processes.

        Returns:
            None for a method that contrasts nothing.
        """
        return None

    @abc.abstractmethod
    def forward(self, view1: Tensor, view2: Tensor, epoch: float) -> StepOutput:
        """Take one step on two views ``(N, 3, H, W)``; ``epoch`` is passes over the data so far."""

    def after_optimizer_step(self) -> None:
        """Do what follows the optimizer's step; most methods have nothing to do."""

    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Put the keys of all processes into the dictionary, where there is one."""

    def diagnostics(self) -> dict[str, Tensor]:
        """Return scalars that are too dear for every step, asked for once a log period."""
        return {}


class MomentumMethod(Method):
    """A method whose encoder is a ``pair`` with momentum copies."""

    pair: MomentumPair

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the keys of the pair; see :meth:`Method.check_config`."""
        super().check_config(cfg)
        schedules = ("constant", "cosine")
        rules = [
            ("MOCO.MOMENTUM", 0 <= cfg.MOCO.MOMENTUM < 1, "in [0, 1)"),
            (
                "MOCO.MOMENTUM_SCHEDULE",
                cfg.MOCO.MOMENTUM_SCHEDULE in schedules,
                "'constant' or 'cosine'",
            ),
        ]
        check_rules(cfg, rules)

    @property
    def online_encoder(self) -> Encoder:
        """The pair; its online backbone is exported."""
        return self.pair


class DictionaryMethod(MomentumMethod):
    """A method that contrasts queries with the keys in a ``dictionary``, whose table z is MoCo's.

    Local views are further queries of their image's key.
    """

    dictionary: Dictionary

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the keys of group MOCO; see :meth:`Method.check_config`."""
        super().check_config(cfg)
        size = cfg.MOCO.DICTIONARY_SIZE
        if size % cfg.SOLVER.IMS_PER_BATCH:
            raise UserError(
                "the batch must divide the dictionary: SOLVER.IMS_PER_BATCH is "
                f"{cfg.SOLVER.IMS_PER_BATCH}, MOCO.DICTIONARY_SIZE is {size}; change one of them"
            )
        rules = [
            ("MOCO.TEMPERATURE", cfg.MOCO.TEMPERATURE > 0, "> 0"),
            ("MOCO.PROJECTOR_NORM", cfg.MOCO.PROJECTOR_NORM in ("", "BN"), "'' or 'BN'"),
        ]
        check_rules(cfg, rules)

    def candidates(self, batch_size: int) -> int:
        """Return D + 1: the rows of the dictionary and the key."""
        return self.dictionary.size + 1

    def queries(self, view: Tensor, local_views: Tensor | None) -> tuple[Tensor, ...]:
        """Return g and z of the views ``(N, …)``, then of their local views, image by image."""
        encoded = self.pair.online(view)
        if local_views is None:
            return encoded
        local = self.pair.online(local_views.flatten(0, 1))
        return tuple(torch.cat(parts) for parts in zip(encoded, local, strict=True))

    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Put the keys of all processes into the dictionary."""
        self.dictionary.enqueue(keys)

    def diagnostics(self) -> dict[str, Tensor]:
        """Return how many directions the rows of the dictionary fill."""
        return {"dictionary_rank": effective_rank(self.dictionary["z"].float())}


def keys_of_queries(keys: Tensor, local_views: Tensor | None) -> Tensor:
    """Return the key of each query: ``(N, d)`` → ``(N + N·L, d)``, see :meth:`queries`."""
    if local_views is None:
        return keys
    return torch.cat([keys, keys.repeat_interleave(local_views.shape[1], dim=0)])


def backbone_from_config(cfg: CfgNode) -> tuple[nn.Module, int]:
    """Return Detectron2's backbone and the channels d_g of its last output feature."""
    backbone = build_backbone(cfg)
    return backbone, list(backbone.output_shape().values())[-1].channels


def check_rules(cfg: CfgNode, rules: Iterable[Rule]) -> None:
    """Raise a UserError for the first rule that does not hold."""
    for key, holds, expected in rules:
        if not holds:
            node, leaf = key.split(".")
            raise UserError(f"{key} must be {expected}, got {cfg[node][leaf]!r}")


def one_of(names: Iterable[str]) -> str:
    """Return what a :data:`Rule` says of a choice."""
    return "one of " + ", ".join(f"'{name}'" for name in names)


@torch.no_grad()
def contrast_metrics(positive: Tensor, negative: Tensor, feature: Tensor) -> dict[str, Tensor]:
    """Return the monitors of a contrastive step.

    Args:
        positive: ``(N,)`` cosines of queries and their keys.
        negative: ``(N, D)`` cosines with the dictionary's rows.
        feature: ``(N, d)`` backbone features g.

    Returns:
        ``nce_accuracy`` (share of queries whose key beats the whole dictionary), the mean
        similarities, and ``feature_std``, the :func:`spread` of the features.
    """
    return {
        "nce_accuracy": (positive > negative.amax(dim=1)).float().mean(),
        "positive_similarity": positive.mean(),
        "negative_similarity": negative.mean(),
        "feature_std": spread(feature),
    }


@torch.no_grad()
def spread(rows: Tensor) -> Tensor:
    """Return the standard deviation over the batch of L2-normalised ``(N, d)`` rows, times √d.

    0 means collapse, 1 an even spread (SimSiam, arXiv 2011.10566, section 4.1).
    """
    return F.normalize(rows.float(), dim=1).std(dim=0).mean() * rows.shape[1] ** 0.5
