"""Packing images into tar shards that are read by position; indexing shards from elsewhere."""

import contextlib
import io
import json
import logging
import os
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
import simplejpeg
from PIL import Image
from tqdm import tqdm

from mls_d2.core.errors import UserError
from mls_d2.core.files import is_empty, write_bytes, writing
from mls_d2.core.workers import worker_map
from mls_d2.data.images import IMAGE_SUFFIXES, BrokenImageError, open_image
from pretrain.sources import SHARDS_FILE, ImageSource, ShardsIndex, index_path

logger = logging.getLogger(__name__)

_PACKING_FILE = "packing.json"
_ADVICE = (
    "if nobody stopped it, memory ran out: repeat the command with fewer --workers, which keeps "
    "the shards that are finished"
)
# Suffixes of members by Pillow's name of the format, if they are not the name itself.
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}


@dataclass(frozen=True)
class Packing:
    """How images are packed."""

    per_shard: int = 1000  # images per shard (>= 1)
    # Pixels to which the shorter side is reduced; 0 keeps files as they are. Images that are
    # smaller are not enlarged.
    short_side: int = 0
    quality: int = 90  # of the JPEGs that are encoded again, in [1, 100]
    seed: int = 0  # of the order, which is random: the loader mixes a few shards at a time only

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("per_shard", self.per_shard >= 1, ">= 1"),
            ("short_side", self.short_side >= 0, ">= 0 pixels"),
            ("quality", 1 <= self.quality <= 100, "in [1, 100]"),
        ):
            if not holds:
                raise UserError(
                    f"{name} must be {expected}, got {getattr(self, name)}", code="bad-value"
                )


def pack(source: ImageSource, folder: str, packing: Packing, *, workers: int = 0) -> int:
    """Write the images of a source into shards, resuming an interrupted earlier call.

    Broken images are left out and named in the log. The result does not depend on ``workers``.

    Args:
        source: what is packed.
        folder: new, empty, or begun with the same source and packing.
        packing: how.
        workers: processes; 0 is this one.

    Returns:
        The number of images packed.

    Raises:
        UserError: the folder holds something else, or cannot be written; a worker was killed.
    """
    length = int(source.counts.sum())
    plan = {"images": length, "first": source.name(0), **asdict(packing)}
    _claim(Path(folder), plan)
    order = np.random.default_rng(packing.seed).permutation(length)
    parts = np.split(order, range(packing.per_shard, length, packing.per_shard))
    shards = [Path(folder) / f"{number:06d}.tar" for number in range(len(parts))]
    tasks = list(zip(shards, parts, strict=True))
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(
            tqdm(total=length, desc="packing", unit="img", smoothing=0.05)
        )
        run = stack.enter_context(worker_map(_Packer(source, packing), workers, advice=_ADVICE))
        for part, broken in zip(parts, run(tasks), strict=True):
            for message in broken:
                logger.warning("left out a broken image: %s", message)
            progress.update(len(part))
    return write_shards_file(folder, shards, synthetic=source.synthetic)


def index_shards(folder: str) -> int:
    """Index all tar files of a folder and return the number of their images.

    Raises:
        UserError: there is none, or one is damaged.
    """
    shards = sorted(Path(folder).glob("*.tar"))
    if not shards:
        raise UserError(f"no tar files in '{folder}'", code="missing-data")
    for shard in tqdm(shards, desc="indexing", unit="shard"):
        _index(shard)
    return write_shards_file(folder, shards, synthetic=False)


def write_shards_file(folder: str, shards: Sequence[Path], *, synthetic: bool) -> int:
    """Write ``shards.json`` for indexed shards and return the number of images.

    Raises:
        UserError: there is none.
    """
    counts = [len(np.load(index_path(shard), mmap_mode="r")) for shard in shards]
    if not sum(counts):
        raise UserError(f"the shards in '{folder}' hold no image", code="missing-data")
    rows = [
        (shard.name, count, shard.stat().st_size)
        for shard, count in zip(shards, counts, strict=True)
    ]
    content = msgspec.json.encode(ShardsIndex(shards=rows, synthetic=synthetic))
    write_bytes(os.path.join(folder, SHARDS_FILE), content)
    return sum(counts)


def _claim(folder: Path, plan: dict) -> None:
    marker = folder / _PACKING_FILE
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if is_empty(folder):
            write_bytes(marker, json.dumps(plan).encode())
    try:
        found = dict(json.loads(marker.read_bytes())) if marker.is_file() else None
    except (OSError, RecursionError, TypeError, ValueError) as error:
        message = f"'{marker}' is damaged: {error}; remove '{folder}', or take another"
        raise UserError(message, code="damaged-file") from None
    if found is None:
        raise UserError(
            f"'{folder}' is not empty and holds no shards of this tool; take another",
            code="foreign-folder",
        )
    changed = [
        f"{key}: {found.get(key)} there, {value} now"
        for key, value in plan.items()
        if found.get(key) != value
    ]
    if changed:
        raise UserError(
            f"'{folder}' was packed differently ({'; '.join(changed)}); take another",
            code="changed-run",
        )


class _Packer:
    """Writes one shard and its index, unless they are there; returns what could not be read."""

    def __init__(self, source: ImageSource, packing: Packing) -> None:
        self.source, self.packing = source, packing

    def __call__(self, task: tuple[Path, np.ndarray]) -> list[str]:
        path, positions = task
        if index_path(path).is_file():
            return []
        broken, partial = [], path.with_suffix(".partial")
        with writing(partial), tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
            for position in map(int, positions):
                try:
                    suffix, data = _encode(self.source, position, self.packing)
                except BrokenImageError as error:
                    broken.append(str(error))
                    continue
                member = tarfile.TarInfo(f"{position:012d}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        os.replace(partial, path)
        _index(path)
        return broken


def _encode(source: ImageSource, position: int, packing: Packing) -> tuple[str, bytes]:
    data = source.read(position)
    image = open_image(data, name=source.name(position))
    if not packing.short_side:
        suffix = _SUFFIXES.get(image.format, f".{image.format.lower()}")
        if suffix not in IMAGE_SUFFIXES:
            raise BrokenImageError(f"{image.name}: {image.format} is no format that shards hold")
        return suffix, data
    shrink = packing.short_side / min(image.height, image.width)
    pixels = image.decode()
    if shrink < 1:
        size = round(image.width * shrink), round(image.height * shrink)
        resized = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        pixels = np.ascontiguousarray(resized)
    try:
        data = simplejpeg.encode_jpeg(pixels, quality=packing.quality, colorsubsampling="420")
    except ValueError as error:  # longer than JPEG allows
        raise BrokenImageError(f"{image.name}: {error}") from None
    return ".jpg", data


def _index(shard: Path) -> None:
    """Write offsets and sizes of the images in a tar file."""
    try:
        with tarfile.open(shard, "r:") as tar:
            rows = [
                (member.offset_data, member.size)
                for member in tar
                if member.isfile() and member.name.lower().endswith(IMAGE_SUFFIXES)
            ]
        with open(shard, "rb") as file:
            file.seek(-tarfile.BLOCKSIZE, os.SEEK_END)
            if any(file.read()):  # tarfile itself takes a cut header for the end
                raise tarfile.ReadError("it has no end")
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"shard '{shard}' is damaged: {error}. Copy it again", code="damaged-file"
        ) from None
    index = io.BytesIO()
    np.save(index, np.array(rows, dtype=np.int64).reshape(-1, 2))
    write_bytes(index_path(shard), index.getvalue())
