"""What every method is to the trainer."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.dictionary import Dictionary, effective_rank
from pretrain.momentum import MomentumPair


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
    """A self-supervised method on a momentum pair and a dictionary.

    The trainer calls ``forward``, backpropagates the sum of the losses, and then ``enqueue`` with
    the keys of all processes in rank order, so a method knows neither devices nor processes.
    """

    pair: MomentumPair
    dictionary: Dictionary

    @abc.abstractmethod
    def forward(self, view1: Tensor, view2: Tensor, epoch: float) -> StepOutput:
        """Take one step on two views ``(N, 3, H, W)``; ``epoch`` is passes over the data so far."""

    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Put the keys of all processes into the dictionary."""
        self.dictionary.enqueue(keys)

    def diagnostics(self) -> dict[str, Tensor]:
        """Return scalars that are too dear for every step, asked for once a log period."""
        return {"dictionary_rank": effective_rank(self.dictionary["z"].float())}


@torch.no_grad()
def contrast_metrics(positive: Tensor, negative: Tensor, feature: Tensor) -> dict[str, Tensor]:
    """Return the monitors of a contrastive step.

    Args:
        positive: ``(N,)`` cosines of queries and their keys.
        negative: ``(N, D)`` cosines with the dictionary's rows.
        feature: ``(N, d)`` backbone features g.

    Returns:
        ``nce_accuracy`` (share of queries whose key beats the whole dictionary), the mean
        similarities, and ``feature_std``: the standard deviation of the L2-normalised feature over
        the batch, times √d; 0 means collapse, 1 an even spread (SimSiam, arXiv 2011.10566, 4.1).
    """
    spread = F.normalize(feature.float(), dim=1).std(dim=0).mean() * feature.shape[1] ** 0.5
    return {
        "nce_accuracy": (positive > negative.amax(dim=1)).float().mean(),
        "positive_similarity": positive.mean(),
        "negative_similarity": negative.mean(),
        "feature_std": spread,
    }
