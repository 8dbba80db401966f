"""Figures 3 and 4 of the MLS paper (arXiv 2308.03286) about a finished run of pretraining.

Training stores nothing for them. The weights before training follow from the seed, those after it
are in the newest checkpoint. The dictionary is computed again, with the geometry of its crops:
first views of some images are queries, second views of others, drawn at random, are its rows.
Queries go through the encoder and rows through the momentum encoder, in batches of the run's size
and normalised by the statistics of the batch, since the running ones mean nothing before training.

Shape legend: Q queries, D rows of the dictionary, d_g and d_z channels of g and z.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor
from torch.utils.data import DataLoader

from mls_d2.checkpoint.reading import read_object
from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import UserError
from mls_d2.core.files import check_writable, write_json
from mls_d2.data.images import open_image
from mls_d2.report.figures import (
    NEIGHBOURS_FILE,
    SCORES_FILE,
    Marked,
    plot_neighbours,
    plot_scores,
    shared_histograms,
)
from mls_d2.results.schema import files_below
from mls_d2.run.checkpointer import AtomicCheckpointer
from mls_d2.run.environment import CONFIG_FILE, resolve_device, seed_everything
from mls_d2.run.registration import register_all
from pretrain.data import ViewDataset, collate, image_source
from pretrain.encoder import Encoder
from pretrain.methods import build_method, method_class
from pretrain.methods.base import MomentumMethod
from pretrain.run import BACKBONE_FILE, run_length
from pretrain.sources import ImageSource
from pretrain.views import augment_from_config

logger = logging.getLogger(__name__)

# Of the paper's Figure 4: the sample, the queries drawn, and the neighbours of each.
SAMPLE, SHOWN, NEIGHBOURS = 60, 6, 4


@dataclass(frozen=True)
class CutViews:
    """M views and where they were cut."""

    # Of each network in turn, unit rows g ``(M, d_g)`` and z ``(M, d_z)``.
    embedded: list[tuple[Tensor, Tensor]]
    # ``(M, 4)`` x, y, width, height in pixels of the image, whether or not the view was mirrored.
    rectangles: Tensor
    index: Tensor  # ``(M,)`` positions of the images in the dataset


def finished_runs(folders: Sequence[Path], method: str) -> list[Path]:
    """Return the folders of finished pretraining runs of a method below ``folders``.

    Raises:
        UserError: one of ``folders`` does not exist, or a config cannot be read.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no such folder of runs: {folder}", code="missing-file")
        for file in files_below(folder, BACKBONE_FILE):
            config = file.with_name(CONFIG_FILE)
            if config.is_file() and method == load_cfg(str(config)).PRETRAIN.METHOD:
                found.setdefault(file.parent.resolve(), file.parent)
    return list(found.values())


def draw_figures(run: Path, out: Path, *, seed: int = 0) -> list[Path]:
    """Write Figures 3 and 4 about a run, each with its numbers as JSON, and return the pictures.

    Args:
        run: folder of a pretraining run with a checkpoint.
        out: folder to write to; created if it is missing.
        seed: of the choice of images and of their views.

    Raises:
        UserError: no such run, a method without g and z of a momentum encoder, or missing data.
    """
    register_all()
    cfg = load_cfg(str(run / CONFIG_FILE))
    resolve_device(cfg)
    before, after = initial_method(cfg), trained_method(cfg, run)
    source = image_source(cfg.DATASETS.TRAIN)
    check_writable(str(out))
    queries, rows = embed_crops(cfg, source, (before, after), seed=seed)
    names = (Path(name).name for name in cfg.DATASETS.TRAIN)  # of datasets or folders
    data = "synthetic scenes" if source.synthetic else ", ".join(names)
    about = f"{cfg.PRETRAIN.METHOD}, {cfg.PRETRAIN.EPOCHS:g} epochs, {data}"
    chosen = choose_queries(queries, rows, seed=seed)
    facts = {"run": about, "seed": seed}
    pictures = [out / SCORES_FILE, out / NEIGHBOURS_FILE]
    scores = scores_of(queries, rows, chosen[0])
    title = f"Scores of one query with {len(rows.index):,} rows: {about}"
    plot_scores(scores, title=title, path=pictures[0])
    write_json(str(out / "figure3.json"), facts | _score_facts(scores))
    shown = [_neighbours(source, queries, rows, one) for one in chosen]
    titles = ["query"] * (len(shown) - 1) + [f"least similar of {len(queries.index)}"]
    marked = [_marked(source, *item) for item in zip(shown, titles, strict=True)]
    title = f"Query crops (red) and their {NEIGHBOURS} nearest rows of Q_g (yellow): {about}"
    plot_neighbours(marked, title=title, path=pictures[1])
    write_json(str(out / "figure4.json"), facts | {"queries": shown})
    return pictures


def initial_method(cfg: CfgNode) -> MomentumMethod:
    """Return the method with the weights that a run of ``cfg`` starts from.

    Raises:
        UserError: it has no momentum encoder, or its encoder does not return g and z.
    """
    seed_everything(cfg)
    method = build_method(cfg)
    # Encoders of other kinds return maps, or more than g and z.
    if not method.has_keys or type(method.encoder) is not Encoder:
        raise UserError(
            f"Figures 3 and 4 compare g and z with those of a momentum encoder, which "
            f"'{cfg.PRETRAIN.METHOD}' does not have; they are made of mls and mocov2, for example",
            code="bad-value",
        )
    return cast(MomentumMethod, method.to(cfg.MODEL.DEVICE))


def trained_method(cfg: CfgNode, run: Path) -> MomentumMethod:
    """Return the method with the weights of the newest checkpoint of ``run``.

    Raises:
        UserError: there is none, or it does not fit the config.
    """
    method = initial_method(cfg)
    paths = AtomicCheckpointer(method, str(run)).checkpoints()
    if not paths:
        raise UserError(
            f"'{run}' has no checkpoint: Figures 3 and 4 need the momentum encoder, which "
            "backbone.pth leaves out",
            code="missing-file",
        )
    try:
        method.load_state_dict(read_object(paths[0])["model"])
    except (KeyError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"'{paths[0]}' does not fit the config beside it: {reason}", code="damaged-file"
        ) from None
    return method


def embed_crops(
    cfg: CfgNode, source: ImageSource, methods: Sequence[MomentumMethod], *, seed: int
) -> tuple[CutViews, CutViews]:
    """Return queries and the rows of a dictionary, the same crops for every method.

    D is that of the run, or as many whole batches as the dataset fills.

    Args:
        cfg: of the run.
        source: the images.
        methods: networks to embed with, in turn.
        seed: of the choice of images and of their views.

    Raises:
        UserError: the images do not fill a batch.
    """
    cfg = cfg.clone()
    cfg.SEED = seed
    count, batch = int(source.counts.sum()), cfg.SOLVER.IMS_PER_BATCH
    run_length(cfg, count)
    order = np.random.default_rng(seed).permutation(count)
    rows = max(1, min(cfg.MOCO.DICTIONARY_SIZE, count) // batch) * batch
    asked = min(math.ceil(SAMPLE / batch), count // batch) * batch
    # From the other end: other images than those of the rows, if there are enough.
    queries = _embed(cfg, source, order[::-1][:asked], 0, [m.encoder for m in methods])
    keys = _embed(cfg, source, order[:rows], 1, [m.momentum_encoder for m in methods])
    sample = slice(SAMPLE)
    few = [(g[sample], z[sample]) for g, z in queries.embedded]
    return CutViews(few, queries.rectangles[sample], queries.index[sample]), keys


@torch.no_grad()
def _embed(
    cfg: CfgNode,
    source: ImageSource,
    positions: np.ndarray,
    view: int,
    encoders: Sequence[Encoder],
) -> CutViews:
    """Embed view ``view`` of the images at ``positions``, whole batches of them."""
    dataset = ViewDataset(source, method_class(cfg).crops(cfg), seed=cfg.SEED)
    batches = [
        [(0, int(place)) for place in part]
        for part in np.split(positions, len(positions) // cfg.SOLVER.IMS_PER_BATCH)
    ]
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=collate,
    )
    augment = augment_from_config(cfg, torch.device(cfg.MODEL.DEVICE))
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in encoders]
    rectangles, index = [], []
    for number, loaded in enumerate(loader):
        logger.info("view %d: batch %d of %d", view + 1, number + 1, len(batches))
        pixels = augment(loaded.groups, number)[view]
        for rows, encoder in zip(found, encoders, strict=True):
            g, z = encoder(pixels)
            rows.append((F.normalize(g.float(), dim=1).cpu(), F.normalize(z.float(), dim=1).cpu()))
        rectangles.append(loaded.geometry[view, :, :4])
        index.append(loaded.index)
    embedded = [(torch.cat(g), torch.cat(z)) for g, z in (zip(*r, strict=True) for r in found)]
    return CutViews(embedded, torch.cat(rectangles), torch.cat(index))


def nearest_of_others(query: Tensor, rows: Tensor, own: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k rows nearest to each query, except those of its own image.

    Args:
        query: ``(Q, d)`` unit vectors.
        rows: ``(D, d)`` unit vectors.
        own: ``(Q, D)`` bool, whether a row is of the image of a query.
        k: at most the rows of other images that every query has.

    Returns:
        Cosines, falling, and indices of rows, ``(Q, k)`` each.
    """
    found = (query @ rows.T).masked_fill(own, -math.inf).topk(k, dim=1)
    return found.values, found.indices


def choose_queries(queries: CutViews, rows: CutViews, *, seed: int) -> list[int]:
    """Return five queries at random and, last, the one whose neighbours are the least similar."""
    cosines, _ = _nearest(queries, rows)
    worst = int(cosines.mean(dim=1).argmin())
    others = np.random.default_rng(seed).permutation(len(cosines))
    return [*[int(one) for one in others if one != worst][: SHOWN - 1], worst]


def _own(queries: CutViews, rows: CutViews) -> Tensor:
    return queries.index[:, None] == rows.index


def _nearest(queries: CutViews, rows: CutViews) -> tuple[Tensor, Tensor]:
    """Return the nearest rows of Q_g after training."""
    own = _own(queries, rows)
    k = min(NEIGHBOURS, int((~own).sum(dim=1).min()))
    return nearest_of_others(queries.embedded[-1][0], rows.embedded[-1][0], own, k)


def scores_of(queries: CutViews, rows: CutViews, number: int) -> dict[str, dict[str, np.ndarray]]:
    """Return the cosines of one query with all rows of other images, of g and of z."""
    others = ~_own(queries, rows)[number]
    return {
        name: {
            time: (theirs[place][others] @ ours[place][number]).numpy()
            for time, ours, theirs in zip(
                ("before", "after"), queries.embedded, rows.embedded, strict=True
            )
        }
        for place, name in enumerate(("backbone g·Q_g", "projector z·Q_z"))
    }


def _score_facts(scores: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return what the panels of Figure 3 show."""
    panels = {}
    for name, by_time in scores.items():
        edges, counts = shared_histograms(by_time)
        panels[name] = {"edges": edges.tolist()} | {
            time: {
                "mean": float(values.mean()),
                "std": float(values.std()),
                "counts": counts[time].tolist(),
            }
            for time, values in by_time.items()
        }
    return {"panels": panels}


def _neighbours(
    source: ImageSource, queries: CutViews, rows: CutViews, number: int
) -> dict[str, Any]:
    """Return image, crop and neighbours of one query as plain values."""
    cosines, places = (found[number].tolist() for found in _nearest(queries, rows))
    return _crop(source, queries, number) | {
        "neighbours": [
            _crop(source, rows, place) | {"cosine": cosine}
            for cosine, place in zip(cosines, places, strict=True)
        ]
    }


def _crop(source: ImageSource, crops: CutViews, number: int) -> dict[str, Any]:
    index = int(crops.index[number])
    rectangle = crops.rectangles[number].tolist()
    return {"index": index, "image": source.name(index), "rectangle": rectangle}


def _marked(source: ImageSource, shown: dict[str, Any], name: str) -> tuple[Marked, list[Marked]]:
    """Return a query and its neighbours with their images."""

    def mark(crop: dict[str, Any], title: str) -> Marked:
        image = open_image(source.read(crop["index"]), name=crop["image"]).decode()
        return Marked(image, crop["rectangle"], title)

    found = [mark(crop, f"cosine {crop['cosine']:.2f}") for crop in shown["neighbours"]]
    return mark(shown, name), found
