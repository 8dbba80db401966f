"""ORL: BYOL of images, of their objects, and of similar objects of other images (2106.11952).

Xie et al., NeurIPS 2021, arXiv 2106.11952. Shape legend: N images, V = 6 views, see
:class:`ObjectPairs`; d channels of a projection.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from detectron2.config import CfgNode
from torch import nn

from mls_d2.config.options import option
from mls_d2.config.rules import Rule, above, at_least, within
from mls_d2.core.errors import UserError
from pretrain.batch import Batch, StepOutput
from pretrain.correspondences import MOST_BOXES, Correspondences
from pretrain.discovery import Discovery, provide_correspondences, trained_encoder
from pretrain.encoder import Encoder
from pretrain.heads import mlp
from pretrain.losses import negative_cosine
from pretrain.methods.base import METHODS, spread
from pretrain.methods.byol import BYOL
from pretrain.proposing import proposals_from_config
from pretrain.sources import ImageSource
from pretrain.views import Crops, ViewGroup
from pretrain.views.pairs import ObjectPairs

FIRST_STAGE = "first_stage"
_FILE = "correspondences"
_OBJECTS = 4
# The two views that predict each other in each loss.
_PAIRS = {"image": (0, 1), "intra": (2, 4), "inter": (3, 5)}


@METHODS.register("orl")
class ORL(BYOL):
    """BYOL with three pairs of views, each with its predictor; the encoders are shared.

    A first stage is BYOL, whose encoder then finds which objects correspond; the second training
    starts again at random. Heads have the widths of ``BYOL``.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(BYOL.Options):
        """The first stage, and how correspondences are found."""

        group = "ORL"
        first_epochs: float = option(800.0, "length of the first stage, in epochs", above(0))
        neighbours: int = option(10, "similar images of an image", at_least(1), symbol="K")
        min_side: int = option(96, "shortest side of an object, in pixels", at_least(1))
        max_boxes: int = option(
            100,
            "objects of an image",
            Rule(lambda value: 1 <= value <= MOST_BOXES, f"in [1, {MOST_BOXES}]"),
        )
        pair_share: float = option(
            0.1, "pairs with a neighbour, as a share of the image's objects; 1 at least", within(1)
        )

    takes_local_views = True

    options: ORL.Options

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the values that belong to the method."""
        super().check_config(cfg)
        given = cfg.PRETRAIN.AUGMENT.LOCAL_CROPS
        if given != _OBJECTS:
            raise UserError(
                f"PRETRAIN.METHOD 'orl' has four views of objects: set "
                f"PRETRAIN.AUGMENT.LOCAL_CROPS to {_OBJECTS}, got {given}",
                code="bad-value",
            )

    @classmethod
    def first_stage(cls, cfg: CfgNode) -> CfgNode:
        """Return the config of BYOL with the same encoder, in a folder of its own."""
        first = cfg.clone()
        first.PRETRAIN.METHOD = "byol"
        first.PRETRAIN.EPOCHS = cfg.ORL.FIRST_EPOCHS
        first.PRETRAIN.AUGMENT.LOCAL_CROPS = 0
        first.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, FIRST_STAGE)
        return first

    @classmethod
    def inputs(cls, cfg: CfgNode, source: ImageSource) -> dict[str, tuple[str, str]]:
        """Return the proposals, and the correspondences that the first stage finds among them."""
        options, proposals = cls.Options.from_config(cfg), proposals_from_config(cfg, source)
        discovery = Discovery(
            source=source,
            proposals=proposals,
            size=cfg.PRETRAIN.AUGMENT.CROP_SIZE,
            mean=tuple(cfg.MODEL.PIXEL_MEAN),
            std=tuple(cfg.MODEL.PIXEL_STD),
            neighbours=options.neighbours,
            min_side=options.min_side,
            max_boxes=options.max_boxes,
            pair_share=options.pair_share,
        )
        path = cfg.PRETRAIN.CORRESPONDENCES or os.path.join(cfg.OUTPUT_DIR, _FILE)
        found = provide_correspondences(
            path,
            discovery,
            trained_encoder(cls.first_stage(cfg)),
            workers=cfg.DATALOADER.NUM_WORKERS,
        )
        return {
            "PRETRAIN.PROPOSALS": (proposals.path, proposals.digest),
            "PRETRAIN.CORRESPONDENCES": (path, found.digest),
        }

    @classmethod
    def crops(cls, cfg: CfgNode) -> Crops:
        """Return two crops and four objects."""
        node, path = cfg.PRETRAIN.AUGMENT, cfg.PRETRAIN.CORRESPONDENCES
        groups = [
            ViewGroup(2, node.CROP_SIZE, tuple(node.CROP_SCALE)),
            ViewGroup(_OBJECTS, node.LOCAL_SIZE, (1.0, 1.0)),
        ]
        # A run has a file by now; a plan or a check of a machine has no images.
        source = Correspondences(path) if path else None
        reduced = cfg.PRETRAIN.DECODE == "reduced"
        return ObjectPairs(groups, node.FLIP_PROB, source=source, reduced=reduced)

    def build(self, backbone: nn.Module, feature_dim: int) -> None:
        """Make encoder, momentum encoder and the predictors."""
        hidden, out = self.options.hidden_dim, self.options.out_dim
        self.set_encoder(Encoder(backbone, mlp(feature_dim, hidden, out)))
        self.predictors = nn.ModuleDict({name: mlp(out, hidden, out) for name in _PAIRS})

    def forward(self, batch: Batch) -> StepOutput:
        """Compute BYOL's loss of each pair of views, in both orders."""
        self._progress = batch.progress
        online = [self.encoder(view) for view in batch.views]
        target = [self.keys(view)[1] for view in batch.views]
        cosines = {}
        for name, (one, other) in _PAIRS.items():
            predictor = self.predictors[name]
            cosines[name] = -negative_cosine(predictor(online[one][1]), target[other])
            cosines[name] -= negative_cosine(predictor(online[other][1]), target[one])
        return StepOutput(
            losses={f"loss_{name}": 4 - 2 * cosine for name, cosine in cosines.items()},
            metrics={
                "positive_similarity": cosines["image"].detach() / 2,
                "object_similarity": cosines["inter"].detach() / 2,
                "feature_std": spread(online[0][0]),
                "embedding_std": spread(online[0][1]),
            },
        )
