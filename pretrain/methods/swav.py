"""SwAV: predict the cluster of one view from another, clusters of equal size (arXiv 2006.09882).

Shape legend: N images of the batch, V views of each, K prototypes, d channels of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from mls_d2.config.options import Options as MethodOptions
from mls_d2.config.options import option
from mls_d2.config.rules import above, at_least
from mls_d2.core.errors import UserError
from pretrain.batch import Batch, StepOutput
from pretrain.dictionary import Dictionary
from pretrain.encoder import Encoder, pooled_views
from pretrain.gather import gather_with_gradient
from pretrain.heads import mlp
from pretrain.losses_clustering import sinkhorn, swapped_prediction_loss
from pretrain.methods.base import METHODS, Method, spread

# Views that get codes: the first two, which are the large ones.
CODED = ("view1", "view2")


@METHODS.register("swav")
class SwAV(Method):
    """All other views predict the codes of the first two: their soft assignment to prototypes.

    Codes are those of the batch of all processes, and of a queue of earlier embeddings if the batch
    is small. One encoder computes codes and predictions.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MethodOptions):
        """Prototypes, codes, queue and projector."""

        group = "SWAV"
        num_prototypes: int = option(3000, "prototypes", at_least(2), symbol="K")
        temperature: float = option(0.1, "temperature of the predictions", above(0), symbol="τ")
        epsilon: float = option(0.05, "smoothness of the codes", above(0), symbol="ε")
        sinkhorn_iterations: int = option(3, "rounds of Sinkhorn-Knopp", at_least(1))
        freeze_steps: int = option(313, "steps before the prototypes learn", at_least(0))
        queue_size: int = option(
            0, "embeddings in the queue of each coded view; 0: none", at_least(0)
        )
        queue_start: float = option(15.0, "epochs before the queue is filled", at_least(0))
        projector_hidden_dim: int = option(
            2048, "width of the projector's hidden layer", at_least(1)
        )
        projector_out_dim: int = option(128, "width of the embedding", at_least(1), symbol="d")

    takes_local_views = True

    options: SwAV.Options

    def __init__(self, backbone: nn.Module, feature_dim: int, options: SwAV.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        out = options.projector_out_dim
        self.encoder = Encoder(backbone, mlp(feature_dim, options.projector_hidden_dim, out))
        self.prototypes = nn.Linear(out, options.num_prototypes, bias=False)
        self.queue = None
        if options.queue_size:
            self.queue = Dictionary(options.queue_size, dict.fromkeys(CODED, out))
            for name in CODED:
                self.queue[name].zero_()  # Rows of zeros are those that are not filled yet.
        self._iteration = 0
        self._empty_rows: int | None = None  # of the queue; None: not read from the device yet

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the values that belong to the method.

        Raises:
            UserError: also if too few embeddings are there to share among the prototypes.
        """
        super().check_config(cfg)
        batch = cfg.SOLVER.IMS_PER_BATCH
        size, prototypes = cfg.SWAV.QUEUE_SIZE, cfg.SWAV.NUM_PROTOTYPES
        if 0 < size < batch:
            raise UserError(
                f"SWAV.QUEUE_SIZE must be 0, or at least SOLVER.IMS_PER_BATCH {batch}, got {size}",
                code="bad-value",
            )
        if prototypes > batch + size:
            raise UserError(
                f"SWAV.NUM_PROTOTYPES must be at most SOLVER.IMS_PER_BATCH {batch} + "
                f"SWAV.QUEUE_SIZE {size}, so that every prototype can get an image, got "
                f"{prototypes}; raise the queue or lower the prototypes",
                code="bad-value",
            )

    def before_step(self, iteration: int) -> None:
        """Give the prototypes, which the last step has moved, length 1."""
        self._iteration = iteration
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def forward(self, batch: Batch) -> StepOutput:
        """Compute Eq. 2 over all views (section 3.2)."""
        g = pooled_views(self.encoder.backbone, batch.views)
        z = self.encoder.projector(g.flatten(0, 1)).unflatten(0, g.shape[:2])
        z = F.normalize(z.float(), dim=2)
        scores = self._scores(gather_with_gradient(z))  # (N of all processes, V, K)
        codes = torch.stack([self._codes(scores, view) for view in range(len(CODED))], dim=1)
        fills = self.queue is not None and batch.epoch >= self.options.queue_start
        return StepOutput(
            losses={"loss_swav": swapped_prediction_loss(scores, codes, self.options.temperature)},
            metrics={
                "prototype_spread": prototype_spread(codes),
                "feature_std": spread(g[:, 0]),
                "embedding_std": spread(z[:, 0]),
            },
            keys={name: z[:, i].detach() for i, name in enumerate(CODED)} if fills else {},
        )

    def before_optimizer_step(self) -> None:
        """Leave the prototypes as they are at first: no gradient, no decay, no momentum."""
        if self._iteration < self.options.freeze_steps:
            self.prototypes.weight.grad = None

    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Replace the oldest embeddings of the queue."""
        if self.queue is not None and keys:
            empty = self._empty(self.queue)
            self.queue.enqueue(keys)
            self._empty_rows = max(0, empty - len(keys[CODED[0]]))

    def _scores(self, embeddings: Tensor) -> Tensor:
        """Return the cosines of unit embeddings ``(…, d)`` with the prototypes, ``(…, K)``."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return embeddings @ self.prototypes.weight.to(embeddings.dtype).T

    @torch.no_grad()
    def _codes(self, scores: Tensor, view: int) -> Tensor:
        """Return the codes ``(N, K)`` of a view; the queue's embeddings share the prototypes."""
        rows = [scores[:, view]]
        if self.queue is not None and not self._empty(self.queue):
            rows.append(self._scores(self.queue[CODED[view]]))
        options = self.options
        codes = sinkhorn(torch.cat(rows), options.epsilon, options.sinkhorn_iterations)
        return codes[: len(scores)]

    def _empty(self, queue: Dictionary) -> int:
        """Return how many rows are not filled yet: read once, then counted on the host."""
        if self._empty_rows is None:
            self._empty_rows = int((queue[CODED[-1]] == 0).all(dim=1).sum())
        return self._empty_rows


@torch.no_grad()
def prototype_spread(codes: Tensor) -> Tensor:
    """Return how many prototypes are the first choice of a view, of those that could be.

    Args:
        codes: ``(N, T, K)``.

    Returns:
        Scalar in (0, 1]: 1 if no two of the N·T codes share their prototype, or all are taken.
    """
    chosen = codes.flatten(0, 1).argmax(dim=1)
    taken = torch.zeros(codes.shape[2], device=codes.device).index_fill_(0, chosen, 1)
    return taken.sum() / min(len(chosen), codes.shape[2])
