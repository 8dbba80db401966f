"""The interface between methods and the trainer."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from fvcore.common.registry import Registry
from torch import Tensor, nn

from mls_d2.config.options import OPTIONS, option
from mls_d2.config.options import Options as MethodOptions
from mls_d2.config.rules import above, at_least, below_one, one_of
from mls_d2.core.errors import UserError
from pretrain.batch import Batch, StepOutput
from pretrain.batchnorm import BatchShuffle
from pretrain.dictionary import Dictionary, effective_rank
from pretrain.encoder import Encoder, momentum_copy, move_towards
from pretrain.sources import ImageSource
from pretrain.views import Crops, LoaderExtra, crops_from_config


class MethodRegistry(Registry):
    """Methods by the name that ``PRETRAIN.METHOD`` has for them."""

    def register(self, name: str) -> Callable[[type[Method]], type[Method]]:
        """Return a decorator that registers a method and the config keys of its options."""

        def decorate(method: type[Method]) -> type[Method]:
            self._do_register(name, method)
            OPTIONS[name] = method.Options
            return method

        return decorate

    def names(self) -> list[str]:
        """Return the registered names."""
        return [name for name, _ in self]


METHODS = MethodRegistry("METHODS")


class Method(nn.Module, abc.ABC):
    """A self-supervised method: networks, among them ``encoder``, and a loss of a batch of views.

    For each step the trainer calls ``before_step``, ``forward``, backpropagates the weighted sum of
    the losses, and calls ``before_optimizer_step`` (gradients are unscaled), the optimizer,
    ``after_optimizer_step``, and ``enqueue`` with the keys of all processes in rank order. A method
    knows neither devices nor processes.

    Args:
        backbone: a Detectron2 backbone.
        feature_dim: channels d_g of its last output feature.
        options: the method's own.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    options: MethodOptions
    # PRETRAIN.AUGMENT.LOCAL_CROPS may be above 0: these views follow the first two.
    takes_local_views: ClassVar[bool] = False
    # It computes keys with a momentum encoder, in an order that ``shuffle`` may change.
    has_keys: ClassVar[bool] = False
    # It contrasts a key with those of other batches, so that batch statistics can leak the answer.
    contrasts_batches: ClassVar[bool] = False
    # StepOutput.labels are pseudo-labels, over rows of a dictionary that second views enter.
    has_labels: ClassVar[bool] = False

    encoder: Encoder
    shuffle: BatchShuffle | None = None

    def __init__(self, backbone: nn.Module, feature_dim: int, options: MethodOptions) -> None:
        super().__init__()
        self.options = options

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Method:
        """Build the method on the backbone of a config."""
        backbone = build_backbone(cfg)
        feature_dim = list(backbone.output_shape().values())[-1].channels
        return cls(backbone, feature_dim, cls.Options.from_config(cfg))

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the values that belong to the method.

        Raises:
            UserError: names key, value and what is allowed.
        """
        cls.Options.from_config(cfg)
        name = cfg.PRETRAIN.METHOD
        if cfg.PRETRAIN.BATCH_NORM == "shuffled" and not cls.has_keys:
            raise UserError(
                "PRETRAIN.BATCH_NORM shuffled shuffles the keys of a momentum encoder, which "
                f"PRETRAIN.METHOD '{name}' does not have: take sync or local",
                code="bad-value",
            )
        if cfg.PRETRAIN.AUGMENT.LOCAL_CROPS and not cls.takes_local_views:
            raise UserError(
                f"PRETRAIN.METHOD '{name}' takes no local views: set PRETRAIN.AUGMENT.LOCAL_CROPS "
                f"to 0, got {cfg.PRETRAIN.AUGMENT.LOCAL_CROPS}",
                code="bad-value",
            )

    @classmethod
    def first_stage(cls, cfg: CfgNode) -> CfgNode | None:
        """Return the config of the run that must be finished before this one, if there is one."""
        return None

    @classmethod
    def inputs(cls, cfg: CfgNode, source: ImageSource) -> dict[str, tuple[str, str]]:
        """Make the files that the loader needs of the images, as far as they are missing.

        Returns:
            By config key the path of each file, which the key then holds, and its digest.
        """
        return {}

    @classmethod
    def crops(cls, cfg: CfgNode) -> Crops:
        """Return how views are cut: by default two, then the local ones, independently."""
        return crops_from_config(cfg)

    @classmethod
    def loader_extras(cls, cfg: CfgNode) -> Mapping[str, LoaderExtra]:
        """Return what the loader has to bring for each image besides its views, by name."""
        return {}

    def candidates(self, batch_size: int) -> int | None:
        """Return among how many ``loss_nce`` finds the positive: its log is the chance level.

        Args:
            batch_size: images per step over all processes.

        Returns:
            None for a method without ``loss_nce``.
        """
        return None

    def before_step(self, iteration: int) -> None:
        """Prepare a step."""

    @abc.abstractmethod
    def forward(self, batch: Batch) -> StepOutput:
        """Compute the losses of a batch."""

    def before_optimizer_step(self) -> None:
        """Change or drop gradients, which are those of the whole batch."""

    def after_optimizer_step(self) -> None:
        """Follow the step that the weights have taken."""

    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Store the keys of all processes."""

    def diagnostics(self) -> dict[str, Tensor]:
        """Return scalars that cost too much for every step; called once per log period."""
        return {}

    def export(self) -> dict[str, Tensor]:
        """Return the tensors to transfer by their Detectron2 names."""
        return self.encoder.backbone.state_dict()


class MomentumMethod(Method):
    """A method whose ``encoder`` is followed by a ``momentum_encoder``, which computes the keys."""

    @dataclass(frozen=True, kw_only=True)
    class Options(MethodOptions):
        """Options of the EMA."""

        group = "MOCO"
        momentum: float = option(
            0.995, "coefficient of the momentum encoder", below_one(), symbol="m"
        )
        momentum_schedule: str = option(
            "constant",
            "'cosine' raises m to 1 at the end of the run (BYOL)",
            one_of(("constant", "cosine")),
        )

    has_keys = True

    options: MomentumMethod.Options
    encoder: Encoder
    momentum_encoder: Encoder

    def set_encoder(self, encoder: Encoder) -> None:
        """Make ``encoder`` the one that learns, and its copy the momentum encoder."""
        self.encoder = encoder
        self.momentum_encoder = momentum_copy(encoder)
        self._moved_with = self.options.momentum

    def before_step(self, iteration: int) -> None:
        """Fix the order in which the keys of this step are computed."""
        if self.shuffle is not None:
            self.shuffle.iteration = iteration

    def momentum(self, progress: float) -> float:
        """Return m at ``progress`` in [0, 1): constant, or 1 - (1 - m)(cos πt + 1) / 2.

        Source: BYOL (arXiv 2006.07733), section 3.
        """
        start = self.options.momentum
        if self.options.momentum_schedule == "constant":
            return start
        return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2

    def update_momentum_encoder(self, progress: float) -> None:
        """Move the momentum encoder towards the encoder, once per step."""
        self._moved_with = self.momentum(progress)
        move_towards(self.momentum_encoder, self.encoder, self._moved_with)

    def diagnostics(self) -> dict[str, Tensor]:
        """Return m, if it changes."""
        if self.options.momentum_schedule == "constant":
            return {}
        return {"momentum": torch.tensor(self._moved_with)}

    @torch.no_grad()
    def keys(self, *view: Tensor) -> tuple[Tensor, ...]:
        """Return what the encoder returns of a view, from the momentum encoder.

        Args:
            view: ``(N, 3, H, W)``, and ``(N, …)`` that the encoder takes with it.
        """
        if self.shuffle is None:
            return self.momentum_encoder(*view)
        rows = self.momentum_encoder(*(self.shuffle.shuffle(part) for part in view))
        return tuple(self.shuffle.restore(part) for part in rows)


class DictionaryMethod(MomentumMethod):
    """A method that contrasts queries with the keys in a ``dictionary``; MoCo's are in table z."""

    @dataclass(frozen=True, kw_only=True)
    class Options(MomentumMethod.Options):
        """Options of InfoNCE, the dictionary and MoCo-v2's projector."""

        group = "MOCO"
        temperature: float = option(0.2, "temperature, shared by all losses", above(0), symbol="τ")
        dictionary_size: int = option(4096, "rows of the dictionaries", at_least(1), symbol="D")
        projector_hidden_dim: int = option(
            2048, "width of the projector's hidden layer", at_least(1)
        )
        projector_out_dim: int = option(256, "width of the embedding", at_least(1), symbol="d_z")
        projector_norm: str = option(
            "",
            "norm after both layers: '' (the paper) or 'BN' (small networks)",
            one_of(("", "BN")),
        )

    contrasts_batches = True

    options: DictionaryMethod.Options
    dictionary: Dictionary

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the values that belong to the method."""
        super().check_config(cfg)
        size, batch = cfg.MOCO.DICTIONARY_SIZE, cfg.SOLVER.IMS_PER_BATCH
        if batch > size:
            raise UserError(
                f"a batch does not fit into the dictionary: SOLVER.IMS_PER_BATCH is {batch}, "
                f"MOCO.DICTIONARY_SIZE is {size}; change one of them",
                code="bad-value",
            )

    def candidates(self, batch_size: int) -> int:
        """Return D + 1: the rows of the dictionary and the key."""
        return self.dictionary.size + 1

    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Replace the oldest rows of the dictionary."""
        self.dictionary.enqueue(keys)

    def diagnostics(self) -> dict[str, Tensor]:
        """Return how many directions the rows of the dictionary fill."""
        rank = effective_rank(self.dictionary["z"].float())
        return super().diagnostics() | {"dictionary_rank": rank}


@torch.no_grad()
def contrast_metrics(positive: Tensor, negative: Tensor, feature: Tensor) -> dict[str, Tensor]:
    """Return the monitors of a contrastive step.

    Args:
        positive: ``(N,)`` cosines of queries and their keys.
        negative: ``(N, D)`` cosines with the dictionary's rows.
        feature: ``(N, d)`` backbone features g.

    Returns:
        ``nce_accuracy`` (share of queries whose key is nearer than the whole dictionary), the mean
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
