"""Object proposals of the images that are pretrained on: made once per dataset, by all cores."""

import contextlib
import fcntl
import functools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm

from mls_d2.core.errors import UserError
from mls_d2.core.files import unwritable
from mls_d2.core.workers import worker_map
from mls_d2.data.dataset_files import datasets_root
from mls_d2.data.images import BrokenImageError, open_image
from mls_d2.data.proposals import (
    LARGEST_SIDE,
    NO_KEY,
    Proposals,
    ProposalsWriter,
    Recipe,
    image_key,
)
from mls_d2.data.selective_search import NAME, opencv_search, selective_search
from pretrain.sources import ImageSource

logger = logging.getLogger(__name__)

_ADVICE = (
    "if nobody killed it, memory ran out: repeat the command, which keeps what is finished, with "
    "fewer --workers"
)
# A search reads nothing, and takes minutes for an image of several megapixels.
_SEARCH_S = 3600.0


@dataclass(frozen=True)
class Search:
    """How proposals are made.

    Attributes:
        short_side: pixels to which the shorter side is reduced before; 0 searches at full size.
        min_side: boxes with a shorter side are left out, in pixels of the image.
        seed: of the order of an image's boxes.
    """

    short_side: int = 0
    min_side: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("short_side", "min_side", "seed"):
            if getattr(self, name) < 0:
                message = f"{name} must be >= 0, got {getattr(self, name)}"
                raise UserError(message, code="bad-value")

    def recipe(self, source: ImageSource) -> Recipe:
        """Return what decides the proposals of the images of ``source``."""
        return Recipe(source=source.digest(), search=NAME, **asdict(self))


class Proposed(NamedTuple):
    """The proposals of one image: key, height and width, boxes, and what was wrong with it."""

    key: bytes
    size: tuple[int, int]
    boxes: np.ndarray
    fault: str


def proposals_from_config(cfg: CfgNode, source: ImageSource) -> Proposals:
    """Return the proposals that ``PRETRAIN.PROPOSALS`` and ``PROPOSALS_SIDE`` describe."""
    search = Search(short_side=cfg.PRETRAIN.PROPOSALS_SIDE)
    path = cfg.PRETRAIN.PROPOSALS or default_path(source, search)
    return provide_proposals(source, path, search, workers=os.cpu_count() or 1)


def default_path(source: ImageSource, search: Search) -> str:
    """Return where the proposals of a dataset lie: below the datasets' folder."""
    name = f"{source.digest()[:16]}-{search.short_side}.boxes"
    return os.path.join(datasets_root(), "proposals", name)


def provide_proposals(
    source: ImageSource, path: str, search: Search, *, workers: int = 0
) -> Proposals:
    """Open the proposals of a dataset, after making them if there are none.

    Args:
        source: the images.
        path: of the file; its folder is made.
        search: how proposals are made.
        workers: processes that make them; 0 is this one.

    Raises:
        UserError: the file is damaged, of another kind, of other images or made otherwise; it
            cannot be made.
    """
    recipe = search.recipe(source)
    make_once(path, lambda: make_proposals(source, path, search, workers=workers))
    proposals = Proposals(path)
    proposals.check(source, recipe)
    return proposals


def make_proposals(source: ImageSource, path: str, search: Search, *, workers: int = 0) -> None:
    """Write the proposals of all images to ``path``, resuming an interrupted earlier call.

    The file does not depend on ``workers`` or on interruptions. Images that cannot be read have no
    proposals, and are named in the log.

    Raises:
        UserError: another call has begun with other images or options, the disk is full, OpenCV
            lacks the search, or a worker was killed.
    """
    opencv_search()
    writer = ProposalsWriter(path, search.recipe(source))
    length = int(source.counts.sum())
    propose = functools.partial(_propose, source, search)
    logger.info("making the proposals of %d images: %s", length, path)
    bar = tqdm(total=length, initial=writer.done, desc="proposals", unit="img", smoothing=0.05)
    searching = worker_map(propose, workers, advice=_ADVICE, busy_s=_SEARCH_S)
    with contextlib.closing(writer), bar, searching as run:
        for place, found in enumerate(run(range(writer.done, length)), start=writer.done):
            if found.fault:
                logger.warning("no proposals for image %d: %s", place, found.fault)
            writer.append(found.key, found.size, found.boxes)
            bar.update()
        writer.finish()


def _propose(source: ImageSource, search: Search, place: int) -> Proposed:
    """Return the proposals of one image."""
    none = np.zeros((0, 4), np.int64)
    try:
        data = source.read(place)
    except BrokenImageError as error:
        return Proposed(NO_KEY, (0, 0), none, str(error))
    key = image_key(data)
    try:
        pixels = open_image(data, name=source.name(place)).decode()
    except BrokenImageError as error:
        return Proposed(key, (0, 0), none, str(error))
    height, width = pixels.shape[:2]
    if max(height, width) > LARGEST_SIDE:
        fault = f"{source.name(place)}: a side is longer than {LARGEST_SIDE} pixels"
        return Proposed(key, (0, 0), none, fault)
    boxes = selective_search(pixels, short_side=search.short_side)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= search.min_side]
    # Any rule that keeps the first boxes would prefer the left ones.
    rng = np.random.default_rng([search.seed, *key])
    return Proposed(key, (height, width), rng.permutation(boxes), "")


def make_once(path: str, make: Callable[[], None]) -> None:
    """Make a file if there is none; processes that need it at once wait for the first of them."""
    if not os.path.exists(path):
        with _lock(path):
            if not os.path.exists(path):
                make()


@contextlib.contextmanager
def _lock(path: str) -> Iterator[None]:
    """Wait until no other process makes the same file, and keep others waiting."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        file = open(f"{path}.lock", "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise unwritable(path, error) from None
    with file:
        try:
            # Unlike flock's, this lock is not inherited by workers, which may outlive this process.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            logger.info("waiting for another process that makes %s", path)
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:  # a file system without locks
            logger.warning("cannot lock %s: %s; let one process at a time make it", path, error)
        yield
