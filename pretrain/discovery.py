"""Finding which objects of which images correspond, with a trained encoder.

Shape legend: N images, image i with B_i boxes and K neighbours; d channels of a projection, d_g of
a backbone feature. What is finished is kept in files of 64 images each, in ``path`` + ``.partial``,
so that an interrupted call resumes and writes the same file.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mls_d2.checkpoint.reading import read_object
from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write, check_writable, write_bytes
from mls_d2.data.images import BrokenImageError, open_image
from mls_d2.data.proposals import LARGEST_SIDE, Proposals
from mls_d2.data.recipe_file import check_begun
from pretrain.correspondences import (
    CorrespondenceRecipe,
    Correspondences,
    pair_counts,
    write_correspondences,
)
from pretrain.encoder import Encoder
from pretrain.methods.base import METHODS
from pretrain.proposing import make_once
from pretrain.sources import ImageSource, one_thread
from pretrain.views.boxes import separate_boxes
from pretrain.views.crops import Crop, cut
from pretrain.views.pairs import box_crop
from pretrain.views.photometric import normalize

logger = logging.getLogger(__name__)

_IMAGES = 64  # of a file of the partial folder
_QUERIES, _ROWS = 1024, 65536  # images that are compared at once: 256 MB
# Of the short side: 224 of 256 pixels.
_CENTRE = 7 / 8


@dataclass(frozen=True)
class Discovery:
    """What is compared, and how.

    Attributes:
        source: the images.
        proposals: of them.
        size: pixels along the sides of what the encoder sees.
        mean: ``MODEL.PIXEL_MEAN``, RGB.
        std: ``MODEL.PIXEL_STD``.
        neighbours: K.
        min_side: see :func:`separate_boxes`.
        max_boxes: likewise.
        pair_share: pairs with a neighbour, as a share of the boxes.
    """

    source: ImageSource
    proposals: Proposals
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    neighbours: int
    min_side: int
    max_boxes: int
    pair_share: float

    def recipe(self, encoder: nn.Module) -> CorrespondenceRecipe:
        """Return what decides the correspondences that an encoder finds."""
        return CorrespondenceRecipe(
            source=self.source.digest(),
            proposals=self.proposals.digest,
            encoder=digest_of(encoder),
            size=self.size,
            neighbours=self.neighbours,
            min_side=self.min_side,
            max_boxes=self.max_boxes,
            pair_share=self.pair_share,
        )


def trained_encoder(first: CfgNode) -> Encoder:
    """Return the online encoder of a finished run, in evaluation mode on its device.

    Raises:
        UserError: its final checkpoint is missing or damaged.
    """
    path = os.path.join(first.OUTPUT_DIR, "model_final.pth")
    method = METHODS.get(first.PRETRAIN.METHOD).from_config(first)
    method.load_state_dict(read_object(path)["model"])
    return method.encoder.eval().to(first.MODEL.DEVICE)


def provide_correspondences(
    path: str, discovery: Discovery, encoder: Encoder, *, workers: int = 0
) -> Correspondences:
    """Open the correspondences of a dataset, after making them if there are none.

    Args:
        path: of the file; its folder is made.
        discovery: of what.
        encoder: in evaluation mode.
        workers: processes that read images; 0 is this one.

    Raises:
        UserError: the file is damaged, of another kind, or made otherwise; it cannot be made.
    """
    recipe = discovery.recipe(encoder)
    make_once(path, lambda: make_correspondences(path, discovery, encoder, workers=workers))
    found = Correspondences(path)
    found.check_recipe(recipe)
    return found


def make_correspondences(
    path: str, discovery: Discovery, encoder: Encoder, *, workers: int = 0
) -> None:
    """Write the correspondences of all images to ``path``, resuming an interrupted earlier call.

    The projections of whole images decide which are neighbours, the backbone's features of boxes
    which boxes are pairs. Images that cannot be read are nobody's neighbours and have no boxes.

    Raises:
        UserError: no more images than neighbours, another call has begun with other images, weights
            or options, or the disk is full.

    Source: ORL (arXiv 2106.11952), section 3.2.
    """
    recipe, partial = discovery.recipe(encoder), Path(f"{path}.partial")
    _begin(partial, recipe)
    logger.info("finding corresponding objects of %d images: %s", len(discovery.proposals), path)
    firsts = range(0, len(discovery.proposals), _IMAGES)
    for first, rows in _features(discovery, encoder, _missing(partial, "boxes", firsts), workers):
        # The file that is looked for is the last one.
        for name, array in rows.items():
            _save(partial, name, first, array)
    counts = _all(partial, "counts", firsts)
    _check_enough(int((counts > 0).sum()), discovery.neighbours)
    device = next(encoder.parameters()).device
    for first in _missing(partial, "neighbours", [0]):
        bank = torch.from_numpy(_all(partial, "images", firsts)).to(device)
        near = nearest_rows(bank, torch.from_numpy(counts > 0).to(device), discovery.neighbours)
        _save(partial, "neighbours", first, near.cpu().numpy().astype(np.uint32))
    neighbours = _load(partial, "neighbours", 0)
    stored = _StoredFeatures(partial, counts)
    for first in tqdm(_missing(partial, "pairs", firsts), desc="pairs of objects", unit="file"):
        places = range(first, min(first + _IMAGES, len(counts)))
        pairs = [_pairs(stored, i, neighbours[i], recipe.pair_share, device) for i in places]
        _save(partial, "pairs", first, np.concatenate(pairs).astype(np.uint8))
    write_correspondences(
        path,
        recipe,
        counts=counts,
        boxes=(_load(partial, "boxes", first) for first in firsts),
        neighbours=neighbours,
        pairs=(_load(partial, "pairs", first) for first in firsts),
    )
    shutil.rmtree(partial)


@torch.no_grad()
def nearest_rows(bank: Tensor, eligible: Tensor, count: int) -> Tensor:
    """Return for each row the other rows that have the largest inner product with it.

    Memory is bounded: a thousand rows at a time are compared with a block of the others.

    Args:
        bank: ``(N, d)``, normalised by the caller.
        eligible: ``(N,)`` bool, which rows can be nearest; more than ``count``.
        count: K.

    Returns:
        ``(N, K)`` int64, the nearest first; a row is not among its own.
    """
    found = []
    for rows in torch.arange(len(bank), device=bank.device).split(_QUERIES):
        best = torch.full((len(rows), count), -torch.inf, device=bank.device)
        where = torch.zeros_like(best, dtype=torch.long)
        for others in torch.arange(len(bank), device=bank.device).split(_ROWS):
            cosines = bank[rows] @ bank[others].T
            barred = ~eligible[others] | (rows.unsqueeze(1) == others)
            values = torch.cat([best, cosines.masked_fill(barred, -torch.inf)], dim=1)
            places = torch.cat([where, others.expand(len(rows), -1)], dim=1)
            best, chosen = values.topk(count, dim=1)
            where = places.gather(1, chosen)
        found.append(where)
    return torch.cat(found)


def best_pairs(queries: Tensor, keys: Tensor, count: int) -> Tensor:
    """Return the pairs of rows with the largest inner products: ``(count, 2)`` int64, best first.

    A row may be in several pairs. If there are fewer pairs than ``count``, the best one fills up.

    Args:
        queries: ``(B, d_g)``, normalised by the caller.
        keys: ``(B', d_g)``.
        count: P.

    Source: ORL (arXiv 2106.11952), section 3.2: "top-ranked RoI pairs", not mutual ones.
    """
    similar = (queries @ keys.T).flatten()
    chosen = similar.topk(min(count, len(similar))).indices
    chosen = torch.cat([chosen, chosen[:1].expand(count - len(chosen))])
    return torch.stack([chosen // len(keys), chosen % len(keys)], dim=1)


def digest_of(module: nn.Module) -> str:
    """Return a hex digest of a module's weights and statistics."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


class _Patches(Dataset):
    """Each image as its centre and its boxes, squashed: ``(1 + B, S, S, 3)`` uint8, and boxes."""

    def __init__(self, discovery: Discovery) -> None:
        self._found = discovery

    def __getitem__(self, place: int) -> tuple[Tensor, np.ndarray]:
        found, source = self._found, self._found.source
        try:
            pixels = open_image(source.read(place), name=source.name(place)).decode()
        except BrokenImageError as error:
            logger.warning("no correspondences for image %d: %s", place, error)
            # Without a box it is nobody's neighbour.
            return torch.zeros(1, found.size, found.size, 3, dtype=torch.uint8), np.zeros((0, 4))
        height, width = pixels.shape[:2]
        proposals = found.proposals.boxes(place)
        boxes = separate_boxes(
            proposals, height, width, min_side=found.min_side, most=found.max_boxes
        )
        crops = [_centre(height, width), *map(box_crop, boxes)]
        patches = np.stack([cut(pixels, crop, found.size) for crop in crops])
        return torch.from_numpy(patches), boxes


def _centre(height: int, width: int) -> Crop:
    side = max(1, round(_CENTRE * min(height, width)))
    return Crop((width - side) // 2, (height - side) // 2, side, side, False)


@torch.no_grad()
def _features(
    discovery: Discovery, encoder: Encoder, firsts: Sequence[int], workers: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the rows of 64 images at a time, by the names of their files, with the first image.

    An image is encoded with its own boxes alone, so that its rows do not depend on others.
    """
    length, device = len(discovery.proposals), next(encoder.parameters()).device
    parts = [range(first, min(first + _IMAGES, length)) for first in firsts]
    loader = iter(
        DataLoader(
            _Patches(discovery),
            batch_size=None,
            sampler=[place for part in parts for place in part],
            num_workers=workers,
            worker_init_fn=one_thread,
        )
    )
    for part in tqdm(parts, desc="features of objects", unit="file"):
        images, features, boxes = [], [], []
        for patches, own in (next(loader) for _ in part):
            views = patches.to(device).permute(0, 3, 1, 2).float() / 255
            g, z = encoder(normalize(views, discovery.mean, discovery.std))
            images.append(F.normalize(z[:1].float(), dim=1))
            features.append(F.normalize(g[1:].float(), dim=1).half())
            boxes.append(np.asarray(own))
        yield (
            part[0],
            {
                "images": torch.cat(images).cpu().numpy(),
                "features": torch.cat(features).cpu().numpy(),
                "counts": np.array([len(own) for own in boxes]),
                "boxes": np.concatenate(boxes).round().clip(0, LARGEST_SIDE).astype("<u2"),
            },
        )


class _StoredFeatures:
    """The features of every image's boxes, from the files of the partial folder."""

    def __init__(self, partial: Path, counts: np.ndarray) -> None:
        self._counts = counts
        # A mapped file takes no memory, but one of the files that a process may open.
        self._file = lru_cache(maxsize=256)(lambda first: _load(partial, "features", first))

    def __call__(self, place: int, device: torch.device) -> Tensor:
        """Return ``(B, d_g)`` float32 of an image."""
        first = place - place % _IMAGES
        start = int(self._counts[first:place].sum())
        rows = self._file(first)[start : start + self._counts[place]]
        return torch.from_numpy(np.array(rows)).to(device).float()


def _pairs(
    stored: _StoredFeatures,
    place: int,
    neighbours: np.ndarray,
    share: float,
    device: torch.device,
) -> np.ndarray:
    """Return the pairs ``(K P, 2)`` of an image."""
    queries = stored(place, device)
    count = int(pair_counts(np.array(len(queries)), share))
    if not count:
        return np.zeros((0, 2), np.int64)
    found = [best_pairs(queries, stored(int(other), device), count) for other in neighbours]
    return torch.cat(found).cpu().numpy()


def _begin(partial: Path, recipe: CorrespondenceRecipe) -> None:
    """Make the partial folder, or make sure that it was begun with the same recipe."""
    check_writable(str(partial))
    path = partial / "recipe.json"
    if path.exists():
        check_begun(str(partial), path.read_bytes(), recipe)
    else:
        write_bytes(path, msgspec.json.encode(recipe))


def _check_enough(readable: int, neighbours: int) -> None:
    if readable <= neighbours:
        raise UserError(
            f"{readable} readable images cannot have ORL.NEIGHBOURS {neighbours} each: give more "
            "images than neighbours",
            code="bad-value",
        )


def _place(partial: Path, name: str, first: int) -> Path:
    return partial / f"{name}-{first:09d}.npy"


def _missing(partial: Path, name: str, firsts: Sequence[int]) -> list[int]:
    return [first for first in firsts if not _place(partial, name, first).exists()]


def _save(partial: Path, name: str, first: int, array: np.ndarray) -> None:
    with atomic_write(str(_place(partial, name, first))) as file:
        np.save(file, array)


def _load(partial: Path, name: str, first: int) -> np.ndarray:
    path = _place(partial, name, first)
    try:
        return np.load(path, mmap_mode="r")
    except Exception as error:  # NumPy parses the header as Python.
        raise _damaged(path, error) from None


def _all(partial: Path, name: str, firsts: Sequence[int]) -> np.ndarray:
    return np.concatenate([_load(partial, name, first) for first in firsts])


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"'{path}' is damaged: {error}. Remove the folder '{path.parent}', which is made again",
        code="damaged-file",
    )
