"""From registered datasets, image folders or tar shards to batches of uint8 views."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mls_d2.core.errors import UserError, nearest
from mls_d2.data.dataset_files import explain_missing, missing_of
from mls_d2.data.datasets import image_files
from mls_d2.data.images import BrokenImageError, EncodedImage, list_images, open_image, printable
from pretrain.methods import method_class
from pretrain.sources import SHARDS_FILE, FileSource, ImageSource, ShardSource, one_thread
from pretrain.views import Crops, LoaderExtra

logger = logging.getLogger(__name__)

DECODING = ("full", "reduced")

# What a random stream is for: keeps the streams of one seed apart.
_ORDER_STREAM, _CROP_STREAM = 1, 2
# A run of broken images this long is no accident; looking on would take minutes.
_TRIES = 100


class NoReadableImageError(UserError):
    """Too many images in a row are broken."""

    # A loader's worker hands on the class and the message alone.
    code = "damaged-file"


@dataclass
class ViewBatch:
    """V views of each of N images, as the loader brings them."""

    groups: list[Tensor]  # views of equal size, ``(V_g, N, H, W, 3)`` uint8 RGB each
    geometry: Tensor  # ``(V, N, 5)`` float32: x, y, width, height in pixels of the image, flipped
    image_sizes: Tensor  # ``(N, 2)`` height and width of the images in pixels
    index: Tensor  # ``(N,)`` positions of the images in the dataset
    extras: dict[str, Tensor]  # what the method requested by name, ``(N, …)`` each
    # Name and fault of images that could not be read and were replaced by a neighbour.
    broken: list[tuple[str, str]]
    enlarged: list[str]  # paths of images smaller than the crop

    def pin_memory(self) -> ViewBatch:
        """Return the batch in page-locked memory (called by the loader)."""
        self.groups = [group.pin_memory() for group in self.groups]
        return self


class ViewDataset(Dataset):
    """Images as random crops; what is drawn depends on (seed, epoch, position) alone.

    So a batch is the same for every number of workers, and a resumed run sees what an uninterrupted
    one would have seen.
    """

    def __init__(
        self,
        source: ImageSource,
        crops: Crops,
        *,
        seed: int,
        extras: Mapping[str, LoaderExtra] | None = None,
    ) -> None:
        self.source = source
        self.crops = crops
        self.seed = seed
        self.extras = dict(extras or {})
        self._length = int(source.counts.sum())

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: tuple[int, int]) -> dict:
        """Return the views of ``(epoch, position)``; the next good image replaces a broken one.

        Raises:
            NoReadableImageError: none of the next hundred images, or of the dataset, can be read.
        """
        epoch, position = item
        broken: list[tuple[str, str]] = []
        for step in range(min(len(self), _TRIES)):
            place = (position + step) % len(self)
            name = self.source.name(place)
            rng = np.random.default_rng((self.seed, _CROP_STREAM, epoch, position))
            try:
                image = self._open(place)
                views, crops = self.crops(image, rng, place=place, images=self._open)
            except BrokenImageError as error:
                broken.append((name, str(error)))
                continue
            size = image.height, image.width
            return {
                "groups": views,
                "geometry": np.stack([crop.as_array() for crop in crops]),
                "image_size": size,
                "index": place,
                "extras": {key: make(place, size, crops, rng) for key, make in self.extras.items()},
                "broken": broken,
                "enlarged": [name] if min(size) < self.crops.groups[0].size else [],
            }
        raise NoReadableImageError(
            f"none of {len(broken)} images in a row can be read (the dataset has {len(self)}), "
            f"e.g. {broken[0][1]}"
        )

    def _open(self, place: int) -> EncodedImage:
        return open_image(self.source.read(place), name=self.source.name(place))


class EpochBatches(Sampler):
    """Batches of (epoch, position) for one process, without end, from any iteration on.

    (seed, epoch) fixes the order of each epoch: the shards at random, and the images of a window of
    them mixed, so that memory holds no more than a window. The last images, which do not fill a
    batch over all processes, are left out of that epoch, as in MoCo.

    Args:
        counts: ``(S,)`` images of each shard; a dataset of files is one shard.
        batch_size: images per step over all processes.
        seed: of the orders.
        window: shards whose images are mixed.
        start: iteration to begin with.
        rank: this process.
        world_size: processes, which divide the batch.
    """

    def __init__(
        self,
        counts: Sequence[int] | np.ndarray,
        batch_size: int,
        *,
        seed: int,
        window: int = 1,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.counts, self.batch_size, self.seed = np.asarray(counts), batch_size, seed
        self.window, self.start = window, start
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = int(self.counts.sum()) // self.batch_size
        share = self.batch_size // self.world_size
        epoch, step = divmod(self.start, per_epoch)
        while True:
            waiting = np.empty(0, dtype=np.int64)
            for positions in self._order(epoch, skip=step * self.batch_size):
                waiting = np.concatenate([waiting, positions])
                whole = len(waiting) - len(waiting) % self.batch_size
                for first in range(self.rank * share, whole, self.batch_size):
                    yield [(epoch, int(position)) for position in waiting[first : first + share]]
                waiting = waiting[whole:]
            epoch, step = epoch + 1, 0

    def _order(self, epoch: int, skip: int) -> Iterator[np.ndarray]:
        """Yield an epoch's positions window by window, without the first ``skip``."""
        first = np.cumsum(self.counts) - self.counts
        shards = self._generator(epoch).permutation(len(self.counts))
        for start in range(0, len(shards), self.window):
            chosen = shards[start : start + self.window]
            length = int(self.counts[chosen].sum())
            if skip < length:
                mixed = np.concatenate([first[s] + np.arange(self.counts[s]) for s in chosen])
                yield self._generator(epoch, start).permutation(mixed)[skip:]
            skip = max(0, skip - length)

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, _ORDER_STREAM, *purpose))


def collate(samples: list[dict]) -> ViewBatch:
    """Stack samples of :class:`ViewDataset` to a batch."""
    groups = zip(*(sample["groups"] for sample in samples), strict=True)
    names = samples[0]["extras"]
    return ViewBatch(
        groups=[torch.from_numpy(np.stack(views, axis=1)) for views in groups],
        geometry=torch.from_numpy(np.stack([s["geometry"] for s in samples], axis=1)),
        image_sizes=torch.tensor([sample["image_size"] for sample in samples]),
        index=torch.tensor([sample["index"] for sample in samples]),
        extras={
            name: torch.from_numpy(np.stack([s["extras"][name] for s in samples])) for name in names
        },
        broken=[error for sample in samples for error in sample["broken"]],
        enlarged=[path for sample in samples for path in sample["enlarged"]],
    )


def image_source(names: Sequence[str]) -> ImageSource:
    """Return the images of registered datasets or folders (labels are ignored), or tar shards.

    Args:
        names: ``DATASETS.TRAIN``: names from the catalog and paths of folders, or one folder of
            shards.

    Raises:
        UserError: an unknown name, a missing root, an empty folder, files that do not exist, or
            shards mixed with other data.
    """
    shards = [name for name in names if os.path.isfile(os.path.join(name, SHARDS_FILE))]
    if shards and len(names) > 1:
        raise UserError(
            f"shards cannot be mixed with other data: DATASETS.TRAIN is {tuple(names)} and "
            f"'{shards[0]}' holds shards. Pack all of it together with tools/pack_shards.py",
            code="mixed-data",
        )
    return ShardSource(shards[0]) if shards else FileSource(image_paths(names))


def image_paths(names: Sequence[str]) -> list[str]:
    """Return the image files of registered Detectron2 datasets or of folders (labels are ignored).

    Args:
        names: ``DATASETS.TRAIN``; a name from the catalog, or a path of a folder.

    Raises:
        UserError: an unknown name, a missing root, an empty folder, or files that do not exist.
    """
    if not names:
        raise UserError(
            "DATASETS.TRAIN is empty: give a registered dataset or an image folder",
            code="missing-data",
        )
    paths: list[str] = []
    for name in names:
        if name in DatasetCatalog.list():
            paths += _registered_paths(name)
        elif os.path.isdir(name):
            others: Counter[str] = Counter()
            paths += list_images(name, others)
            if others:
                kinds = ", ".join(f"{kind or 'none'} ({n})" for kind, n in others.most_common(5))
                text = "'%s': left out %d files that are no images, by suffix: %s"
                logger.warning(text, printable(name), others.total(), printable(kinds))
        else:
            raise UserError(
                f"'{name}' is neither a registered dataset nor a folder; "
                f"{nearest(name, DatasetCatalog.list())}",
                code="unknown-name",
            )
    twice = len(paths) - len({os.path.realpath(path) for path in paths})
    if twice:
        logger.warning(
            "DATASETS.TRAIN %s overlap: %d of %d images are listed more than once, and are seen as "
            "often in each epoch",
            tuple(names),
            twice,
            len(paths),
        )
    return paths


def build_loader(
    cfg: CfgNode, source: ImageSource, *, start: int, rank: int, world_size: int
) -> DataLoader:
    """Build the loader of one process, beginning with iteration ``start``."""
    method = method_class(cfg)
    workers = cfg.DATALOADER.NUM_WORKERS
    return DataLoader(
        ViewDataset(source, method.crops(cfg), seed=cfg.SEED, extras=method.loader_extras(cfg)),
        batch_sampler=EpochBatches(
            source.counts,
            cfg.SOLVER.IMS_PER_BATCH,
            seed=cfg.SEED,
            window=cfg.PRETRAIN.SHARD_WINDOW,
            start=start,
            rank=rank,
            world_size=world_size,
        ),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=one_thread,
    )


class DevicePrefetcher:
    """Copies each batch to a GPU during the computation on the batch before.

    Args:
        batches: in page-locked memory, as the loader brings them.
        device: a CUDA device.
    """

    def __init__(self, batches: Iterable[ViewBatch], device: torch.device) -> None:
        self._batches, self._device = batches, device

    def __iter__(self) -> Iterator[ViewBatch]:
        side = torch.cuda.Stream(self._device)
        waiting: ViewBatch | None = None
        for batch in self._batches:
            with torch.cuda.stream(side):
                batch.groups = [g.to(self._device, non_blocking=True) for g in batch.groups]
            if waiting is not None:
                yield waiting
            # From here on the batch is used, and its memory released, on the stream of the step.
            now = torch.cuda.current_stream(self._device)
            now.wait_stream(side)
            for group in batch.groups:
                group.record_stream(now)
            waiting = batch
        if waiting is not None:
            yield waiting


class ImageReport:
    """Logs images that cannot be read or are too small, and stops if too many are broken.

    Args:
        total: images in the dataset.
        max_share: largest share of broken images tolerated, in [0, 1].
    """

    def __init__(self, total: int, max_share: float) -> None:
        self.total, self.max_share = total, max_share
        self.broken: set[str] = set()
        self.enlarged: set[str] = set()

    def update(self, broken: Sequence[tuple[str, str]], enlarged: Sequence[str] = ()) -> None:
        """Log new broken images, and the first that is smaller than the crop.

        Args:
            broken: name and fault of each; an image counts once.
            enlarged: paths of images smaller than the crop.

        Raises:
            UserError: more than the tolerated share of the dataset is broken.
        """
        if enlarged and not self.enlarged:
            logger.warning(
                "'%s' is smaller than PRETRAIN.AUGMENT.CROP_SIZE and was enlarged",
                printable(enlarged[0]),
            )
        self.enlarged.update(enlarged)
        for name, fault in broken:
            if name not in self.broken:
                self.broken.add(name)
                logger.warning("skipped broken image %d: %s", len(self.broken), fault)
        if len(self.broken) > self.max_share * self.total:
            raise UserError(
                f"{len(self.broken)} of {self.total} images are broken, more than "
                f"PRETRAIN.MAX_BROKEN_SHARE {self.max_share:g} allows; for example "
                f"{printable(max(self.broken))}. The log names all: get them again or remove them, "
                "or allow more",
                code="too-many-broken",
            )

    def summarise(self) -> None:
        """Log how many images were broken or too small, if any."""
        if self.broken or self.enlarged:
            logger.warning(
                "of %d images, %d were broken and skipped, %d smaller than the crop and enlarged",
                self.total,
                len(self.broken),
                len(self.enlarged),
            )


def _registered_paths(name: str) -> list[str]:
    try:
        paths = image_files(name)
    except FileNotFoundError as error:
        raise explain_missing(name, [str(error.filename)], 1, "files") from None
    except (OSError, AssertionError) as error:
        raise UserError(f"dataset '{name}' cannot be read: {error}", code="missing-data") from None
    missing = missing_of(paths)
    if missing:
        raise explain_missing(name, missing, len(paths), "images")
    return paths
