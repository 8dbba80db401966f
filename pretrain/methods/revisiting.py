"""Revisiting Contrastive Methods: MoCo-v2 whose neighbours are positives too (arXiv 2106.05967).

Shape legend: Q queries (see ``moco.py``), D rows of the dictionaries, d_g and d_z channels of the
backbone feature g and of the embedding z.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mls_d2.config.options import option
from mls_d2.config.rules import at_least
from pretrain.batch import Batch, StepOutput
from pretrain.losses import multi_positive_softmax
from pretrain.methods.base import METHODS
from pretrain.methods.mls import pseudo_labels
from pretrain.methods.moco import MoCo


@METHODS.register("revisiting")
class Revisiting(MoCo):
    """InfoNCE, and a softmax over the dictionary with each query's k neighbours as its positives.

    The neighbours are found among backbone features, as MLS finds its labels; the softmax is over
    embeddings. Every local view is a query of its own, with neighbours of its own.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MoCo.Options):
        """Options of the neighbour term."""

        group = "REVISITING"
        k: int = option(20, "neighbours that are positives, below D", at_least(1), symbol="k")
        weight: float = option(0.4, "weight of the neighbour loss", at_least(0), symbol="λ")

        def joint_rules(self) -> Iterator[tuple[str, bool, str]]:
            """Yield that k is below D."""
            size = self.dictionary_size
            yield "REVISITING.K", self.k < size, f"in [1, D) with D = {size}"

    further_tables = ("g",)
    has_labels = True

    options: Revisiting.Options

    def forward(self, batch: Batch) -> StepOutput:
        """Compute Eq. 1 and the neighbour loss of section 4.3."""
        step = self.contrast(batch)
        neighbors = pseudo_labels(step.g1, self.dictionary["g"], self.options.k)  # (Q, D)
        temperature = self.options.temperature
        near = (step.negative.detach() * neighbors).sum(dim=1).mean()
        return StepOutput(
            losses={
                "loss_nce": self.info_nce(step),
                "loss_knn": multi_positive_softmax(step.negative, neighbors, temperature),
            },
            weights={"loss_knn": self.options.weight},
            metrics=step.metrics() | {"label_similarity": near / self.options.k},
            keys={"g": step.g2, "z": step.z2},
            labels=neighbors[: len(step.z2)],
        )
