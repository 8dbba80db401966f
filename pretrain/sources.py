"""Where encoded images come from, by position: files, or tar shards that need no listing."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import numpy as np
import torch

from mls_d2.core.errors import UserError
from mls_d2.core.files import JSON_FAULTS
from mls_d2.data.images import BrokenImageError, printable, read_file
from mls_d2.scenes import read_marker

SHARDS_FILE = "shards.json"
SHARDS_FORMAT = 1
_OPEN_SHARDS = 64  # of each worker
_INDEX_HEADER, _INDEX_ROW = 128, 16  # bytes of an index


class ImageSource(Protocol):
    """Images that are addressed by position.

    Attributes:
        counts: ``(S,)`` images of each shard; positions run through the shards in order.
        synthetic: whether they are generated scenes.
    """

    counts: np.ndarray
    synthetic: bool

    def digest(self) -> str:
        """Return a hex digest of which images there are, in which order, wherever they lie."""

    def name(self, position: int) -> str:
        """Return the image's name in messages."""

    def read(self, position: int) -> bytes:
        """Return the image's file.

        Raises:
            BrokenImageError: it cannot be read.
        """


class FileSource:
    """Files, as one shard.

    Args:
        paths: of images, in order.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        # One block of memory: a list would be copied into every worker.
        self.paths = np.array(paths)
        self.counts = np.array([len(paths)])
        self.synthetic = is_synthetic(paths[0])

    def digest(self) -> str:
        """Return the digest of the paths without their common prefix."""
        shared = len(os.path.commonprefix([self.name(0), *self.paths[1:]]))
        return _digest(path[shared:] for path in self.paths)

    def name(self, position: int) -> str:
        """Return the path."""
        return str(self.paths[position])

    def read(self, position: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.name(position))


class ShardSource:
    """Tar files with an index, as :mod:`pretrain.packing` writes or indexes them.

    In memory are one count per shard and the offsets of the shards that were read last, for any
    number of images.

    Args:
        folder: holds ``shards.json``, the shards and their indices.

    Raises:
        UserError: no such folder or a damaged index; shards that are missing or cut, by name.
    """

    def __init__(self, folder: str) -> None:
        index = read_shards_file(folder)
        self.folder = Path(folder)
        self._shards = index.shards
        self.names = [name for name, _, _ in self._shards]
        self.counts = np.array([count for _, count, _ in self._shards], dtype=np.int64)
        self.synthetic = index.synthetic
        self._first = np.concatenate([[0], np.cumsum(self.counts)])
        self._open: OrderedDict[int, tuple[int, np.ndarray]] = OrderedDict()
        self._check_sizes()

    def digest(self) -> str:
        """Return the digest of the shards' names, counts and sizes."""
        return _digest(map(str, self._shards))

    def name(self, position: int) -> str:
        """Return ``shard.tar[row]``."""
        shard, row = self._place(position)
        return f"{self.folder / self.names[shard]}[{row}]"

    def read(self, position: int) -> bytes:
        """Return the bytes of one member of a shard."""
        shard, row = self._place(position)
        try:
            file, members = self._opened(shard)
            offset, size = map(int, members[row])
            data = os.pread(file, size, offset)
        except (OSError, ValueError) as error:
            raise BrokenImageError(f"{printable(self.name(position))}: {error}") from None
        if len(data) < size:
            raise BrokenImageError(f"{printable(self.name(position))}: the shard is cut")
        return data

    def _place(self, position: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._first, position, side="right")) - 1
        return shard, position - int(self._first[shard])

    def _opened(self, shard: int) -> tuple[int, np.ndarray]:
        if shard not in self._open:
            path = self.folder / self.names[shard]
            members = self._members(shard)
            self._open[shard] = os.open(path, os.O_RDONLY), members
            if len(self._open) > _OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1][0])
        self._open.move_to_end(shard)
        return self._open[shard]

    def _members(self, shard: int) -> np.ndarray:
        _, count, size = self._shards[shard]
        try:
            members = np.load(index_path(self.folder / self.names[shard]))
        except Exception as error:  # NumPy parses the header as Python.
            raise ValueError(f"its index cannot be read: {error}") from None
        if members.dtype != np.int64 or members.shape != (count, 2):
            raise ValueError(f"its index does not list {count} images")
        if members.min() < 0 or (members[:, 0] > size - members[:, 1]).any():
            raise ValueError("its index points outside of the shard")
        return members

    def _check_sizes(self) -> None:
        wrong = []
        for name, count, size in self._shards:
            path = self.folder / name
            if not (path.is_file() and index_path(path).is_file()):
                wrong.append(f"{name} is missing")
            elif path.stat().st_size != size:
                wrong.append(f"{name} has {path.stat().st_size} of {size} bytes")
            elif index_path(path).stat().st_size != _INDEX_HEADER + _INDEX_ROW * count:
                wrong.append(f"{index_path(path).name} does not list {count} images")
        if wrong:
            raise UserError(
                f"{len(wrong)} of {len(self.names)} shards in '{self.folder}' are missing or cut: "
                f"{'; '.join(wrong[:3])}. Copy them again, or index them again with "
                "tools/pack_shards.py --index",
                code="missing-data",
            )


def index_path(shard: Path) -> Path:
    """Return the path of a shard's index: ``(n, 2)`` int64, offset and size in bytes."""
    return shard.with_suffix(".npy")


ShardName = Annotated[str, msgspec.Meta(pattern=r"^[^\0/]+\.tar$")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]


class ShardsIndex(msgspec.Struct, kw_only=True):
    """The content of ``shards.json``."""

    shards: list[tuple[ShardName, Count, Count]]  # name, number of images and bytes of each shard
    synthetic: bool  # whether the images are generated scenes
    format: int = SHARDS_FORMAT  # of the file


def read_shards_file(folder: str) -> ShardsIndex:
    """Read a folder's ``shards.json``.

    Raises:
        UserError: it is missing, damaged, of another format or lists no image.
    """
    path = os.path.join(folder, SHARDS_FILE)
    try:
        with open(path, "rb") as file:
            index = msgspec.json.decode(file.read(), type=ShardsIndex)
    except OSError as error:
        message = f"'{path}' cannot be read: {error.strerror}"
        raise UserError(message, code="missing-file") from None
    except JSON_FAULTS as error:
        raise UserError(f"'{path}' is no index of shards: {error}", code="damaged-file") from None
    if index.format != SHARDS_FORMAT:
        message = f"'{path}' has format {index.format}, not {SHARDS_FORMAT}"
        raise UserError(message, code="damaged-file")
    if not sum(count for _, count, _ in index.shards):
        raise UserError(f"'{path}' lists no image", code="missing-data")
    return index


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        # Bytes of file names that are no UTF-8 come back as they are on disk.
        digest.update(f"{line}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def is_synthetic(path: str) -> bool:
    """Whether an image lies below a root of generated scenes."""
    return any(read_marker(str(folder)) is not None for folder in Path(path).resolve().parents)


def one_thread(_: int) -> None:
    """Prepare a worker of a loader."""
    # Workers are the parallelism; threads inside them would only fight for the same cores.
    torch.set_num_threads(1)
